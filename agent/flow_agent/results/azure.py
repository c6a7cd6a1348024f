"""Return values in a container of Azure Blob Storage."""
# ruff: noqa: PLC0415 - see storages.base; a flow file imports this module in the attempt too

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flow_agent.checks import secret_name
from flow_agent.results.base import LOCATION, checked_bucket, checked_texts, plain
from flow_agent.results.objects import ObjectResult

if TYPE_CHECKING:
    from flow_agent.objects.base import ObjectStore
    from flow_agent.ports import SecretResolver

_OPTIONS = (
    *("api_version", "audience", "connection_timeout", "connection_verify", "proxies", "read_timeout"),
    *("secondary_hostname", "use_env_settings", "user_agent"),
)
"""Of the arguments of the SDK's service client, those that say how the account is reached, and not with what."""
_UPLOAD = ("content_settings", "encryption_scope", "metadata", "standard_blob_tier", "tags", "timeout")
_CLOUDS = (".core.windows.net", ".core.chinacloudapi.cn", ".core.usgovcloudapi.net", ".storage.azure.net")


class AzureResult(ObjectResult):
    """Keeps return values as blobs of ``container``, at the name ``location``.

    The other arguments are those of the storage ``Azure``. Credentials are the agent's; the flow never has them.
    """

    def __init__(
        self,
        container: str,
        connection_string_secret: str | None = None,
        location: str = LOCATION,
        *,
        account_url: str | None = None,
        client_options: dict[str, Any] | None = None,
        upload_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(location)
        self.container = checked_bucket("AzureResult", container)
        self.connection_string_secret = secret_name(
            connection_string_secret, what="AzureResult: connection_string_secret"
        )
        self.account_url = checked_account("AzureResult", account_url)
        self.client_options = checked_client("AzureResult", client_options)
        self.upload_options = checked_upload("AzureResult", upload_options)

    def options(self) -> dict[str, Any]:
        """See :meth:`ObjectResult.options`."""
        return {
            "container": self.container,
            "connection_string_secret": self.connection_string_secret,
            "account_url": self.account_url,
            "client_options": self.client_options,
            "upload_options": self.upload_options,
        }

    def connect(self, secrets: SecretResolver) -> AbstractAsyncContextManager[ObjectStore]:
        """See :meth:`ObjectResult.connect`."""
        from flow_agent.objects import azure

        return azure.connect(secrets=secrets, **self.options())


def checked_client(kind: str, options: object) -> dict[str, Any]:
    """Options for reaching a container that can stand in a registration.

    Raises TypeError, ValueError: one is not known as such.
    """
    return _known(plain(options, f"{kind}: client_options"), _OPTIONS, f"{kind}: client_options")


def checked_upload(kind: str, options: object) -> dict[str, Any]:
    """Options for uploads that can stand in a registration.

    Raises TypeError, ValueError: one is not known as such.
    """
    found = _known(plain(options, f"{kind}: upload_options"), _UPLOAD, f"{kind}: upload_options")
    for name in ("metadata", "tags"):
        checked_texts(found.get(name), f"{kind}: upload_options {name}")
    return found


def _known(options: dict[str, Any], names: tuple[str, ...], what: str) -> dict[str, Any]:
    if unknown := sorted(set(options).difference(names)):
        raise ValueError(
            f"{what} has {unknown[0]!r}, expected only {', '.join(names)}; credentials belong into a secret"
            " (connection_string_secret)"
        )
    return options


def checked_account(kind: str, url: str | None) -> str | None:
    """The URL of a storage account that an identity of the agent's machine may be shown to.

    Raises ValueError: it is none of Azure's, or holds a signature.
    """
    if url is None:
        return None
    parts = urlsplit(url)
    if parts.query or parts.password:
        raise ValueError(
            f"{kind}: account_url holds a signature or a password, which would stand in the registration;"
            " keep a connection string in a secret, and name it with connection_string_secret"
        )
    if parts.scheme != "https" or not (parts.hostname or "").endswith(_CLOUDS):
        raise ValueError(
            f"{kind}: account_url is {url!r}, expected https://ACCOUNT.blob.core.windows.net; an account elsewhere is"
            " reached by a connection string in a secret (connection_string_secret)"
        )
    return url
