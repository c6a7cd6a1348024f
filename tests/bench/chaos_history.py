"""What happens to each run, written down by the database itself: triggers note every change, whoever makes it.

So nothing depends on what agents, servers or this bench believe they did.

A trigger sees rows, not who wrote them. Four kinds of row name the claim that they were written under, and are noted
with it: the end or release of a claim (``claims.number``), the start of an attempt (``attempts.claim``), the winning of
a claim, and a line of an agent (``agent.N``). The others do not, and are noted with what can be derived:

- A change of a run has its claim and its holder before and after, from which follows whether a new claim was won, and
  whether somebody held the run at all. An extension that is taken under a stale claim while another one holds, and
  leaves all but the time of the lease's end as it was, cannot be told from one under the claim that holds.
- A line of a flow has its attempt. One of an earlier attempt is told, and so is one while nobody held the run; one
  that the holder before wrote of the same attempt, after another had taken it over, is not told from the new holder's.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

NOTES = """
create table history (
    number bigint generated always as identity primary key,
    kind text not null, run text not null, claim bigint not null, current bigint not null,
    before text, after text not null, attempt bigint not null,
    source text not null default '', seq bigint not null default 0, holder text not null default '',
    at double precision not null default extract(epoch from clock_timestamp())
);

create function holder_of(one runs) returns text language sql immutable as $$
    select case when one.lease_until is null then '' else one.agent_id || ' ' || one.incarnation end
$$;

create function note_change() returns trigger language plpgsql as $$ begin
    if tg_op = 'INSERT' then
        insert into history (kind, run, claim, current, after, attempt, holder)
        values ('made', new.id, 0, new.claim, new.state, new.attempt, holder_of(new));
    elsif tg_op = 'UPDATE' then
        insert into history (kind, run, claim, current, before, after, attempt, holder)
        values ('changed', new.id, old.claim, new.claim, old.state, new.state, new.attempt, holder_of(new));
    else
        insert into history (kind, run, claim, current, before, after, attempt)
        values ('removed', old.id, old.claim, old.claim, old.state, '', old.attempt);
    end if;
    return null;
end $$;
create trigger note after insert or update or delete on runs for each row execute function note_change();

create function note_line() returns trigger language plpgsql as $$ begin
    insert into history (kind, run, claim, current, after, attempt, source, seq, holder)
    select case when new.attempt = attempt or (state = 'claimed' and new.attempt = attempt + 1)
            then 'line' else 'stale line' end,
        id, case when new.source like 'agent.%' then substr(new.source, 7)::bigint else claim end, claim, state,
        new.attempt, new.source, new.seq, holder_of(runs)
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

create function note_start() returns trigger language plpgsql as $$ begin
    insert into history (kind, run, claim, current, after, attempt)
    select 'started', id, new.claim, claim, state, new.number from runs where id = new.run_id;
    return null;
end $$;
create trigger note after insert on attempts for each row execute function note_start();

create function note_won() returns trigger language plpgsql as $$ begin
    insert into history (kind, run, claim, current, after, attempt)
    select 'won', id, new.number, claim, state, attempt from runs where id = new.run_id;
    return null;
end $$;
create trigger note_won after insert on claims for each row execute function note_won();
"""
"""``claim`` is the number of the claim that something was written under as far as the row says it (of a change: the
run's before it; of a flow's line: the run's), ``current`` the run's then, ``holder`` who held the run after it (empty:
nobody), ``at`` the time. Rows of one run are in the order of its changes, since who changes a run has it locked."""


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
    holder: str = ""
    at: float = 0.0


def take_notes(url: str) -> None:
    """From now on, write down what happens in the queue at ``url``."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(NOTES)


def read_notes(url: str) -> list[Event]:
    """All that was written down."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "select kind, run, claim, current, before, after, attempt, source, seq, holder, at"
            " from history order by number"
        ).fetchall()
    return [Event(*row) for row in rows]
