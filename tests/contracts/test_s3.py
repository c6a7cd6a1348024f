"""S3 on ministack, which checks signatures and keeps versions, and on rclone, which is another program."""

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from flow_agent.errors import FetchError, StoreError
from flow_agent.objects import aws
from flow_agent.objects import s3 as store
from flow_agent.objects.pool import clients
from flow_agent.storages import S3
from flow_agent.testing.storage_contract import Secrets
from servers.object_storages import Make, ObjectStorageTests, registered
from servers.proxy import FaultProxy, http
from servers.s3 import ROOT, Server


def xml(status: str, code: str, **headers: str) -> bytes:
    return http(status, f"<Error><Code>{code}</Code><Message>because</Message></Error>".encode(), **headers)


class S3Tests(ObjectStorageTests):
    refused = xml("403 Forbidden", "SignatureDoesNotMatch")

    def modules(self) -> list[Any]:
        return [store]

    @pytest.fixture
    def values(self, server: Server) -> dict[str, str]:
        return {"AWS_CREDENTIALS": server.secret}

    @pytest.fixture
    def port(self, server: Server) -> int:
        return server.port

    @pytest.fixture
    def make(self, server: Server, place: str) -> Make:
        def make(*, port: int | None = None, host: str = "127.0.0.1", named: str | None = None, **given: Any) -> S3:
            options = {
                "endpoint_url": f"http://{host}:{port or server.port}",
                "region_name": "us-east-1",
                "config": {"s3": {"addressing_style": "path"}},
            }
            return S3(place, client_options=options, credentials_secret=named, **given)

        return make


class TestMinistack(S3Tests):
    @pytest.fixture
    def server(self, s3_server: Server) -> Server:
        return s3_server

    @pytest.fixture
    def place(self, bucket: str) -> str:
        return bucket

    @pytest.mark.parametrize(
        ("answer", "transient", "says"),
        [
            (xml("400 Bad Request", "ExpiredToken"), True, "renew"),
            (xml("403 Forbidden", "RequestTimeTooSkewed"), False, "clock"),
            (xml("301 Moved Permanently", "PermanentRedirect", X_Amz_Bucket_Region="eu-central-1"), False, "region"),
            (xml("403 Forbidden", "AccessDenied"), False, "GetObject"),
            (xml("404 Not Found", "NoSuchBucket"), False, "bucket's name"),
            (http("407 Proxy Authentication Required"), False, "HTTPS_PROXY"),
        ],
    )
    async def test_each_refusal_has_its_meaning(
        self,
        answer: bytes,
        transient: bool,
        says: str,
        make: Make,
        pickled: Any,
        secrets: Secrets,
        into: Path,
        proxy: FaultProxy,
    ) -> None:
        proxy.replies = [answer] * 3  # a redirect is followed, a version that is gone is looked for without it
        error = await self.failure(make(port=proxy.port), pickled, secrets, into)
        assert error.transient is transient
        assert says in f"{error} {error.hint}"

    async def test_credentials_that_stay_expired_are_lasting(
        self, make: Make, pickled: Any, secrets: Secrets, into: Path, proxy: FaultProxy
    ) -> None:
        storage = make(port=proxy.port)
        expired = xml("400 Bad Request", "ExpiredToken")
        proxy.replies = [expired, expired]
        async with clients():
            first = await self.failure(storage, pickled, secrets, into)
            second = await self.failure(storage, pickled, secrets, into)
        assert (first.transient, second.transient) == (True, False)

    async def test_wrong_credentials_are_refused_by_the_server(
        self, make: Make, pickled: Any, into: Path, server: Server
    ) -> None:
        wrong = json.dumps({**server.credentials, "SECRET_ACCESS_KEY": "do-not-show-this-value"})
        error = await self.failure(make(), pickled, Secrets({"AWS_CREDENTIALS": wrong}), into)
        assert "SignatureDoesNotMatch" in str(error)
        assert "do-not-show" not in f"{error}{error.hint}{error.__cause__}"

    @pytest.mark.parametrize("text", ["{", "[]", '{"ACCESS_KEY": "a"}'])
    async def test_a_secret_that_is_no_table_is_said(self, text: str, make: Make, pickled: Any, into: Path) -> None:
        error = await self.failure(make(), pickled, Secrets({"AWS_CREDENTIALS": text}), into)
        assert "expected JSON" in str(error)

    async def test_boto3_finds_credentials_itself(
        self, make: Make, pickled: Any, into: Path, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        aws._sessions.clear()
        assert await make().fetch(pickled, into, Secrets({})) is not None
        async with make().connect(Secrets({})) as connected:
            assert connected.credentials == "boto3: env"
        aws._sessions.clear()

    async def test_credentials_that_no_header_can_hold_are_not_quoted(
        self, make: Make, pickled: Any, into: Path, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_SESSION_TOKEN", "do-not-show-this-value\n")
        aws._sessions.clear()
        error = await self.failure(make(), pickled, Secrets({}), into)
        assert not error.transient
        assert "line end" in str(error)
        assert "do-not-show" not in f"{error}{error.hint}"
        aws._sessions.clear()

    async def test_who_may_not_list_is_told_what_can_be_told(
        self, make: Make, secrets: Secrets, pickled: Any, proxy: FaultProxy
    ) -> None:
        denied = xml("403 Forbidden", "AccessDenied")
        async with make(port=proxy.port).connect(secrets) as connected:
            proxy.replies = [denied]
            assert not await connected.check()
            proxy.replies = [denied]
            with pytest.raises(StoreError, match="AccessDenied"):
                await connected.check(pickled.location["key"])
            proxy.replies = [xml("403 Forbidden", "InvalidAccessKeyId")]
            with pytest.raises(StoreError, match="InvalidAccessKeyId"):
                await connected.check()

    async def test_a_secret_goes_before_what_boto3_finds_and_a_named_one_before_that(
        self, make: Make, pickled: Any, into: Path, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        wrong = json.dumps({**server.credentials, "SECRET_ACCESS_KEY": "the-wrong-one"})
        secrets = Secrets({"AWS_CREDENTIALS": wrong, "MINE": server.secret})
        assert "secret AWS_CREDENTIALS" in str(await self.failure(make(), pickled, secrets, into))
        assert await make(named="MINE").fetch(pickled, into, secrets) is not None
        async with make(named="MINE").connect(secrets) as connected:
            assert connected.credentials == "secret MINE"

    async def test_the_revision_is_the_version_of_the_object(
        self, make: Make, pickled: Any, secrets: Secrets, into: Path
    ) -> None:
        found = await make().fetch(pickled, into, secrets)
        assert found.revision == pickled.location["version"]

    async def test_keys_that_were_changed_are_looked_for_again(
        self, make: Make, pickled: Any, into: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An agent lives for weeks, and its file of credentials is changed meanwhile."""
        file = tmp_path / "credentials"
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
        aws._sessions.clear()

        def write(key: str, secret: str) -> None:
            file.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")

        write(server.credentials["ACCESS_KEY"], "the-old-one")
        async with clients():
            error = await self.failure(make(), pickled, Secrets({}), into)
            assert not error.transient
            write(server.credentials["ACCESS_KEY"], server.credentials["SECRET_ACCESS_KEY"])
            assert await make().fetch(pickled, into, Secrets({})) is not None
        aws._sessions.clear()

    async def test_options_of_an_upload_reach_the_object(self, make: Make, server: Server, place: str) -> None:
        made = registered(make(upload_options={"ServerSideEncryption": "AES256", "Metadata": {"team": "data"}}))
        client = server.client(credentials=ROOT)
        head = client.head_object(Bucket=place, Key=made.location["key"])
        client.close()
        assert (head["Metadata"], head["ServerSideEncryption"]) == ({"team": "data"}, "AES256")

    async def test_objects_below_a_prefix_are_a_folder(
        self, make: Make, server: Server, place: str, into: Path
    ) -> None:
        client = server.client(credentials=ROOT)
        for name, text in {"flow.py": "x = 1\n", "lib/a.py": "y = 2\n", "lib/": ""}.items():
            client.put_object(Bucket=place, Key=f"etl/{name}", Body=text.encode())
        client.close()
        storage = make(stored_as_script=True, key="etl/flow.py", prefix="etl/")
        made, root = registered(storage), Secrets({"AWS_CREDENTIALS": json.dumps(ROOT)})
        found = await storage.fetch(made, into, root)
        assert (into / "payload/lib/a.py").read_text() == "y = 2\n"
        assert await storage.fetch(made, into, root, known=found.validator) is None

    async def test_who_may_not_list_is_told(self, make: Make, secrets: Secrets, into: Path) -> None:
        storage = make(stored_as_script=True, key="etl/flow.py", prefix="etl/")
        with pytest.raises(FetchError, match="403"):
            await storage.fetch(registered(storage), into, secrets)


class TestRclone(S3Tests):
    @pytest.fixture
    def server(self, rclone_server: Server) -> Server:
        return rclone_server

    @pytest.fixture
    def place(self, rclone_server: Server) -> str:
        name = f"flows-{uuid.uuid4().hex[:8]}"
        client = rclone_server.client()
        client.create_bucket(Bucket=name)
        client.close()
        return name

    # It takes no conditions for what it stores.
    test_what_is_there_already_is_nobodys_to_remove = None

    async def test_an_object_that_is_there_is_not_overwritten_unasked(self, make: Make) -> None:
        """This server takes no notice of If-None-Match."""
        registered(make(key="fixed"))
        assert registered(make(key="fixed", overwrite=False)).location["key"] == "fixed"


def test_credentials_do_not_get_into_a_registration() -> None:
    with pytest.raises(ValueError, match="credentials_secret"):
        S3("flows", client_options={"aws_secret_access_key": "x"})
    with pytest.raises(ValueError, match="the key would stand"):
        S3("flows", upload_options={"SSECustomerKey": "x"})
