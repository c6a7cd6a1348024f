"""Applying the migrations that a database lacks, while others use it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.rows import DictRow

from flow_agent.errors import QueueError
from flow_agent.queues.migrations import Migration, check_known
from flow_agent.version import __version__

_COLUMNS = {"number", "name", "checksum", "kind", "program", "applied_at"}
_TABLE = """
create table if not exists migrations (
    number bigint primary key, name text not null, checksum text not null,
    kind text not null, program text not null, applied_at double precision not null
)"""
_OURS = """
select table_name, column_name from information_schema.columns
where table_schema = current_schema() and table_name in ('migrations', 'flows', 'runs')
"""
_FORBIDDEN = """
select nspname as name, current_user as who from pg_namespace
where not has_schema_privilege(oid, 'usage') and nspname = any(array(
    select replace(btrim(part, ' "'), '$user', current_user)
    from unnest(string_to_array(current_setting('search_path'), ',')) as part
))
order by nspname limit 1
"""
_LOCK = "select pg_advisory_xact_lock(hashtextextended(current_schema() || '.migrations', 7093))"
LOCK_SHARED = "select pg_advisory_xact_lock_shared(hashtextextended(current_schema() || '.migrations', 7093))"
"""Keeps migrations out until the transaction ends."""
_ADD = """
insert into migrations (number, name, checksum, kind, program, applied_at)
values (%s, %s, %s, %s, %s, %s)
"""


def migrate(connection: psycopg.Connection[DictRow], shown: str, known: Sequence[Migration]) -> list[str]:
    """Apply what the schema lacks, all in one transaction; the names of what was applied.

    Only where something is missing, the lock is taken: openers wait for each other then, and for what is written just
    now by those who know the old tables.

    Raises QueueTooNew, QueueError: it belongs to another program, or there is no schema.
    """
    if not _missing(connection, shown, known):
        return []
    with connection.transaction():
        connection.execute("set local lock_timeout = '20s'")
        connection.execute(_LOCK)
        missing = _missing(connection, shown, known)
        connection.execute(_TABLE)
        for each in missing:
            connection.execute(each.text.encode())
            row = (each.number, each.name, each.checksum, each.kind, __version__, time.time())
            connection.execute(_ADD, row)
    return [each.name for each in missing]


def _missing(connection: psycopg.Connection[DictRow], shown: str, known: Sequence[Migration]) -> list[Migration]:
    schema: Any = connection.execute("select current_schema() as name").fetchone()
    if schema["name"] is None and (hidden := connection.execute(_FORBIDDEN).fetchone()) is not None:
        raise QueueError(
            f"the queue {shown} is in schema {hidden['name']}, which user {hidden['who']!r} may not use",
            hint=f"`grant usage, create on schema {hidden['name']} to {hidden['who']}`, and all on the tables in it",
        )
    if schema["name"] is None:
        raise QueueError(
            f"the queue {shown} has no schema for its tables: none of its search_path exists",
            hint="make one with `create schema`, or give another with ?options=-csearch_path%3DNAME in the URL",
        )
    columns: dict[str, set[str]] = {}
    for row in connection.execute(_OURS):
        columns.setdefault(row["table_name"], set()).add(row["column_name"])
    if not columns:
        return list(known)
    if columns.get("migrations") != _COLUMNS:
        raise QueueError(
            f"the queue {shown} has tables of another program in schema {schema['name']}: {', '.join(sorted(columns))}",
            hint="give the queue a schema of its own, with ?options=-csearch_path%3Dflow_agent in its URL",
        )
    rows = connection.execute("select number, name, checksum, kind, program from migrations order by number")
    applied = check_known(rows, shown, known)
    return [each for each in known if each.number not in applied]
