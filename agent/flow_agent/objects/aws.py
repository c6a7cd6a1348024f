"""Clients of AWS, with their credentials and threads. The module that owns boto3.

What is set here rather than left to boto3, and why: no retries of its own (there is one place that retries), and time
limits on every call (its read time-out is per read, a store that drips never meets it).
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from flow_agent.errors import StoreError
from flow_agent.objects import aws_errors, pool
from flow_agent.objects.base import credentials as found_credentials
from flow_agent.objects.base import sdk
from flow_agent.ports import SecretResolver
from flow_agent.redact import known as redacted

T = TypeVar("T")

DEFAULT_SECRET = "AWS_CREDENTIALS"  # noqa: S105 - its name
AT_ONCE = 16
"""Calls of one client at a time, each in a thread: a slow bucket does not take the threads of another."""

_making = threading.Lock()
_sessions: dict[str, Any] = {}
"""By the digest of their credentials: a session costs 12 MB, and finds and refreshes credentials itself."""
_expired: dict[object, float] = {}


@dataclass
class AwsClient:
    """A client of one service of AWS with its threads; ``credentials`` says where these are from, for people."""

    sdk: Any
    key: tuple[str, ...]
    credentials: str
    threads: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(AT_ONCE))
    started: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(math.inf))

    async def call(self, what: str, seconds: float, work: Callable[[], T]) -> T:
        """What ``work`` gives, in a thread.

        Raises StoreError: it fails, or takes longer than ``seconds`` once it has a thread; ``what`` names it.
        """
        try:
            async with self.threads:
                with anyio.fail_after(seconds):
                    return await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self.started)
        except TimeoutError:
            raise StoreError(f"{what}: no answer within {seconds:.0f} s", transient=True) from None
        except StoreError:
            raise
        except Exception as error:
            # Time-outs and refused certificates of botocore are OSErrors too; those of the disk stay what they are.
            if isinstance(error, OSError) and not aws_errors.is_of_sdk(error):
                raise
            raise self._explained(what, error) from error

    def _explained(self, what: str, error: Exception) -> StoreError:
        again = True
        if aws_errors.is_stale(error):  # somebody may have changed them: the next call looks for them again
            pool.drop(self.key)
            _sessions.pop(self.key[-1], None)
        if aws_errors.is_expired(error):
            now = time.monotonic()
            again = now - _expired.get(self.key, -1e9) > 60
            _expired[self.key] = now
        return aws_errors.explained(what, error, self.credentials, again=again)


@asynccontextmanager
async def aws_client(
    service: str, options: Mapping[str, Any], secrets: SecretResolver, named: str | None = None, needs: str = "S3"
) -> AsyncIterator[AwsClient]:
    """A client of ``service``; ``options`` are those of ``boto3.client``, with ``config`` as a table.

    Credentials: the secret ``named``, else ``AWS_CREDENTIALS``, else what boto3 finds.

    Raises StoreError: boto3 is not there, or does not take the options. SecretNotFound, SecretUnavailable.
    """
    await sdk("boto3", "aws", needs)
    text, source = await found_credentials(secrets, named, DEFAULT_SECRET)
    digest = hashlib.sha256((text or "").encode()).hexdigest()
    key = (service, json.dumps(dict(options), sort_keys=True), digest)

    async def open_one() -> tuple[AwsClient, pool.Close]:
        made = await anyio.to_thread.run_sync(partial(_made, service, options, text, source, key))
        return made, partial(anyio.to_thread.run_sync, made.sdk.close)

    async with pool.client(key, open_one) as client:
        yield client


def _made(service: str, options: Mapping[str, Any], text: str | None, source: str, key: tuple[str, ...]) -> AwsClient:
    import boto3  # noqa: PLC0415 - 300 ms and 40 MB that only its users pay
    from botocore.config import Config  # noqa: PLC0415 - as above

    given = dict(options)
    ours: dict[str, Any] = {
        "connect_timeout": 10,
        "read_timeout": 10,
        "retries": {"mode": "standard", "total_max_attempts": 1},
        "max_pool_connections": AT_ONCE,
    }
    if given.get("endpoint_url"):
        # What others offer as S3 knows the older checksums only.
        ours |= {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
    keys = _keys(text, source)
    with _making:  # sessions are not made for threads
        try:
            session = _sessions.get(key[-1]) or boto3.session.Session(**keys)
            _sessions[key[-1]] = session
            while len(_sessions) > pool.MOST:  # credentials that are renewed each hour would fill the memory
                del _sessions[next(iter(_sessions))]
            given["config"] = Config(**{**ours, **(given.get("config") or {})})
            client = session.client(service, **given)
            if not source:
                source = _own(session)
        except Exception as error:
            raise aws_errors.explained(f"making a client of {service}", error, source) from error
    return AwsClient(client, key, source)


def _own(session: Any) -> str:
    """Where boto3 has its credentials from, for people; errors of the SDK quote what it sends."""
    found = session.get_credentials()
    if found is None:
        return "none"
    held = found.get_frozen_credentials()
    for value in (held.secret_key, held.token):
        if value:
            redacted.add(value)
    return f"boto3: {found.method}"


def _keys(text: str | None, source: str) -> dict[str, str | None]:
    """The arguments of a session for the credentials of a secret.

    Raises StoreError: it is no JSON table with the keys that it needs.
    """
    if text is None:
        return {}
    expected = (
        'expected JSON such as {"ACCESS_KEY": "...", "SECRET_ACCESS_KEY": "..."}, with SESSION_TOKEN if it has one'
    )
    try:
        table = json.loads(text)
    except ValueError:
        raise StoreError(f"{source} is no JSON, {expected}", transient=False) from None
    if not isinstance(table, dict):
        raise StoreError(f"{source} is no table, {expected}", transient=False)
    for name in ("ACCESS_KEY", "SECRET_ACCESS_KEY"):
        if not isinstance(table.get(name), str) or not table[name]:
            raise StoreError(f"{source} has no {name}, {expected}", transient=False)
    return {
        "aws_access_key_id": table["ACCESS_KEY"],
        "aws_secret_access_key": table["SECRET_ACCESS_KEY"],
        "aws_session_token": table.get("SESSION_TOKEN"),
    }
