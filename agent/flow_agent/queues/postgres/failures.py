"""What PostgreSQL and its client library say, in our words."""

from __future__ import annotations

import re

import psycopg

from flow_agent.errors import FlowAgentError, InvalidInput, QueueError, QueueUnavailable

_PASSING = ("starting up", "shutting down", "recovery", "too many", "not yet accepting", "remaining connection slots")
"""What a server that refuses a connection for a while says; it gives no code then."""
_LASTING: tuple[tuple[str, str], ...] = (
    ("server does not support SSL", "give a server that has TLS, or sslmode=prefer in the URL to go without"),
    ("certificate verify failed", "give the authority's certificate as sslrootcert=FILE in the URL"),
    ("root certificate file", "give the authority's certificate as sslrootcert=FILE in the URL"),
    ("invalid port number", "expected postgresql://USER@HOST:PORT/DATABASE with a port of 1 to 65535"),
    ("invalid integer value", "look at the options in the URL, and at PGPORT and its like in the environment"),
    ("does not match host name", "give the host by a name that stands in the server's certificate"),
    (r"invalid \w+ value: ", "look at the options in the URL, and at PGSSLMODE and its like in the environment"),
)
"""What the library refuses by itself, without a code, as a pattern, and the way out; asking again changes nothing."""
_RIGHTS = "grant this user what it needs: usage and create on the schema, and all on its tables"
_BUSY = "it is asked again; if that lasts, look in pg_stat_activity who holds what others wait for"
_OWN_SCHEMA = "give the queue a schema of its own, with ?options=-csearch_path%3Dflow_agent at the end of its URL"

AGAIN = frozenset({"40001", "40P01"})
"""Codes of a transaction that lost against another one, and wins if it is done again."""
NOT_PREPARED = frozenset({"26000", "42P05"})
"""Codes of a pooler between us and the server that gives each transaction another connection."""

OUTDATED = frozenset({"0A000"})
"""Codes of a statement that was prepared before another program's safe migration gave a table one column more."""

_MEANINGS: tuple[tuple[str, type[FlowAgentError], str, str], ...] = (
    ("40001", QueueUnavailable, "is too busy: {error}", _BUSY),
    ("40P01", QueueUnavailable, "is too busy: {error}", _BUSY),
    ("22003", InvalidInput, "keeps no such number: {error}", "give one that is nearer to zero"),
    ("54", InvalidInput, "keeps nothing so large: {error}", "give something shorter"),
    ("25006", QueueUnavailable, "only reads now: {error}", "it may be a standby; give the URL of the primary"),
    ("42501", QueueError, "forbids what the queue needs: {error}", _RIGHTS),
    ("42P01", QueueError, "has lost tables of the queue: {error}", "restore it from a backup, or drop the others too"),
    ("42", QueueError, "has tables that are not this program's: {error}", _OWN_SCHEMA),
    ("08", QueueUnavailable, "was cut off: {error}", "see that the server runs and can be reached"),
    ("53", QueueUnavailable, "has no room: {error}", "look at the server's disk, memory and max_connections"),
    ("55", QueueUnavailable, "is locked: {error}", "look in pg_stat_activity who holds it"),
    ("57", QueueUnavailable, "was stopped: {error}", "see that the server runs"),
    ("58", QueueUnavailable, "lies on a disk that does not work: {error}", "look at the server's log"),
    ("XX", QueueUnavailable, "has a fault: {error}", "look at the server's log"),
)
"""By the beginning of the code: https://www.postgresql.org/docs/current/errcodes-appendix.html"""


def words(error: psycopg.Error) -> str:
    """What it says, in one line."""
    said = error.diag.message_primary or str(error).strip() or type(error).__name__
    # What libpq asks below tells nothing that the line above does not.
    lines = [line.strip() for line in said.splitlines() if "Is the server running" not in line]
    return lines[-1] if lines else said


def from_postgres(error: psycopg.Error, shown: str, *, reached: bool) -> FlowAgentError:
    """The error to raise for one of psycopg's; ``reached`` is whether the server has ever let us in."""
    code, said = error.sqlstate or "", words(error)
    for beginning, error_class, what, hint in _MEANINGS:
        if code.startswith(beginning):
            return error_class(f"the queue {shown} {what.format(error=said)}", hint=hint)
    if code:
        return QueueError(f"the queue {shown} refuses: {said}", hint="look at the server's log")
    if isinstance(error, psycopg.OperationalError):
        refused = "FATAL:" in said and not any(each in said for each in _PASSING)
        if refused and not reached:
            return QueueError(
                f"the queue {shown} lets nobody in so: {said.partition('FATAL:')[2].strip()}",
                hint="look at user, database and password in FLOW_AGENT_QUEUE, PGPASSWORD or ~/.pgpass",
            )
        if not reached and (lasting := _lasting(str(error))) is not None:
            return QueueError(f"the queue {shown} cannot be asked so: {lasting[0]}", hint=lasting[1])
        return QueueUnavailable(
            f"the queue {shown} cannot be reached: {said}", hint="see that the server runs and can be reached"
        )
    return QueueError(f"the queue {shown} refuses: {said}", hint="look at the server's log")


def _lasting(said: str) -> tuple[str, str] | None:
    """The line of it that tells of what will be so the next time, too, and the way out; others may stand around it."""
    for line in said.splitlines():
        for pattern, hint in _LASTING:
            if re.search(pattern, line):
                return line.strip(), hint
    return None


def no_answer(shown: str, seconds: float) -> QueueUnavailable:
    """Nothing came for so long."""
    return QueueUnavailable(
        f"the queue {shown} did not answer for {seconds:g} seconds", hint="see that the server runs and can be reached"
    )
