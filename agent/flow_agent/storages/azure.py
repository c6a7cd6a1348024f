"""Flows in a container of Azure Blob Storage."""
# ruff: noqa: PLC0415 - see storages.base; a flow file imports this module in the attempt too

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from flow_agent.checks import secret_name
from flow_agent.results.azure import AzureResult, checked_account, checked_client, checked_upload
from flow_agent.results.base import checked_bucket
from flow_agent.storages.objects import ObjectStorage

if TYPE_CHECKING:
    from flow_agent.flow import Described
    from flow_agent.model import Json
    from flow_agent.objects.base import ObjectStore
    from flow_agent.ports import SecretResolver


class Azure(ObjectStorage):
    """Keeps each flow as a blob of ``container``, under ``<flow's name as a slug>/<time>`` unless ``blob_name`` says
    another.

    Credentials are the connection string in the secret ``connection_string_secret``, else in the secret
    ``AZURE_STORAGE_CONNECTION_STRING``, else an identity of the machine (DefaultAzureCredential), for which
    ``account_url`` or a connection string without a key says where. ``overwrite`` replaces a blob of that name.
    ``client_options`` are arguments of the SDK's service client, ``upload_options`` those of an upload
    (``content_settings`` as a table, ``metadata``, ``standard_blob_tier``). The other arguments are those of
    ``ObjectStorage``.

    Raises TypeError, ValueError: the arguments do not fit each other.
    """

    default_label = "azure-flow-storage"
    key_name = "blob_name"

    def __init__(
        self,
        container: str,
        connection_string_secret: str | None = None,
        blob_name: str | None = None,
        overwrite: bool = False,
        stored_as_script: bool = False,
        *,
        account_url: str | None = None,
        local_script_path: str | os.PathLike[str] | None = None,
        root: str | os.PathLike[str] | None = None,
        prefix: str | None = None,
        client_options: dict[str, Any] | None = None,
        upload_options: dict[str, Any] | None = None,
        pin: bool = False,
        labels: Iterable[str] | None = None,
        add_default_labels: bool = True,
        secrets: Iterable[str] | None = None,
        result: Described | None = None,
    ) -> None:
        super().__init__(
            key=blob_name,
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
        self.container = checked_bucket("Azure", container)
        self.connection_string_secret = secret_name(connection_string_secret, what="Azure: connection_string_secret")
        self.account_url = checked_account("Azure", account_url)
        self.client_options = checked_client("Azure", client_options)
        self.upload_options = checked_upload("Azure", upload_options)

    @property
    def result(self) -> Described:
        """The same container."""
        return self._result or AzureResult(**self.bucket_options())

    def bucket_options(self) -> dict[str, Json]:
        """See :meth:`ObjectStorage.bucket_options`."""
        return {
            "container": self.container,
            "connection_string_secret": self.connection_string_secret,
            "account_url": self.account_url,
            "client_options": self.client_options,
            "upload_options": self.upload_options,
        }

    def connect(self, secrets: SecretResolver) -> AbstractAsyncContextManager[ObjectStore]:
        """See :meth:`ObjectStorage.connect`."""
        from flow_agent.objects import azure

        return azure.connect(secrets=secrets, **self.bucket_options())
