"""What happens to each run, written down by the database itself: triggers note every change, whoever makes it.

So nothing depends on what agents, servers or this bench believe they did.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

NOTES = """
create table history (
    number bigint generated always as identity primary key,
    kind text not null, run text not null, claim bigint not null, current bigint not null,
    before text, after text not null, attempt bigint not null,
    source text not null default '', seq bigint not null default 0
);

create function note_change() returns trigger language plpgsql as $$ begin
    if tg_op = 'INSERT' then
        insert into history (kind, run, claim, current, after, attempt)
        values ('made', new.id, 0, new.claim, new.state, new.attempt);
    elsif tg_op = 'UPDATE' then
        insert into history (kind, run, claim, current, before, after, attempt)
        values ('changed', new.id, old.claim, new.claim, old.state, new.state, new.attempt);
    else
        insert into history (kind, run, claim, current, before, after, attempt)
        values ('removed', old.id, old.claim, old.claim, old.state, '', old.attempt);
    end if;
    return null;
end $$;
create trigger note after insert or update or delete on runs for each row execute function note_change();

create function note_line() returns trigger language plpgsql as $$ begin
    insert into history (kind, run, claim, current, after, attempt, source, seq)
    select case when new.attempt = attempt or (state = 'claimed' and new.attempt = attempt + 1)
            then 'line' else 'stale line' end,
        id, claim, claim, state, new.attempt, new.source, new.seq
    from runs where serial = new.run;
    return null;
end $$;
create trigger note after insert on logs for each row execute function note_line();

create function note_end() returns trigger language plpgsql as $$ begin
    insert into history (kind, run, claim, current, after, attempt)
    select 'said', id, new.number, claim, state, attempt from runs where id = new.run_id;
    return null;
end $$;
create trigger note after update on claims for each row execute function note_end();
"""
"""``claim`` is the number of the claim that something was written under (of a change: the one before it), ``current``
the run's then. Rows of one run are in the order of its changes, since who changes a run has it locked."""


@dataclass(frozen=True)
class Event:
    """One thing that was written of a run; ``before`` and ``after`` are its states, None before there was one."""

    kind: str
    run: str
    claim: int = 0
    current: int = 0
    before: str | None = None
    after: str = ""
    attempt: int = 0
    source: str = ""
    seq: int = 0


def take_notes(url: str) -> None:
    """From now on, write down what happens in the queue at ``url``."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(NOTES)


def read_notes(url: str) -> list[Event]:
    """All that was written down."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "select kind, run, claim, current, before, after, attempt, source, seq from history order by number"
        ).fetchall()
    return [Event(*row) for row in rows]
