"""What every storage of objects must do, on its real server and behind the fault proxy; each inherits these tests."""

import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest

from flow_agent import Flow
from flow_agent.errors import FetchError, RegistrationError, SecretNotFound, VerificationError
from flow_agent.model import Reason, Registration
from flow_agent.objects import base
from flow_agent.objects.pool import clients
from flow_agent.registration import build_registrations
from flow_agent.testing.storage_contract import Secrets, StorageContract, files_below
from flow_agent.verify import verify
from servers.proxy import FaultProxy, http

Make = Callable[..., Any]
SCRIPT = "from flow_agent import flow\n\n\n@flow(name='scripted')\ndef scripted():\n    return 1\n"


NOTE = "A pickle that is longer than the head of its answer. " * 200


def double(n: int = 2, note: str = NOTE) -> int:
    return 2 * n


def triple(n: int = 3) -> int:
    return 3 * n


def registered(storage: Any, run: Callable[..., int] = double) -> Registration:
    (made,) = build_registrations([Flow("Tägliche Zahlen", run, storage=storage)])
    return made


class ObjectStorageTests(StorageContract):
    """``make`` gives a storage of the server (or of the one behind ``port``) in an empty bucket; ``values`` are the
    secrets that it needs, which also stand in the environment of the test."""

    key_name: ClassVar[str] = "key"
    refused: ClassVar[bytes]
    """An answer that credentials are no good."""

    @pytest.fixture
    def values(self) -> dict[str, str]:
        raise AssertionError("each server has its own")

    @pytest.fixture
    def make(self) -> Make:
        raise AssertionError("each server has its own")

    @pytest.fixture
    def port(self) -> int:
        raise AssertionError("each server has its own")

    @pytest.fixture(autouse=True)
    async def kept(self, anyio_backend: str) -> AsyncIterator[None]:
        """As in the agent: clients stay open."""
        async with clients():
            yield

    @pytest.fixture(autouse=True)
    def environment(self, own_home: Path, values: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    @pytest.fixture
    def secrets(self, values: dict[str, str]) -> Secrets:
        return Secrets(values)

    @pytest.fixture
    def world(self, tmp_path: Path) -> Path:
        folder = tmp_path / "world"
        folder.mkdir()
        return folder

    @pytest.fixture
    def sources(self, tmp_path: Path) -> Path:
        """A folder of scripts."""
        folder = tmp_path / "sources"
        (folder / "lib").mkdir(parents=True)
        (folder / "flow.py").write_text(SCRIPT)
        (folder / "lib" / "helper.py").write_text("ANSWER = 42\n")
        return folder

    @pytest.fixture(params=["pickle", "script", "pinned folder", "folder"])
    def storage(self, request: pytest.FixtureRequest, make: Make, sources: Path) -> Any:
        script = {"stored_as_script": True, "local_script_path": sources / "flow.py"}
        return make(
            **{
                "pickle": {},
                "script": script,
                "pinned folder": {**script, "root": sources, "pin": True},
                "folder": {**script, "root": sources},
            }[request.param]
        )

    @pytest.fixture
    def registration(self, storage: Any) -> Registration:
        return registered(storage)

    @pytest.fixture
    def missing(self, registration: Registration) -> Registration:
        location = {**registration.location, "key": "there/is-none", "version": None}
        return Registration(**{**vars(registration), "location": location})

    @pytest.fixture
    def pickled(self, make: Make) -> Registration:
        return registered(make())

    @pytest.fixture
    def proxy(self, port: int) -> Iterator[FaultProxy]:
        with FaultProxy(port) as proxy:
            yield proxy

    # Storing

    async def test_a_flow_lies_under_its_slug_and_the_time(self, pickled: Registration) -> None:
        assert pickled.location["key"].startswith("tagliche-zahlen/20")
        assert pickled.location["key"].count("/") == 1

    async def test_the_registration_holds_names_only(self, pickled: Registration, values: dict[str, str]) -> None:
        text = repr(pickled)
        assert not any(value in text for value in values.values())

    async def test_two_flows_do_not_get_one_object(self, make: Make) -> None:
        storage = make(**{self.key_name: "one"})
        with pytest.raises(RegistrationError, match="several flows"):
            build_registrations([Flow("a", double, storage=storage), Flow("b", double, storage=storage)])

    async def test_what_is_refused_leaves_nothing(self, make: Make, secrets: Secrets) -> None:
        storage = make()
        lock = threading.Lock()
        with pytest.raises(RegistrationError):
            build_registrations([Flow("good", double, storage=storage), Flow("bad", lambda: lock, storage=make())])
        async with storage.connect(secrets) as store:
            try:
                left = await store.keys("", 10)
            except base.StoreError:  # these credentials may not list
                return
        assert left == []

    # Versions

    async def test_what_was_overwritten_is_what_was_registered_or_nothing(
        self, make: Make, secrets: Secrets, into: Path
    ) -> None:
        storage = make(**{self.key_name: "fixed", "overwrite": True})
        first = registered(storage)
        registered(make(**{self.key_name: "fixed", "overwrite": True}), triple)
        found = await storage.fetch(first, into, secrets)
        if first.location["version"]:
            assert found.digest == first.digest
        else:
            with pytest.raises(VerificationError) as caught:
                verify(first, found, into)
            assert caught.value.reason is Reason.DIGEST_MISMATCH

    async def test_what_was_deleted_is_not_found(
        self, make: Make, pickled: Registration, secrets: Secrets, into: Path
    ) -> None:
        storage = make()
        async with storage.connect(secrets) as store:
            await store.delete(pickled.location["key"], version=pickled.location["version"])
        with pytest.raises(FetchError, match="404") as caught:
            await storage.fetch(pickled, into, secrets)
        assert (caught.value.reason, caught.value.transient) == (Reason.FLOW_NOT_FOUND, False)

    async def test_an_object_that_is_there_is_not_overwritten_unasked(self, make: Make) -> None:
        registered(make(**{self.key_name: "fixed"}))
        with pytest.raises(RegistrationError) as caught:
            registered(make(**{self.key_name: "fixed", "overwrite": False}), triple)
        assert "overwrite=True" in str(caught.value.hint)

    async def test_what_is_there_already_is_nobodys_to_remove(self, make: Make, secrets: Secrets, into: Path) -> None:
        storage = make(**{self.key_name: "fixed", "overwrite": False})
        first, second = registered(make(**{self.key_name: "fixed"})), registered(storage)
        assert (first.location["uploaded"], second.location["uploaded"]) == (True, False)
        assert (await storage.fetch(second, into, secrets)).digest == first.digest

    async def test_an_upload_whose_answer_is_lost_is_not_in_its_own_way(
        self, make: Make, secrets: Secrets, proxy: FaultProxy, values: dict[str, str]
    ) -> None:
        storage = make(port=proxy.port, **{self.key_name: "once", "overwrite": False})
        await self.warm(storage, secrets)
        proxy.lose = 1
        made = registered(storage)
        assert not proxy.lose
        async with make().connect(secrets) as store:
            assert made.location["version"] in (None, "") or await store.check("once")

    async def test_a_large_object_goes_up_and_comes_back(self, make: Make, secrets: Secrets, tmp_path: Path) -> None:
        source = tmp_path / "large"
        source.write_bytes(os.urandom(1 << 20) * 40)
        async with make().connect(secrets) as store:
            put = await store.put("large", source)
            got = await store.get("large", tmp_path / "back")
        assert got is not None
        assert (put.digest, put.size, put.version) == (got.digest, got.size, got.version)
        assert (tmp_path / "back").stat().st_mode & 0o777 == 0o600

    # Credentials

    async def test_a_named_secret_that_is_nowhere_is_said(self, make: Make, pickled: Registration, into: Path) -> None:
        storage = make(named="THERE_IS_NONE")
        with pytest.raises(SecretNotFound, match="THERE_IS_NONE"):
            await storage.fetch(pickled, into, Secrets({}))

    async def test_it_can_be_checked(self, make: Make, secrets: Secrets, pickled: Registration) -> None:
        async with make().connect(secrets) as store:
            assert await store.check(pickled.location["key"])
            assert await store.check()
            assert store.credentials

    # Faults on the way

    async def failure(self, storage: Any, registration: Registration, secrets: Secrets, into: Path) -> FetchError:
        began = time.monotonic()
        with pytest.raises(FetchError) as caught:
            await storage.fetch(registration, into, secrets)
        assert time.monotonic() - began < 10
        assert registration.flow in str(caught.value)
        return caught.value

    @pytest.mark.parametrize("fault", ["refused", "reset", "cut head", "cut body", "hang", "hang in body"])
    async def test_what_may_pass_is_transient(
        self,
        fault: str,
        make: Make,
        pickled: Registration,
        secrets: Secrets,
        into: Path,
        proxy: FaultProxy,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        storage = make(port=proxy.port)
        await self.warm(storage, secrets)
        monkeypatch.setattr(base, "ANSWER_WITHIN", 1.0)
        for module in self.modules():
            monkeypatch.setattr(module, "ANSWER_WITHIN", 1.0, raising=False)
        match fault:
            case "refused":
                proxy.refuse()
            case "reset":
                proxy.reset = True
            case "cut head":
                proxy.cut = 45
            case "cut body":
                proxy.cut = 5000
            case "hang":
                proxy.hang = "head"
            case "hang in body":
                proxy.hang = "body"
        error = await self.failure(storage, pickled, secrets, into)
        assert error.transient, error
        assert "cannot be written" not in str(error)  # what is said of the disk

    def modules(self) -> list[Any]:
        """Those that hold time limits."""
        return []

    async def warm(self, storage: Any, secrets: Secrets) -> None:
        """Whatever is asked for before the object."""
        async with storage.connect(secrets):
            pass

    @pytest.mark.parametrize(
        ("answer", "after"),
        [
            (http("503 Service Unavailable", Retry_After="7"), 7.0),
            (http("503 Service Unavailable"), None),
            (http("500 Internal Server Error"), None),
            (http("429 Too Many Requests", Retry_After="3"), 3.0),
        ],
    )
    async def test_a_busy_store_is_transient_and_says_when(
        self,
        answer: bytes,
        after: float | None,
        make: Make,
        pickled: Registration,
        secrets: Secrets,
        into: Path,
        proxy: FaultProxy,
    ) -> None:
        proxy.replies = [answer]
        error = await self.failure(make(port=proxy.port), pickled, secrets, into)
        assert (error.transient, error.retry_after) == (True, after)

    async def test_another_program_that_answers_is_not_taken_for_the_store(
        self, make: Make, pickled: Registration, secrets: Secrets, into: Path, proxy: FaultProxy
    ) -> None:
        proxy.replies = [http("200 OK", b"<html>please log in</html>", Content_Type="text/html")]
        error = await self.failure(make(port=proxy.port), pickled, secrets, into)
        assert error.transient, error

    async def test_a_store_that_drips_is_left(
        self,
        make: Make,
        pickled: Registration,
        secrets: Secrets,
        into: Path,
        proxy: FaultProxy,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        storage = make(port=proxy.port)
        await self.warm(storage, secrets)
        monkeypatch.setattr(base, "ANSWER_WITHIN", 1.0)
        monkeypatch.setattr(base, "SLOWEST", 10_000)
        for module in self.modules():
            monkeypatch.setattr(module, "ANSWER_WITHIN", 3.0, raising=False)
        proxy.rate = 300
        error = await self.failure(storage, pickled, secrets, into)
        assert error.transient, error

    async def test_a_name_that_is_not_resolved_is_transient(
        self, make: Make, pickled: Registration, secrets: Secrets, into: Path
    ) -> None:
        error = await self.failure(make(host="no-such-host.invalid"), pickled, secrets, into)
        assert error.transient, error

    async def test_refused_credentials_last_and_tell_the_way_out(
        self, make: Make, pickled: Registration, secrets: Secrets, into: Path, proxy: FaultProxy, values: dict[str, str]
    ) -> None:
        proxy.replies = [self.refused]
        error = await self.failure(make(port=proxy.port), pickled, secrets, into)
        assert not error.transient
        assert error.hint
        assert not any(value in f"{error}{error.hint}" for value in values.values())

    # Many

    async def test_two_hundred_fetches_at_once_do_not_hold_up_the_event_loop(
        self, make: Make, pickled: Registration, secrets: Secrets, into: Path
    ) -> None:
        storage, longest = make(), 0.0

        async def one(number: int) -> None:
            folder = into / str(number)
            folder.mkdir()
            await storage.fetch(pickled, folder, secrets)

        async def watch() -> None:
            nonlocal longest
            while True:
                before = time.monotonic()
                await anyio.sleep(0.01)
                longest = max(longest, time.monotonic() - before)

        async with clients():
            await self.warm(storage, secrets)
            async with storage.connect(secrets), anyio.create_task_group() as watching:
                watching.start_soon(watch)
                async with anyio.create_task_group() as tasks:
                    for number in range(200):
                        tasks.start_soon(one, number)
                watching.cancel_scope.cancel()
        assert len(files_below(into)) == 200
        assert longest < 5.0  # seconds; a bench measures it, this finds a fetch that blocks
