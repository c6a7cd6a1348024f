"""Tokens for git hosts: which secret is used, and that a default one goes to its own host only."""

from __future__ import annotations

from base64 import b64encode
from urllib.parse import urlsplit

from flow_agent.errors import SecretNotFound
from flow_agent.ports import SecretResolver

NONE = "none"


async def token(
    secrets: SecretResolver, named: str | None, default: str, address: str, *, own: bool
) -> tuple[str | None, str]:
    """The token for ``address`` and where it is from, for people: the secret ``named``, else the ``default`` one.

    The default one goes only where it is made for (``own``), and to hosts that the settings name: who registers a flow
    could name an address that collects it.

    Raises SecretNotFound: the named one is nowhere. SecretUnavailable: a provider did not answer.
    """
    if named is not None:
        return _clean(await secrets.get(named)), f"secret {named}"
    host = urlsplit(address).hostname or ""
    if not own and host not in getattr(secrets, "hosts", ()):
        return (
            None,
            f"{NONE} (secret {default} is not sent to {host}; name a secret on the storage, or set secrets.hosts)",
        )
    try:
        return _clean(await secrets.get(default)), f"secret {default}"
    except SecretNotFound:
        return None, NONE


async def user_or_token(
    secrets: SecretResolver, named: str | None, user: tuple[str | None, str | None]
) -> tuple[dict[str, str], str]:
    """Headers for Bitbucket Cloud, and where they are from, for people.

    Raises SecretNotFound, SecretUnavailable: as ``token``.
    """
    if named is not None:
        return {"Authorization": f"Bearer {_clean(await secrets.get(named))}"}, f"secret {named}"
    if user[0] is not None and user[1] is not None:
        return _basic(await secrets.get(user[0]), await secrets.get(user[1])), f"secrets {user[0]}, {user[1]}"
    names = ("BITBUCKET_CLOUD_USERNAME", "BITBUCKET_CLOUD_APP_PASSWORD")
    try:
        return _basic(await secrets.get(names[0]), await secrets.get(names[1])), f"secrets {', '.join(names)}"
    except SecretNotFound:
        pass
    try:
        found = await secrets.get("BITBUCKET_ACCESS_TOKEN")
    except SecretNotFound:
        return {}, NONE
    return {"Authorization": f"Bearer {_clean(found)}"}, "secret BITBUCKET_ACCESS_TOKEN"


def _basic(user: str, password: str) -> dict[str, str]:
    from flow_agent.redact import known  # noqa: PLC0415 - what is sent is another text than either secret

    pair = b64encode(f"{_clean(user)}:{_clean(password)}".encode()).decode()
    known.add(pair)
    return {"Authorization": f"Basic {pair}"}


def _clean(value: str) -> str:
    """A header takes no line end, which files of secrets often have."""
    return value.strip()
