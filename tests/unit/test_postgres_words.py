"""URLs of PostgreSQL that are none, and what its library says, without a server."""

from __future__ import annotations

import psycopg
import pytest

from flow_agent import operations
from flow_agent.errors import InvalidInput, QueueError, QueueUnavailable
from flow_agent.queues.postgres import failures
from flow_agent.queues.postgres.connection import Database


@pytest.mark.parametrize("password", ["one@s3cret", "one/s3cret", "one@two/s3cret"])
def test_a_password_that_ends_itself_is_refused_and_not_told(password: str) -> None:
    with pytest.raises(InvalidInput, match="ends them") as caught:
        Database(f"postgresql://me:{password}@127.0.0.1:1/db", [])
    assert "%40 for @" in str(caught.value.hint)
    assert "s3cret" not in f"{caught.value}{caught.value.hint}"


def test_another_name_of_the_scheme_says_which_is_ours() -> None:
    with pytest.raises(InvalidInput, match="has the scheme postgres") as caught:
        operations.open_queue("postgres://me:s3cret@host/db")
    assert "postgresql://" in str(caught.value.hint)
    assert "s3cret" not in str(caught.value)


def test_nobody_at_the_port_is_told_as_such() -> None:
    said = (
        'connection to server at "127.0.0.1", port 1 failed: Connection refused\n'
        "\tIs the server running on that host and accepting TCP/IP connections?"
    )
    error = failures.from_postgres(psycopg.OperationalError(said), "postgresql://host/db", reached=False)
    assert "Connection refused" in str(error)
    assert "Is the server running" not in str(error)


@pytest.mark.parametrize(
    ("said", "told", "way"),
    [
        (
            'connection to server at "h", port 1 failed: root certificate file "/ca.pem" does not exist\n'
            "Either provide the file, or change sslmode to disable server certificate verification.",
            'root certificate file "/ca.pem" does not exist',
            "sslrootcert=FILE",
        ),
        ("connection failed: SSL error: certificate verify failed", "certificate verify failed", "sslrootcert=FILE"),
        ('invalid target_session_attrs value: "x"', "invalid target_session_attrs value", "options in the URL"),
    ],
)
def test_what_asking_again_does_not_change_is_no_outage(said: str, told: str, way: str) -> None:
    error = failures.from_postgres(psycopg.OperationalError(said), "postgresql://host/db", reached=False)
    assert type(error) is QueueError
    assert told in str(error)
    assert way in str(error.hint)
    # Whom the server has let in before, it may let in again.
    later = failures.from_postgres(psycopg.OperationalError(said), "postgresql://host/db", reached=True)
    assert type(later) is QueueUnavailable
