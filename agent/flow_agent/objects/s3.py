"""Buckets of S3, and of what speaks its protocol, through boto3 in threads. The module that owns boto3.

What is set here rather than left to boto3, and why: no retries of its own (there is one place that retries), time
limits on every call (its read time-out is per read, a store that drips never meets it), and a look at ETag and length
of each answer (an answer whose head is cut off comes as success without bytes).
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from flow_agent.errors import StoreError
from flow_agent.objects import aws_errors, pool
from flow_agent.objects.base import ANSWER_WITHIN, CHUNK, Facts, Listed, ObjectStore, Received, allowed_for, sdk
from flow_agent.objects.base import credentials as found_credentials
from flow_agent.ports import SecretResolver

T = TypeVar("T")

SECRET_OPTIONS = frozenset({"aws_access_key_id", "aws_secret_access_key", "aws_session_token"})
DEFAULT_SECRET = "AWS_CREDENTIALS"  # noqa: S105 - its name
AT_ONCE = 16
"""Calls of one client at a time, each in a thread: a slow bucket does not take the threads of another."""
PART = 16 << 20
"""Bytes of one part of an upload; S3 takes 10,000 parts."""
NOWHERE = "flow-agent/doctor/not-there"
EVERYWHERE = ("RequestPayer", "ExpectedBucketOwner")
"""Of the upload's options, those that every call takes."""

_making = threading.Lock()
_sessions: dict[str, Any] = {}
"""By the digest of their credentials: a session costs 12 MB, and finds and refreshes credentials itself."""
_expired: dict[object, float] = {}


@dataclass
class AwsClient:
    """A client of one service of AWS with its threads; ``credentials`` says where these are from, for people."""

    sdk: Any
    key: tuple[str, ...]
    credentials: str
    threads: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(AT_ONCE))

    async def call(self, what: str, seconds: float, work: Callable[[], T]) -> T:
        """What ``work`` gives, in a thread.

        Raises StoreError: it fails, or takes longer than ``seconds``; ``what`` names it.
        """
        try:
            with anyio.fail_after(seconds):
                return await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self.threads)
        except TimeoutError:
            raise StoreError(f"{what}: no answer within {seconds:.0f} s", transient=True) from None
        except StoreError:
            raise
        except Exception as error:
            # Time-outs and refused certificates of botocore are OSErrors too; those of the disk stay what they are.
            if isinstance(error, OSError) and not aws_errors.is_of_sdk(error):
                raise
            raise self._explained(what, error) from error

    def _explained(self, what: str, error: Exception) -> StoreError:
        again = True
        if aws_errors.is_stale(error):  # somebody may have changed them: the next call looks for them again
            pool.drop(self.key)
            _sessions.pop(self.key[-1], None)
        if aws_errors.is_expired(error):
            now = time.monotonic()
            again = now - _expired.get(self.key, -1e9) > 60
            _expired[self.key] = now
        return aws_errors.explained(what, error, self.credentials, again=again)


@asynccontextmanager
async def aws_client(
    service: str, options: Mapping[str, Any], secrets: SecretResolver, named: str | None = None, needs: str = "S3"
) -> AsyncIterator[AwsClient]:
    """A client of ``service``; ``options`` are those of ``boto3.client``, with ``config`` as a table.

    Credentials: the secret ``named``, else ``AWS_CREDENTIALS``, else what boto3 finds.

    Raises StoreError: boto3 is not there, or does not take the options. SecretNotFound, SecretUnavailable.
    """
    await sdk("boto3", "aws", needs)
    text, source = await found_credentials(secrets, named, DEFAULT_SECRET)
    digest = hashlib.sha256((text or "").encode()).hexdigest()
    key = (service, json.dumps(dict(options), sort_keys=True), digest)

    async def open_one() -> tuple[AwsClient, pool.Close]:
        made = await anyio.to_thread.run_sync(partial(_made, service, options, text, source, key))
        return made, partial(anyio.to_thread.run_sync, made.sdk.close)

    async with pool.client(key, open_one) as client:
        yield client


def _made(service: str, options: Mapping[str, Any], text: str | None, source: str, key: tuple[str, ...]) -> AwsClient:
    import boto3  # noqa: PLC0415 - 300 ms and 40 MB that only its users pay
    from botocore.config import Config  # noqa: PLC0415 - as above

    given = dict(options)
    ours: dict[str, Any] = {
        "connect_timeout": 10,
        "read_timeout": 10,
        "retries": {"mode": "standard", "total_max_attempts": 1},
        "max_pool_connections": AT_ONCE,
    }
    if given.get("endpoint_url"):
        # What others offer as S3 knows the older checksums only.
        ours |= {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
    keys = _keys(text, source)
    with _making:  # sessions are not made for threads
        try:
            session = _sessions.get(key[-1]) or boto3.session.Session(**keys)
            _sessions[key[-1]] = session
            while len(_sessions) > pool.MOST:  # credentials that are renewed each hour would fill the memory
                del _sessions[next(iter(_sessions))]
            given["config"] = Config(**{**ours, **(given.get("config") or {})})
            client = session.client(service, **given)
            if not source:
                known = session.get_credentials()
                source = f"boto3: {known.method}" if known is not None else "none"
        except Exception as error:
            raise aws_errors.explained(f"making a client of {service}", error, source) from error
    return AwsClient(client, key, source)


def _keys(text: str | None, source: str) -> dict[str, str | None]:
    """The arguments of a session for the credentials of a secret.

    Raises StoreError: it is no JSON table with the keys that it needs.
    """
    if text is None:
        return {}
    expected = (
        'expected JSON such as {"ACCESS_KEY": "...", "SECRET_ACCESS_KEY": "..."}, with SESSION_TOKEN if it has one'
    )
    try:
        table = json.loads(text)
    except ValueError:
        raise StoreError(f"{source} is no JSON, {expected}", transient=False) from None
    if not isinstance(table, dict):
        raise StoreError(f"{source} is no table, {expected}", transient=False)
    for name in ("ACCESS_KEY", "SECRET_ACCESS_KEY"):
        if not isinstance(table.get(name), str) or not table[name]:
            raise StoreError(f"{source} has no {name}, {expected}", transient=False)
    return {
        "aws_access_key_id": table["ACCESS_KEY"],
        "aws_secret_access_key": table["SECRET_ACCESS_KEY"],
        "aws_session_token": table.get("SESSION_TOKEN"),
    }


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

    async def check(self) -> None:
        """See :meth:`ObjectStore.check`."""
        work = partial(self._client.sdk.get_object, **self._common, Key=NOWHERE, Range="bytes=0-0")
        try:
            answer = await self._client.call(self.where, ANSWER_WITHIN, work)
        except StoreError as error:
            if aws_errors.code(error.__cause__) not in ("NoSuchKey", "404"):
                raise
        else:
            answer["Body"].close()


def _version(answer: Mapping[str, Any]) -> str | None:
    version = answer.get("VersionId")
    return version if version not in (None, "", "null") else None
