"""Containers of Azure Blob Storage, through its asyncio client. The module that owns that SDK.

adlfs, a file system over the same client, is not in between: it offers no conditional reads, and no way to switch off
the client's own retries, with which a refused connection takes 90 s to be told.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from flow_agent.errors import StoreError
from flow_agent.objects import azure_errors, pool
from flow_agent.objects.azure_errors import DEFAULT_SECRET
from flow_agent.objects.base import ANSWER_WITHIN, Facts, Listed, ObjectStore, Received, allowed_for, credentials, sdk
from flow_agent.ports import SecretResolver

T = TypeVar("T")

BLOCK = 1 << 20
"""Bytes of one request of a large transfer; the HTTP client warns of more, since they hold up the event loop."""
NOWHERE = "flow-agent/doctor/not-there"


@asynccontextmanager
async def connect(
    container: str,
    secrets: SecretResolver,
    *,
    connection_string_secret: str | None,
    account_url: str | None,
    client_options: Mapping[str, Any],
    upload_options: Mapping[str, Any],
) -> AsyncIterator[ObjectStore]:
    """The container, with credentials.

    Those of the secret ``connection_string_secret``, else of the secret ``AZURE_STORAGE_CONNECTION_STRING``, else what
    DefaultAzureCredential finds (environment, workload identity, managed identity, command line) for ``account_url``.

    Raises StoreError: the SDK is not there, or there are no credentials. SecretNotFound, SecretUnavailable.
    """
    await sdk("azure.storage.blob.aio", "azure", "Azure storage")
    text, source = await credentials(secrets, connection_string_secret, DEFAULT_SECRET)
    if account_url is not None and connection_string_secret is None:
        text, source = None, ""  # the storage says which account; the default secret may be of another
    digest = hashlib.sha256((text or "").encode()).hexdigest()
    key = ("azure", account_url, repr(sorted(client_options.items())), digest)

    async def open_one() -> tuple[tuple[Any, str], pool.Close]:
        return await _opened(text, source, account_url, client_options)

    async with pool.client(key, open_one) as (service, used):
        yield Container(container, service, used, upload_options)


async def _opened(
    text: str | None, source: str, account_url: str | None, options: Mapping[str, Any]
) -> tuple[tuple[Any, str], pool.Close]:
    from azure.storage.blob.aio import BlobServiceClient  # noqa: PLC0415 - 450 ms and 50 MB that only its users pay

    parts = _parts(text, source) if text is not None else {}
    own: Any = None
    if {"AccountKey", "SharedAccessSignature"}.isdisjoint(parts):
        from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415 - as above

        account_url = _endpoint(parts) if parts else account_url
        if account_url is None:
            raise StoreError(
                f"there are no credentials for Azure: secret {DEFAULT_SECRET} is not there, and the storage names no"
                " account_url for an identity of this machine",
                transient=False,
                hint=f"set the secret {DEFAULT_SECRET}, or give connection_string_secret or account_url",
            )
        own = DefaultAzureCredential()
        source = f"{source + ', ' if source else ''}DefaultAzureCredential"
    given = {"retry_total": 0, "connection_timeout": 10, "read_timeout": 10, **options}
    given |= {"max_single_get_size": BLOCK, "max_chunk_get_size": BLOCK, "max_block_size": BLOCK}
    given |= {"max_single_put_size": BLOCK}
    try:
        if own is None:
            service = BlobServiceClient.from_connection_string(text or "", **given)
        else:
            service = BlobServiceClient(account_url or "", credential=own, **given)
    except (ValueError, TypeError, KeyError):
        # Its text may hold the connection string.
        raise StoreError(
            f"{source} is no connection string that can be used, or client_options do not fit",
            transient=False,
            hint="copy the connection string of the storage account's access keys",
        ) from None

    async def close() -> None:
        await service.close()
        if own is not None:
            await own.close()

    return (service, source), close


def _parts(text: str, source: str) -> dict[str, str]:
    """The parts of a connection string.

    Raises StoreError: it is none; the text is not shown.
    """
    pairs = [part.partition("=") for part in text.strip().strip(";").split(";")]
    parts = {name: value for name, equals, value in pairs if equals and value}
    named = {"AccountName", "BlobEndpoint"}.intersection(parts)
    if len(parts) != len(pairs) or not named or not _is_base64(parts.get("AccountKey", "")):
        raise StoreError(
            f"{source} is no connection string, expected AccountName=...;AccountKey=...;EndpointSuffix=...",
            transient=False,
            hint="copy the connection string of the storage account's access keys",
        )
    return parts


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except ValueError:
        return False
    return True


def _endpoint(parts: Mapping[str, str]) -> str:
    suffix = parts.get("EndpointSuffix", "core.windows.net")
    protocol = parts.get("DefaultEndpointsProtocol", "https")
    return parts.get("BlobEndpoint") or f"{protocol}://{parts['AccountName']}.blob.{suffix}"


class Container(ObjectStore):
    """One container; see :class:`ObjectStore`."""

    def __init__(self, container: str, service: Any, source: str, upload_options: Mapping[str, Any]) -> None:
        self.where = f"azure://{service.account_name or 'account'}/{container}"
        self.credentials = source
        self._container = service.get_container_client(container)
        self._upload = dict(upload_options)

    async def _call(self, what: str, seconds: float, work: Awaitable[T]) -> T:
        try:
            with anyio.fail_after(seconds):
                return await work
        except TimeoutError:
            raise StoreError(f"{what}: no answer within {seconds:.0f} s", transient=True) from None
        except (StoreError, OSError):
            raise
        except Exception as error:
            raise azure_errors.explained(what, error, self.credentials) from error

    async def get(self, key: str, into: Path, *, version: str | None = None, known: str | None = None) -> Facts | None:
        """See :meth:`ObjectStore.get`."""
        from azure.core import MatchConditions  # noqa: PLC0415 - as above

        what = f"{self.where}/{key}"
        answers: list[Any] = []
        wanted: dict[str, Any] = {"max_concurrency": 1, "raw_response_hook": answers.append}
        if version is not None:
            wanted["version_id"] = version
        if known is not None:
            wanted |= {"etag": known, "match_condition": MatchConditions.IfModified}
        blob = self._container.get_blob_client(key)
        try:
            stream = await self._call(what, ANSWER_WITHIN, blob.download_blob(**wanted))
            found = stream.properties
            digest, size = await self._call(what, allowed_for(found.size or 0), self._stream(what, stream, into))
        except StoreError as error:
            if known is not None and getattr(error.__cause__, "status_code", None) == 304:
                return None
            raise
        finally:
            for answer in answers:  # the SDK leaves those that failed to the garbage collector
                answer.http_response.internal_response.release()
        return Facts(version=found.version_id, etag=found.etag, validator=found.etag, size=size, digest=digest)

    @staticmethod
    async def _stream(what: str, stream: Any, into: Path) -> tuple[str, int]:
        found = stream.properties
        if not found.etag or found.size is None:
            raise StoreError(f"{what}: the answer has no ETag or no length; is this Azure?", transient=True)
        md5 = hashlib.md5(usedforsecurity=False)
        with Received(into, what, also=md5) as received:
            async for chunk in stream.chunks():
                await anyio.to_thread.run_sync(received.write, chunk)
            digest = received.digest(found.size)
        expected = found.content_settings.content_md5
        if expected and bytes(expected) != md5.digest():
            raise StoreError(f"{what}: what came does not have the Content-MD5 that the store gives", transient=True)
        return digest, received.size

    async def put(self, key: str, source: Path, *, overwrite: bool = True) -> Facts:
        """See :meth:`ObjectStore.put`."""
        from azure.storage.blob import ContentSettings  # noqa: PLC0415 - as above

        what, size = f"{self.where}/{key}", (await anyio.Path(source).stat()).st_size
        options = dict(self._upload)
        if isinstance(table := options.get("content_settings"), dict):
            options["content_settings"] = ContentSettings(**table)
        digest = await anyio.to_thread.run_sync(_digest, source)
        blob = self._container.get_blob_client(key)
        with source.open("rb") as file:
            work = blob.upload_blob(file, length=size, overwrite=overwrite, max_concurrency=1, **options)
            answer = await self._call(what, allowed_for(size), work)
        etag, version = answer["etag"], answer.get("version_id")
        return Facts(version=version, etag=etag, validator=etag, size=size, digest=digest)

    async def delete(self, key: str, *, version: str | None = None) -> None:
        """See :meth:`ObjectStore.delete`."""
        options = {} if version is None else {"version_id": version}
        blob = self._container.get_blob_client(key)
        try:
            await self._call(f"{self.where}/{key}", ANSWER_WITHIN, blob.delete_blob(**options))
        except StoreError as error:
            if not error.missing:
                raise

    async def keys(self, prefix: str, most: int) -> Sequence[Listed]:
        """See :meth:`ObjectStore.keys`."""

        async def listed() -> list[Listed]:
            found: list[Listed] = []
            async for blob in self._container.list_blobs(name_starts_with=prefix):
                found.append(Listed(blob.name, blob.etag, blob.size))
                if len(found) > most:
                    break
            return found

        return await self._call(f"{self.where}/{prefix}", ANSWER_WITHIN * 3, listed())

    async def check(self, key: str | None = None) -> bool:
        """See :meth:`ObjectStore.check`."""
        blob = self._container.get_blob_client(key or NOWHERE)
        try:
            await self._call(self.where, ANSWER_WITHIN, blob.download_blob(offset=0, length=1))
        except StoreError as error:
            if azure_errors.code(error.__cause__) not in ("BlobNotFound", "InvalidRange"):
                raise
        return True


def _digest(source: Path) -> str:
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
