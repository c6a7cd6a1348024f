"""Flows in a bucket of Google Cloud Storage."""
# ruff: noqa: PLC0415 - see storages.base; a flow file imports this module in the attempt too

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from flow_agent.checks import secret_name
from flow_agent.results.base import checked_bucket
from flow_agent.results.gcs import GCSResult, checked_client, checked_upload
from flow_agent.storages.objects import ObjectStorage

if TYPE_CHECKING:
    from flow_agent.flow import Described
    from flow_agent.model import Json
    from flow_agent.objects.base import ObjectStore
    from flow_agent.ports import SecretResolver


class GCS(ObjectStorage):
    """Keeps each flow as an object of ``bucket``, under ``<flow's name as a slug>/<time>`` unless ``key`` says another.

    ``project`` pays where the reader does; otherwise it is the account's own. ``client_options`` are ``endpoint_url``,
    ``requester_pays`` (True, or a project) and ``token`` (``anon``: ask without credentials). ``upload_options`` are
    facts of the object (``contentType``, ``metadata``, ``storageClass``), ``kmsKeyName`` and ``predefinedAcl``.
    ``credentials_secret`` names a secret that holds the key of a service account; without it the secret
    ``GCP_CREDENTIALS`` is used if there is one, else Google's application default credentials. The other arguments are
    those of ``ObjectStorage``.

    Raises TypeError, ValueError: the arguments do not fit each other.
    """

    default_label = "gcs-flow-storage"

    def __init__(
        self,
        bucket: str,
        key: str | None = None,
        project: str | None = None,
        stored_as_script: bool = False,
        local_script_path: str | os.PathLike[str] | None = None,
        *,
        root: str | os.PathLike[str] | None = None,
        prefix: str | None = None,
        client_options: dict[str, Any] | None = None,
        upload_options: dict[str, Any] | None = None,
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
        self.bucket = checked_bucket("GCS", bucket)
        self.project = project
        self.client_options = checked_client("GCS", client_options)
        self.upload_options = checked_upload("GCS", upload_options)
        self.credentials_secret = secret_name(credentials_secret, what="GCS: credentials_secret")

    @property
    def result(self) -> Described:
        """The same bucket."""
        return self._result or GCSResult(**self.bucket_options())

    def bucket_options(self) -> dict[str, Json]:
        """See :meth:`ObjectStorage.bucket_options`."""
        return {
            "bucket": self.bucket,
            "project": self.project,
            "client_options": self.client_options,
            "upload_options": self.upload_options,
            "credentials_secret": self.credentials_secret,
        }

    def connect(self, secrets: SecretResolver) -> AbstractAsyncContextManager[ObjectStore]:
        """See :meth:`ObjectStorage.connect`."""
        from flow_agent.objects import gcs

        return gcs.connect(secrets=secrets, **self.bucket_options())
