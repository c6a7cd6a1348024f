"""Accounts of Google Cloud, for its object store and its secrets. The module that owns google-auth."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from threading import Lock
from typing import Any

import anyio
import anyio.to_thread

from flow_agent.errors import StoreError
from flow_agent.objects.base import ANSWER_WITHIN, credentials, sdk
from flow_agent.ports import SecretResolver

DEFAULT_SECRET = "GCP_CREDENTIALS"  # noqa: S105 - its name

_accounts: dict[tuple[str, str], Account] = {}
"""By scope and the digest of the secret: tokens are kept and refreshed by them."""


class Account:
    """Somebody whose tokens can be had; ``project`` is theirs, if they have one."""

    def __init__(self, found: Any, source: str, project: str | None, digest: str) -> None:
        self._found, self._lock = found, Lock()
        self.source, self.project, self.digest = source, project, digest

    async def headers(self, what: str) -> dict[str, str]:
        """What a request needs; the token is renewed before it ends.

        Raises StoreError: there is none to be had; ``what`` is what it was for.
        """
        if not self._found.valid:
            try:
                await anyio.to_thread.run_sync(self._refresh, abandon_on_cancel=True)
            except Exception as error:
                raise self._explained(what, error) from error
        headers: dict[str, str] = {}
        self._found.apply(headers)
        return headers

    def _refresh(self) -> None:
        from google.auth.transport.requests import Request  # noqa: PLC0415 - 200 ms that only its users pay
        from requests import Session  # noqa: PLC0415 - as above

        with self._lock:
            if not self._found.valid:
                with Session() as session:
                    self._found.refresh(partial(Request(session), timeout=ANSWER_WITHIN / 2))

    def forget(self) -> None:
        """The token was refused: the next request asks for another one."""
        self._found.token = None

    def _explained(self, what: str, error: Exception) -> StoreError:
        kinds = {kind.__name__ for kind in type(error).__mro__}
        said = str(error.args[0])[:300] if error.args else type(error).__name__
        again = "TransportError" in kinds or bool(getattr(error, "retryable", False))
        if not again:  # the key may have been changed: the next call looks for it again
            for name in [name for name, each in _accounts.items() if each is self]:
                del _accounts[name]
        return StoreError(
            f"{what}: no token for {self.source}: {said}",
            transient=again,
            hint=None if again else "see that the account and its key are still good, and that the clock is right",
        )


async def account(secrets: SecretResolver, named: str | None, scope: str) -> tuple[Account, str]:
    """Whose credentials to use, and where these are from: the secret ``named``, else ``GCP_CREDENTIALS``, else Google's
    application default credentials (a file, gcloud, the metadata server).

    Raises StoreError: there are none, or they cannot be read. SecretNotFound, SecretUnavailable.
    """
    await sdk("google.auth", "gcp", "Google Cloud")
    text, source = await credentials(secrets, named, DEFAULT_SECRET)
    digest = hashlib.sha256((text or "").encode()).hexdigest()
    if (found := _accounts.get((scope, digest))) is None:
        make = partial(_from_secret, text, source, scope) if text is not None else partial(_default, scope)
        try:
            with anyio.fail_after(ANSWER_WITHIN):
                found = await anyio.to_thread.run_sync(make, digest, abandon_on_cancel=True)
        except TimeoutError:
            raise StoreError(
                f"Google's metadata server gave no answer within {ANSWER_WITHIN:.0f} s", transient=True
            ) from None
        _accounts[scope, digest] = found
    return found, found.source


def _from_secret(text: str, source: str, scope: str, digest: str) -> Account:
    from google.oauth2.service_account import Credentials  # noqa: PLC0415 - as above

    try:
        table = json.loads(text)
        found = Credentials.from_service_account_info(table, scopes=[scope])
    except (ValueError, TypeError, AttributeError, KeyError):
        # The parser's words may hold a part of the key.
        raise StoreError(
            f"{source} is no key of a service account, expected the JSON that Google Cloud gives for one",
            transient=False,
            hint="make a new key of the service account, and keep the whole file as the secret",
        ) from None
    return Account(found, f"{source} ({table.get('client_email')})", table.get("project_id"), digest)


def _default(scope: str, digest: str) -> Account:
    import google.auth  # noqa: PLC0415 - as above
    from google.auth.exceptions import DefaultCredentialsError  # noqa: PLC0415 - as above

    try:
        found, project = google.auth.default(scopes=[scope])
    except DefaultCredentialsError as error:
        raise StoreError(
            f"there are no credentials for Google Cloud: {str(error).partition('. ')[0]}",
            transient=False,
            hint=f"set the secret {DEFAULT_SECRET}, or GOOGLE_APPLICATION_CREDENTIALS, or give this machine an account",
        ) from error
    return Account(found, f"application default credentials ({type(found).__module__})", project, digest)
