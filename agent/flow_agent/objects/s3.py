"""Buckets of S3, and of what speaks its protocol.

Each answer is looked at for its ETag and its length: one whose head is cut off comes as success without bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from flow_agent.errors import StoreError
from flow_agent.objects import aws_errors
from flow_agent.objects.aws import AwsClient, aws_client
from flow_agent.objects.base import ANSWER_WITHIN, CHUNK, Facts, Listed, ObjectStore, Received, allowed_for
from flow_agent.ports import SecretResolver

PART = 16 << 20
"""Bytes of one part of an upload; S3 takes 10,000 parts."""
NOWHERE = "flow-agent/doctor/not-there"
EVERYWHERE = ("RequestPayer", "ExpectedBucketOwner")
"""Of the upload's options, those that every call takes."""


@asynccontextmanager
async def connect(
    bucket: str,
    secrets: SecretResolver,
    *,
    client_options: Mapping[str, Any],
    upload_options: Mapping[str, Any],
    credentials_secret: str | None,
) -> AsyncIterator[ObjectStore]:
    """The bucket, with credentials; see ``aws_client``."""
    async with aws_client("s3", client_options, secrets, credentials_secret) as client:
        yield Bucket(bucket, client, upload_options)


class Bucket(ObjectStore):
    """One bucket; see :class:`ObjectStore`."""

    def __init__(self, bucket: str, client: AwsClient, upload_options: Mapping[str, Any]) -> None:
        self.where = f"s3://{bucket}"
        self.credentials = client.credentials
        self._bucket, self._client, self._upload = bucket, client, dict(upload_options)
        self._common = {"Bucket": bucket, **{k: v for k, v in self._upload.items() if k in EVERYWHERE}}

    async def get(self, key: str, into: Path, *, version: str | None = None, known: str | None = None) -> Facts | None:
        """See :meth:`ObjectStore.get`."""
        what = f"{self.where}/{key}"
        wanted = {**self._common, "Key": key}
        if version is not None:
            wanted["VersionId"] = version
        if known is not None:
            wanted["IfNoneMatch"] = known
        client = self._client
        try:
            answer = await client.call(what, ANSWER_WITHIN, partial(client.sdk.get_object, **wanted))
        except StoreError as error:
            if known is not None and aws_errors.status(error.__cause__) == 304:
                return None
            raise
        etag, length = answer.get("ETag"), answer.get("ContentLength")
        received = Received(into, what)

        def stream() -> str:
            with closing(answer["Body"]) as body, received:
                if not etag or length is None:
                    raise StoreError(f"{what}: the answer has no ETag or no length; is this S3?", transient=True)
                for chunk in body.iter_chunks(CHUNK):
                    received.write(chunk)
                return received.digest(length)

        try:
            digest = await client.call(what, allowed_for(length or 0), stream)
        except BaseException:
            received.unwanted = True
            raise
        return Facts(version=_version(answer), etag=etag, validator=etag, size=received.size, digest=digest)

    async def put(self, key: str, source: Path, *, overwrite: bool = True) -> Facts:
        """See :meth:`ObjectStore.put`."""
        size = (await anyio.Path(source).stat()).st_size
        what = f"{self.where}/{key}"
        condition = {} if overwrite else {"IfNoneMatch": "*"}
        work = partial(self._put_parts if size > PART else self._put_whole, key, source, condition)
        answer, digest = await self._client.call(what, allowed_for(size), work)
        etag = answer.get("ETag")
        if not etag:
            raise StoreError(f"{what}: the answer has no ETag; is this S3?", transient=True)
        return Facts(version=_version(answer), etag=etag, validator=etag, size=size, digest=digest)

    def _put_whole(self, key: str, source: Path, condition: Mapping[str, str]) -> tuple[Mapping[str, Any], str]:
        data = source.read_bytes()
        answer = self._client.sdk.put_object(Bucket=self._bucket, Key=key, Body=data, **self._upload, **condition)
        return answer, hashlib.sha256(data).hexdigest()

    def _put_parts(self, key: str, source: Path, condition: Mapping[str, str]) -> tuple[Mapping[str, Any], str]:
        client, whole = self._client.sdk, hashlib.sha256()
        parts: list[dict[str, Any]] = []
        upload = client.create_multipart_upload(Bucket=self._bucket, Key=key, **self._upload)["UploadId"]
        wanted = {**self._common, "Key": key, "UploadId": upload}
        try:
            with source.open("rb") as file:
                while data := file.read(PART):
                    whole.update(data)
                    number = len(parts) + 1
                    etag = client.upload_part(**wanted, PartNumber=number, Body=data)["ETag"]
                    parts.append({"PartNumber": number, "ETag": etag})
            return client.complete_multipart_upload(
                **wanted, MultipartUpload={"Parts": parts}, **condition
            ), whole.hexdigest()
        except BaseException:
            client.abort_multipart_upload(**wanted)
            raise

    async def delete(self, key: str, *, version: str | None = None) -> None:
        """See :meth:`ObjectStore.delete`."""
        which = {} if version is None else {"VersionId": version}
        work = partial(self._client.sdk.delete_object, **self._common, Key=key, **which)
        try:
            await self._client.call(f"{self.where}/{key}", ANSWER_WITHIN, work)
        except StoreError as error:
            if not error.missing:
                raise

    async def keys(self, prefix: str, most: int) -> Sequence[Listed]:
        """See :meth:`ObjectStore.keys`."""
        found: list[Listed] = []
        token: dict[str, str] = {}
        while len(found) <= most:
            work = partial(self._client.sdk.list_objects_v2, **self._common, Prefix=prefix, **token)
            page = await self._client.call(f"{self.where}/{prefix}", ANSWER_WITHIN, work)
            found += [Listed(each["Key"], each["ETag"], each["Size"]) for each in page.get("Contents", ())]
            if not page.get("IsTruncated"):
                break
            token = {"ContinuationToken": page["NextContinuationToken"]}
        return found[: most + 1]

    async def check(self, key: str | None = None) -> bool:
        """See :meth:`ObjectStore.check`."""
        work = partial(self._client.sdk.get_object, **self._common, Key=key or NOWHERE, Range="bytes=0-0")
        try:
            answer = await self._client.call(self.where, ANSWER_WITHIN, work)
        except StoreError as error:
            code = aws_errors.code(error.__cause__)
            if code == "AccessDenied" and key is None:
                return False
            # An empty object has no first byte.
            if code not in ("NoSuchKey", "404", "InvalidRange"):
                raise
        else:
            answer["Body"].close()
        return True


def _version(answer: Mapping[str, Any]) -> str | None:
    version = answer.get("VersionId")
    return version if version not in (None, "", "null") else None
