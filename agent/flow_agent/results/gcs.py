"""Return values in a bucket of Google Cloud Storage."""
# ruff: noqa: PLC0415 - see storages.base; a flow file imports this module in the attempt too

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from flow_agent.checks import secret_name
from flow_agent.results.base import LOCATION, checked_bucket, checked_texts, plain
from flow_agent.results.objects import ObjectResult

if TYPE_CHECKING:
    from flow_agent.objects.base import ObjectStore
    from flow_agent.ports import SecretResolver

_OPTIONS = ("endpoint_url", "requester_pays", "token")


class GCSResult(ObjectResult):
    """Keeps return values as objects of ``bucket``, at the name ``location``.

    The other arguments are those of the storage ``GCS``. Credentials are the agent's; the flow never has them.
    """

    def __init__(
        self,
        bucket: str,
        location: str = LOCATION,
        *,
        project: str | None = None,
        client_options: dict[str, Any] | None = None,
        upload_options: dict[str, Any] | None = None,
        credentials_secret: str | None = None,
    ) -> None:
        super().__init__(location)
        self.bucket = checked_bucket("GCSResult", bucket)
        self.project = project
        self.client_options = checked_client("GCSResult", client_options)
        self.upload_options = checked_upload("GCSResult", upload_options)
        self.credentials_secret = secret_name(credentials_secret, what="GCSResult: credentials_secret")

    def options(self) -> dict[str, Any]:
        """See :meth:`ObjectResult.options`."""
        return {
            "bucket": self.bucket,
            "project": self.project,
            "client_options": self.client_options,
            "upload_options": self.upload_options,
            "credentials_secret": self.credentials_secret,
        }

    def connect(self, secrets: SecretResolver) -> AbstractAsyncContextManager[ObjectStore]:
        """See :meth:`ObjectResult.connect`."""
        from flow_agent.objects import gcs

        return gcs.connect(secrets=secrets, **self.options())


def checked_client(kind: str, options: object) -> dict[str, Any]:
    """Options for reaching a bucket that can stand in a registration.

    Raises TypeError, ValueError: one is unknown, or a token.
    """
    checked = plain(options, f"{kind}: client_options")
    if unknown := sorted(set(checked).difference(_OPTIONS)):
        raise ValueError(f"{kind}: client_options has {unknown[0]!r}, expected only {', '.join(_OPTIONS)}")
    if checked.get("token", "anon") != "anon":
        raise ValueError(
            f"{kind}: client_options holds a token, which would stand in the registration; keep credentials in a"
            " secret, and name it with credentials_secret; 'anon' asks without any"
        )
    return checked


def checked_upload(kind: str, options: object) -> dict[str, Any]:
    """Options for uploads that can stand in a registration.

    Raises TypeError, ValueError: they are no JSON, or hold what gives access.
    """
    checked = plain(options, f"{kind}: upload_options")
    checked_texts(checked.get("metadata"), f"{kind}: upload_options metadata")
    return checked
