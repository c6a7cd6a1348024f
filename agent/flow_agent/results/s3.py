"""Return values in a bucket of S3, or of what speaks its protocol."""
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

_SECRET = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
_CUSTOMER = ("SSECustomerKey", "SSECustomerKeyMD5", "SSECustomerAlgorithm")


class S3Result(ObjectResult):
    """Keeps return values as objects of ``bucket``, at the key ``location``.

    The other arguments are those of the storage ``S3``. Credentials are the agent's; the flow never has them.
    """

    def __init__(
        self,
        bucket: str,
        location: str = LOCATION,
        *,
        client_options: dict[str, Any] | None = None,
        upload_options: dict[str, Any] | None = None,
        credentials_secret: str | None = None,
    ) -> None:
        super().__init__(location)
        self.bucket = checked_bucket("S3Result", bucket)
        self.client_options = checked_client("S3Result", client_options)
        self.upload_options = checked_upload("S3Result", upload_options)
        self.credentials_secret = secret_name(credentials_secret, what="S3Result: credentials_secret")

    def options(self) -> dict[str, Any]:
        """See :meth:`ObjectResult.options`."""
        return {
            "bucket": self.bucket,
            "client_options": self.client_options,
            "upload_options": self.upload_options,
            "credentials_secret": self.credentials_secret,
        }

    def connect(self, secrets: SecretResolver) -> AbstractAsyncContextManager[ObjectStore]:
        """See :meth:`ObjectResult.connect`."""
        from flow_agent.objects import s3

        return s3.connect(secrets=secrets, **self.options())


def checked_client(kind: str, options: object) -> dict[str, Any]:
    """Options for boto3.client that can stand in a registration.

    Raises TypeError, ValueError: they are no JSON, or hold credentials.
    """
    checked = plain(options, f"{kind}: client_options")
    if held := next((name for name in _SECRET if name in checked), None):
        raise ValueError(
            f"{kind}: client_options holds {held}: credentials would stand in the registration; keep them in a secret,"
            " and name it with credentials_secret, or call it AWS_CREDENTIALS"
        )
    return checked


def checked_upload(kind: str, options: object) -> dict[str, Any]:
    """Options for uploads that can stand in a registration.

    Raises TypeError, ValueError: they are no JSON, or hold an encryption key.
    """
    checked = plain(options, f"{kind}: upload_options")
    if held := next((name for name in _CUSTOMER if name in checked), None):
        raise ValueError(
            f"{kind}: upload_options holds {held}: the key would stand in the registration; use a key that S3 or KMS"
            " keeps (ServerSideEncryption)"
        )
    checked_texts(checked.get("Metadata"), f"{kind}: upload_options Metadata")
    return checked
