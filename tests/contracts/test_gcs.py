"""GCS on fake-gcs-server, behind a front that wants tokens and gives 304."""

import json
from pathlib import Path
from typing import Any

import pytest

from flow_agent.errors import FetchError, VerificationError
from flow_agent.model import Reason
from flow_agent.objects import gcs as store
from flow_agent.objects import google
from flow_agent.objects.pool import clients
from flow_agent.storages import GCS
from flow_agent.testing.storage_contract import Secrets
from flow_agent.verify import verify
from servers.gcs import Server, new_bucket
from servers.object_storages import Make, ObjectStorageTests, registered, triple
from servers.proxy import FaultProxy, http


def said(status: str, message: str, **headers: str) -> bytes:
    return http(status, json.dumps({"error": {"message": message}}).encode(), **headers)


class TestGCS(ObjectStorageTests):
    refused = said("403 Forbidden", "agent@flows-project does not have storage.objects.get access")

    def modules(self) -> list[Any]:
        return [store]

    # The address that the server gives for the upload itself leads past the proxy.
    test_an_upload_whose_answer_is_lost_is_not_in_its_own_way = None

    @pytest.fixture
    def values(self, gcs_server: Server) -> dict[str, str]:
        google._accounts.clear()
        return {"GCP_KEY": gcs_server.account()}

    @pytest.fixture
    def port(self, gcs_server: Server) -> int:
        return gcs_server.port

    @pytest.fixture
    def make(self, gcs_server: Server, gcs_bucket: str) -> Make:
        def make(
            *, port: int | None = None, host: str = "127.0.0.1", named: str | None = "GCP_KEY", **given: Any
        ) -> GCS:
            options = {"endpoint_url": f"http://{host}:{port or gcs_server.port}"}
            return GCS(gcs_bucket, client_options=options, credentials_secret=named, **given)

        return make

    async def warm(self, storage: Any, secrets: Secrets) -> None:
        """The token: it comes from the server itself."""
        account, _ = await google.account(secrets, "GCP_KEY", store.SCOPE)
        await account.headers("the test")

    @pytest.mark.parametrize(
        ("answer", "transient", "says"),
        [
            (said("401 Unauthorized", "Invalid Credentials"), True, "still good"),
            (said("403 Forbidden", "no storage.objects.get access"), False, "Storage Object Viewer"),
            (said("404 Not Found", "The specified bucket does not exist."), False, "does not exist"),
            (http("407 Proxy Authentication Required"), False, "407"),
            (http("200 OK", b"x", X_Goog_Generation="1", X_Goog_Hash="crc32c=AAAAAA=="), True, "CRC32C"),
            (
                http("200 OK", b"x", X_Goog_Generation="1", X_Goog_Stored_Content_Encoding="gzip"),
                False,
                "without compression",
            ),
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
        await self.warm(make(), secrets)
        proxy.replies = [answer] * 2  # a version that is gone is looked for without it
        error = await self.failure(make(port=proxy.port), pickled, secrets, into)
        assert error.transient is transient
        assert says in f"{error} {error.hint}"

    async def test_a_token_that_was_taken_back_is_renewed_and_not_for_ever(
        self, make: Make, pickled: Any, secrets: Secrets, into: Path, gcs_server: Server
    ) -> None:
        storage = make()
        async with clients():
            assert await storage.fetch(pickled, into, secrets) is not None
            gcs_server.good.clear()
            error = await self.failure(storage, pickled, secrets, into)
            assert error.transient
            assert await storage.fetch(pickled, into, secrets) is not None
            gcs_server.good.clear()
            assert not (await self.failure(storage, pickled, secrets, into)).transient
        gcs_server.good.add("good")

    @pytest.mark.parametrize(
        ("status", "text", "transient"),
        [
            (400, b'{"error": "invalid_grant", "error_description": "Invalid JWT: check iat and exp"}', False),
            (400, b'{"error": "invalid_grant", "error_description": "account not found"}', False),
            (503, b'{"error": "internal_failure"}', True),
        ],
    )
    async def test_no_token_is_told_with_what_google_says(
        self,
        status: int,
        text: bytes,
        transient: bool,
        make: Make,
        pickled: Any,
        secrets: Secrets,
        into: Path,
        gcs_server: Server,
    ) -> None:
        google._accounts.clear()
        gcs_server.token_error = (status, text)
        try:
            error = await self.failure(make(), pickled, secrets, into)
        finally:
            gcs_server.token_error = None
        assert error.transient is transient
        assert transient or "clock is right" in str(error.hint)

    async def test_the_bucket_itself_is_not_asked_for(
        self, make: Make, secrets: Secrets, into: Path, gcs_server: Server, gcs_bucket: str
    ) -> None:
        """That takes a permission of its own (storage.buckets.get), which the older system needed."""
        gcs_server.asked.clear()
        made = registered(make())
        assert await make().fetch(made, into, secrets) is not None
        paths = {path.partition("?")[0] for path in gcs_server.asked if path != "/token"}
        assert paths
        assert all(path.rstrip("/") != f"/storage/v1/b/{gcs_bucket}" for path in paths)

    async def test_a_named_key_goes_before_the_default_one(
        self, gcs_server: Server, gcs_bucket: str, pickled: Any, into: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_server.url)
        secrets = Secrets({"GCP_CREDENTIALS": "{", "MINE": gcs_server.account()})
        assert "GCP_CREDENTIALS" in str(await self.failure(GCS(gcs_bucket), pickled, secrets, into))
        assert await GCS(gcs_bucket, credentials_secret="MINE").fetch(pickled, into, secrets) is not None

    async def test_a_token_is_asked_for_once(
        self, make: Make, pickled: Any, secrets: Secrets, into: Path, gcs_server: Server
    ) -> None:
        before = gcs_server.tokens
        async with clients():
            for _ in range(5):
                await make().fetch(pickled, into, secrets)
        assert gcs_server.tokens - before <= 1

    async def test_the_agents_own_account_is_not_sent_to_another_address(
        self, make: Make, pickled: Any, into: Path, gcs_server: Server
    ) -> None:
        error = await self.failure(make(named=None), pickled, Secrets({"GCP_CREDENTIALS": gcs_server.account()}), into)
        assert "not sent to" in str(error)
        assert "credentials_secret" in str(error.hint)

    @pytest.mark.parametrize("text", ["{", "[]", '{"type": "service_account", "private_key": "do-not-show"}'])
    async def test_a_secret_that_is_no_key_is_said(self, text: str, make: Make, pickled: Any, into: Path) -> None:
        error = await self.failure(make(), pickled, Secrets({"GCP_KEY": text}), into)
        assert "expected the JSON" in str(error)
        assert "do-not-show" not in f"{error}{error.hint}{error.__cause__}"

    async def test_a_key_in_a_file_is_found_where_google_looks(
        self,
        make: Make,
        gcs_server: Server,
        gcs_bucket: str,
        pickled: Any,
        into: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        file = tmp_path / "key.json"
        file.write_text(gcs_server.account())
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_server.url)
        google._accounts.clear()
        storage = GCS(gcs_bucket)
        assert await storage.fetch(pickled, into, Secrets({})) is not None
        async with storage.connect(Secrets({})) as connected:
            assert "application default credentials" in connected.credentials
        google._accounts.clear()

    async def test_a_key_that_was_changed_is_looked_for_again(
        self,
        gcs_server: Server,
        gcs_bucket: str,
        pickled: Any,
        into: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """An agent lives for weeks, and its file of credentials is changed meanwhile."""
        file = tmp_path / "key.json"
        file.write_text(gcs_server.account())
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_server.url)
        google._accounts.clear()
        gcs_server.token_error = (400, b'{"error": "invalid_grant", "error_description": "Invalid JWT Signature."}')
        try:
            assert not (await self.failure(GCS(gcs_bucket), pickled, Secrets({}), into)).transient
        finally:
            gcs_server.token_error = None
        file.write_text(gcs_server.account().replace("agent@", "another@"))
        storage = GCS(gcs_bucket)
        assert await storage.fetch(pickled, into, Secrets({})) is not None
        assert any("another@" in str(each._found.service_account_email) for each in google._accounts.values())
        google._accounts.clear()

    async def test_options_of_an_upload_reach_the_object(
        self, make: Make, secrets: Secrets, tmp_path: Path, gcs_server: Server, gcs_bucket: str
    ) -> None:
        import urllib.request

        made = registered(make(upload_options={"metadata": {"team": "data"}}))
        key = made.location["key"].replace("/", "%2F")
        url = f"http://127.0.0.1:{gcs_server.upstream}/storage/v1/b/{gcs_bucket}/o/{key}"
        with urllib.request.urlopen(url) as answer:
            facts = json.load(answer)
        assert facts["metadata"] == {"team": "data"}

    async def test_objects_below_a_prefix_are_a_folder(
        self, make: Make, secrets: Secrets, into: Path, tmp_path: Path
    ) -> None:
        async with make().connect(secrets) as connected:
            for name, text in {"flow.py": "x = 1\n", "lib/a.py": "y = 2\n", "lib/": ""}.items():
                (tmp_path / "one").write_text(text)
                await connected.put(f"etl/{name}", tmp_path / "one")
        storage = make(stored_as_script=True, key="etl/flow.py", prefix="etl/")
        made = registered(storage)
        found = await storage.fetch(made, into, secrets)
        assert (into / "payload/lib/a.py").read_text() == "y = 2\n"
        assert await storage.fetch(made, into, secrets, known=found.validator) is None

    @pytest.mark.parametrize("change", ["deleted", "overwritten"])
    async def test_what_was_deleted_is_not_found(
        self, change: str, gcs_server: Server, secrets: Secrets, into: Path
    ) -> None:
        """In a bucket without versions: there this server forgets what it is told to delete."""
        options = {"client_options": {"endpoint_url": gcs_server.url}, "credentials_secret": "GCP_KEY"}
        storage = GCS(new_bucket(gcs_server, versions=False), "fixed", **options)
        made = registered(storage)
        async with storage.connect(secrets) as connected:
            if change == "deleted":
                await connected.delete("fixed", version=made.location["version"])
            else:
                registered(GCS(storage.bucket, "fixed", **options), triple)
        if change == "deleted":
            with pytest.raises(FetchError, match="404") as caught:
                await storage.fetch(made, into, secrets)
            assert (caught.value.reason, caught.value.transient) == (Reason.FLOW_NOT_FOUND, False)
            return
        found = await storage.fetch(made, into, secrets)
        with pytest.raises(VerificationError) as refused:
            verify(made, found, into)
        assert refused.value.reason is Reason.DIGEST_MISMATCH

    async def test_a_bucket_that_is_not_there_is_told(self, make: Make, secrets: Secrets, proxy: FaultProxy) -> None:
        await self.warm(make(), secrets)
        proxy.replies = [said("404 Not Found", "The specified bucket does not exist.")]
        async with make(port=proxy.port).connect(secrets) as connected:
            with pytest.raises(store.StoreError, match="no such bucket"):
                await connected.check()


@pytest.mark.anyio
async def test_a_public_bucket_needs_no_account(gcs_server: Server, own_home: Path, tmp_path: Path) -> None:
    """The front wants a token, so the answer shows that none was sent."""
    storage = GCS("flows", client_options={"endpoint_url": gcs_server.url, "token": "anon"})
    async with storage.connect(Secrets({})) as connected:
        assert connected.credentials == "none (anonymous)"
        with pytest.raises(store.StoreError, match="401"):
            await connected.get("x", tmp_path / "x")


def test_what_is_no_option_is_said() -> None:
    with pytest.raises((TypeError, ValueError), match="client_options"):
        GCS("flows", client_options={"token": "a-token"})
