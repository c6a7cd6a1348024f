"""Flows in a bucket of S3, or of what speaks its protocol."""
# ruff: noqa: PLC0415 - see storages.base; a flow file imports this module in the attempt too

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from flow_agent.checks import secret_name
from flow_agent.results.base import checked_bucket
from flow_agent.results.s3 import S3Result, checked_client, checked_upload
from flow_agent.storages.objects import ObjectStorage

if TYPE_CHECKING:
    from flow_agent.flow import Described
    from flow_agent.model import Json
    from flow_agent.objects.base import ObjectStore
    from flow_agent.ports import SecretResolver


class S3(ObjectStorage):
    """Keeps each flow as an object of ``bucket``, under ``<flow's name as a slug>/<time>`` unless ``key`` says another.

    ``client_options`` are arguments of ``boto3.client`` (``endpoint_url``, ``region_name``, ``verify``, ``config`` as a
    table), ``upload_options`` those of an upload (``ServerSideEncryption``, ``SSEKMSKeyId``, ``RequestPayer``,
    ``StorageClass``). Neither may hold credentials: ``credentials_secret`` names a secret that does, as JSON with
    ``ACCESS_KEY``, ``SECRET_ACCESS_KEY`` and perhaps ``SESSION_TOKEN``; without it the secret ``AWS_CREDENTIALS`` is
    used if there is one, else what boto3 finds. The other arguments are those of ``ObjectStorage``.

    Raises TypeError, ValueError: the arguments do not fit each other.
    """

    default_label = "s3-flow-storage"

    def __init__(  # noqa: PLR0917 - the order of the older system
        self,
        bucket: str,
        key: str | None = None,
        stored_as_script: bool = False,
        local_script_path: str | os.PathLike[str] | None = None,
        client_options: dict[str, Any] | None = None,
        upload_options: dict[str, Any] | None = None,
        *,
        root: str | os.PathLike[str] | None = None,
        prefix: str | None = None,
        credentials_secret: str | None = None,
        overwrite: bool = True,
        pin: bool = False,
        labels: Iterable[str] | None = None,
        add_default_labels: bool = True,
        secrets: Iterable[str] | None = None,
        result: Described | None = None,
    ) -> None:
        super().__init__(
            key=key,
            stored_as_script=stored_as_script,
            local_script_path=local_script_path,
            root=root,
            prefix=prefix,
            overwrite=overwrite,
            pin=pin,
            labels=labels,
            add_default_labels=add_default_labels,
            secrets=secrets,
            result=result,
        )
        self.bucket = checked_bucket("S3", bucket)
        self.client_options = checked_client("S3", client_options)
        self.upload_options = checked_upload("S3", upload_options)
        self.credentials_secret = secret_name(credentials_secret, what="S3: credentials_secret")

    @property
    def result(self) -> Described:
        """The same bucket."""
        return self._result or S3Result(**self.bucket_options())

    def bucket_options(self) -> dict[str, Json]:
        """See :meth:`ObjectStorage.bucket_options`."""
        return {
            "bucket": self.bucket,
            "client_options": self.client_options,
            "upload_options": self.upload_options,
            "credentials_secret": self.credentials_secret,
        }

    def connect(self, secrets: SecretResolver) -> AbstractAsyncContextManager[ObjectStore]:
        """See :meth:`ObjectStorage.connect`."""
        from flow_agent.objects import s3

        return s3.connect(secrets=secrets, **self.bucket_options())
