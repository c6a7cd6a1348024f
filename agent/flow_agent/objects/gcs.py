"""Buckets of Google Cloud Storage, by its JSON API, through the session of gcsfs. The module that owns gcsfs.

gcsfs itself holds whole objects, retries for half a minute, and asks without credentials where it finds none: so only
its session is used, the credentials are made here, and what it does not offer (generations, conditions) is asked for
directly.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import anyio.to_thread

from flow_agent.errors import StoreError
from flow_agent.objects import gcs_errors, google, pool
from flow_agent.objects.base import ANSWER_WITHIN, CHUNK, Facts, Listed, ObjectStore, Received, allowed_for, sdk
from flow_agent.ports import SecretResolver

SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
PUBLIC = "https://storage.googleapis.com"
PART = 8 << 20
"""Bytes of one request of an upload; a multiple of 256 KiB, as the API wants it."""
NOWHERE = "flow-agent/doctor/not-there"


@dataclass
class _Client:
    """A session with its credentials (None: anonymous); ``owner`` would close it when it goes."""

    session: Any
    owner: Any
    location: str
    account: google.Account | None
    source: str
    refused: float = -1e9


@asynccontextmanager
async def connect(
    bucket: str,
    secrets: SecretResolver,
    *,
    project: str | None,
    client_options: Mapping[str, Any],
    upload_options: Mapping[str, Any],
    credentials_secret: str | None,
) -> AsyncIterator[ObjectStore]:
    """The bucket, with credentials: those of ``google.account``, or none where ``token`` is ``anon``.

    Another ``endpoint_url`` gets those of ``credentials_secret`` only: whoever registers a flow could name an address
    that collects the agent's own.

    Raises StoreError: gcsfs is not there, or there are no credentials. SecretNotFound, SecretUnavailable.
    """
    os.environ.setdefault(
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false"
    )  # read at import; it asks by gRPC for each bucket
    gcsfs = await sdk("gcsfs", "gcp", "GCS")
    location = client_options.get("endpoint_url") or os.environ.get("STORAGE_EMULATOR_HOST") or PUBLIC
    account, source = None, "none (anonymous)"
    if client_options.get("token") != "anon":
        if client_options.get("endpoint_url") and credentials_secret is None:
            raise StoreError(
                f"gs://{bucket}: the agent's own credentials are not sent to {location}",
                transient=False,
                hint="name a secret with credentials_secret, or ask without: client_options={'token': 'anon'}",
            )
        account, source = await google.account(secrets, credentials_secret, SCOPE)
    key = ("gcs", location, source, account.digest if account else "")

    async def open_one() -> tuple[_Client, pool.Close]:
        fs = gcsfs.GCSFileSystem(
            token="anon",  # noqa: S106 - the headers are ours
            asynchronous=True,
            skip_instance_cache=True,
            use_listings_cache=False,
            session_kwargs={"trust_env": True},
        )
        session = await fs._set_session()
        return _Client(session, fs, location.rstrip("/"), account, source), session.close

    async with pool.client(key, open_one) as client:
        yield Bucket(bucket, client, client_options.get("requester_pays"), project, upload_options)


class Bucket(ObjectStore):
    """One bucket; see :class:`ObjectStore`."""

    def __init__(
        self,
        bucket: str,
        client: _Client,
        payer: str | bool | None,
        project: str | None,
        upload_options: Mapping[str, Any],
    ) -> None:
        self.where = f"gs://{bucket}"
        self.credentials = client.source
        self._client, self._upload = client, dict(upload_options)
        project = project or (client.account.project if client.account else None)
        self._payer = project if payer is True else payer
        self._objects = f"/storage/v1/b/{quote(bucket, safe='')}/o"

    @asynccontextmanager
    async def _request(
        self,
        what: str,
        method: str,
        url: str,
        *,
        seconds: float | None = None,
        good: tuple[int, ...] = (200,),
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        params: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Any]:
        """An answer with a status in ``good``, its body not read.

        ``seconds`` (ANSWER_WITHIN) until then, then ``allowed_for`` its body.
        """
        import aiohttp  # noqa: PLC0415 - comes with gcsfs

        client = self._client
        if self._payer:
            params = {**(params or {}), "userProject": str(self._payer)}
        try:
            with anyio.fail_after(ANSWER_WITHIN if seconds is None else seconds) as scope:
                own = await client.account.headers(what) if client.account else {}
                async with client.session.request(
                    method,
                    url if url.startswith("http") else client.location + url,
                    params=params if not url.startswith("http") else None,
                    headers={**own, **(headers or {})},
                    data=body,
                    timeout=aiohttp.ClientTimeout(total=None, connect=10, sock_read=10),
                    allow_redirects=False,
                ) as answer:
                    if answer.status not in good:
                        raise self._refused(what, answer.status, await answer.content.read(10_000), answer.headers)
                    scope.deadline = anyio.current_time() + allowed_for(answer.content_length or 0)
                    yield answer
        except TimeoutError as error:  # anyio's and aiohttp's
            raise StoreError(f"{what}: no answer in time", transient=True) from error
        except (aiohttp.ClientSSLError, aiohttp.InvalidURL, ValueError) as error:  # ValueError: it holds a login
            raise StoreError(f"{what}: {error}", transient=False, hint="see the address, and SSL_CERT_FILE") from error
        except aiohttp.ClientError as error:
            raise StoreError(f"{what}: {type(error).__name__}: {error}", transient=True) from error

    def _refused(self, what: str, status: int, body: bytes, headers: Mapping[str, str]) -> StoreError:
        again = False
        if status == 401 and self._client.account is not None:
            again = time.monotonic() - self._client.refused > 60
            self._client.refused = time.monotonic()
            self._client.account.forget()
        return gcs_errors.explained(what, status, body, headers, self.credentials, again=again)

    def _url(self, key: str) -> str:
        return f"{self._objects}/{quote(key, safe='')}"

    async def get(self, key: str, into: Path, *, version: str | None = None, known: str | None = None) -> Facts | None:
        """See :meth:`ObjectStore.get`; ``known`` is a generation."""
        import google_crc32c  # noqa: PLC0415 - comes with gcsfs

        what = f"{self.where}/{key}"
        params = {"alt": "media"}
        if version is not None:
            params["generation"] = version
        if known is not None:
            params["ifGenerationNotMatch"] = known
        request = self._request(what, "GET", self._url(key), good=(200, 304), params=params)
        crc = google_crc32c.Checksum()
        async with request as answer:
            if answer.status == 304:
                return None
            generation, length = answer.headers.get("X-Goog-Generation"), answer.headers.get("Content-Length")
            _check_head(what, answer.headers)
            with Received(into, what, also=crc) as received:
                async for chunk in answer.content.iter_chunked(CHUNK):
                    await anyio.to_thread.run_sync(received.write, chunk)
                digest = received.digest(int(length))
            if (expected := _crc(answer.headers)) and expected != b64encode(crc.digest()).decode():
                raise StoreError(f"{what}: what came does not have the CRC32C that the store gives", transient=True)
            etag = answer.headers.get("ETag", "").strip('"')
        return Facts(version=generation, etag=etag, validator=generation, size=received.size, digest=digest)

    async def put(self, key: str, source: Path, *, overwrite: bool = True) -> Facts:
        """See :meth:`ObjectStore.put`."""
        what, size = f"{self.where}/{key}", (await anyio.Path(source).stat()).st_size
        digest = await anyio.to_thread.run_sync(_digest, source)
        params = {"uploadType": "resumable", "name": key} | ({} if overwrite else {"ifGenerationMatch": "0"})
        params |= {name: str(self._upload[name]) for name in ("kmsKeyName", "predefinedAcl") if name in self._upload}
        facts = {name: value for name, value in self._upload.items() if name not in params}
        headers = {"Content-Type": "application/json; charset=UTF-8", "X-Upload-Content-Length": str(size)}
        url, body = f"/upload{self._objects}", io.BytesIO(json.dumps({"name": key, **facts}).encode())
        async with self._request(what, "POST", url, headers=headers, body=body, params=params) as answer:
            session = answer.headers.get("Location")
        if not session:
            raise StoreError(f"{what}: the store gave no address for the upload", transient=True)
        with source.open("rb") as file:
            made = await self._parts(what, session, file, size)
        generation = str(made["generation"])
        return Facts(version=generation, etag=made.get("etag", ""), validator=generation, size=size, digest=digest)

    async def _parts(self, what: str, session: str, file: Any, size: int) -> Mapping[str, Any]:
        sent = 0
        while True:
            data = await anyio.to_thread.run_sync(file.read, PART)
            end = sent + len(data)
            span = f"bytes {sent}-{end - 1}/{size}" if size else "bytes */0"
            async with self._request(
                what,
                "PUT",
                session,
                seconds=allowed_for(len(data)),
                good=(200, 201, 308),
                headers={"Content-Range": span},
                body=io.BytesIO(data),
            ) as answer:
                if answer.status != 308:
                    return dict(await answer.json(content_type=None))
                if end >= size or answer.headers.get("Range") != f"bytes=0-{end - 1}":
                    raise StoreError(f"{what}: the store took not all of the upload", transient=True)
            sent = end

    async def delete(self, key: str, *, version: str | None = None) -> None:
        """See :meth:`ObjectStore.delete`."""
        params = {} if version is None else {"generation": version}
        async with self._request(f"{self.where}/{key}", "DELETE", self._url(key), good=(200, 204, 404), params=params):
            pass

    async def keys(self, prefix: str, most: int) -> Sequence[Listed]:
        """See :meth:`ObjectStore.keys`."""
        found: list[Listed] = []
        params = {"prefix": prefix, "fields": "nextPageToken,items(name,generation,size)"}
        while len(found) <= most:
            async with self._request(f"{self.where}/{prefix}", "GET", self._objects, params=params) as answer:
                page = await answer.json()
            found += [Listed(each["name"], each["generation"], int(each["size"])) for each in page.get("items", ())]
            if not page.get("nextPageToken"):
                break
            params["pageToken"] = page["nextPageToken"]
        return found[: most + 1]

    async def check(self, key: str | None = None) -> bool:
        """See :meth:`ObjectStore.check`."""
        # Google says 403 too, of an object that is not there, to those who may not list.
        good = (200, 206, 404, 416) if key is not None else (200, 404, 403)
        headers, params = {"Range": "bytes=0-0"}, {"alt": "media"}
        url = self._url(key or NOWHERE)
        async with self._request(self.where, "GET", url, good=good, headers=headers, params=params) as answer:
            if answer.status not in (403, 404):
                return True
            said = await answer.content.read(10_000)
            if b"bucket does not exist" in said:
                raise StoreError(f"{self.where}: there is no such bucket", transient=False, missing=True)
            if answer.status == 403 and b"storage.objects." not in said:
                raise self._refused(self.where, 403, said, answer.headers)
            return bool(answer.status == 404)


def _check_head(what: str, headers: Mapping[str, str]) -> None:
    if headers.get("X-Goog-Stored-Content-Encoding", "identity") != "identity":
        raise StoreError(
            f"{what} is stored with Content-Encoding {headers['X-Goog-Stored-Content-Encoding']}, expected none",
            transient=False,
            hint="upload it again without compression",
        )
    if not headers.get("X-Goog-Generation") or not headers.get("Content-Length"):
        raise StoreError(f"{what}: the answer has no generation or no length; is this GCS?", transient=True)


def _crc(headers: Mapping[str, str]) -> str | None:
    parts = [part.strip() for value in _all(headers, "X-Goog-Hash") for part in value.split(",")]
    return next((part.removeprefix("crc32c=") for part in parts if part.startswith("crc32c=")), None)


def _all(headers: Any, name: str) -> Sequence[str]:
    return list(headers.getall(name, ()))


def _digest(source: Path) -> str:
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
