"""What is fetched once: pinned and followed content, many at once, a full disk, a kill at any moment."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from flow_agent import cache_folder
from flow_agent.cache import Cache, key_of
from flow_agent.errors import FetchError, VerificationError
from flow_agent.model import Registration
from flow_agent.ports import Fetched
from flow_agent.resolver import Resolver

pytestmark = pytest.mark.anyio
NOBODY = Resolver(())


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Remote:
    """A storage whose content is ``data``; it says whether what is known is still so."""

    remote = True

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.fetched = self.asked = self.begun = 0
        self.seconds = 0.0
        self.fail: Exception | None = None
        self.at_once = self.most = 0

    async def fetch(
        self, registration: Registration, into: Path, secrets: Any, known: str | None = None
    ) -> Fetched | None:
        self.at_once += 1
        self.begun += 1
        self.most = max(self.most, self.at_once)
        try:
            await anyio.sleep(self.seconds)
        finally:
            self.at_once -= 1
        if self.fail is not None:
            raise self.fail
        self.asked += 1
        if known == sha(self.data):
            return None
        self.fetched += 1
        digest = sha(self.data)
        if registration.kind == "pickle":
            (into / "flow.pickle").write_bytes(self.data)
            payload = {"kind": "pickle", "path": "flow.pickle"}
        else:
            (into / "payload").mkdir()
            (into / "payload" / "flow.py").write_bytes(self.data)
            payload = {"kind": "script", "root": "payload", "path": "flow.py", "flow": registration.flow}
        return Fetched(payload=payload, revision=digest, digest=digest, validator=digest)


def content(folder: Path) -> bytes:
    """What was fetched."""
    (file,) = (path for path in folder.rglob("*") if path.is_file())
    return file.read_bytes()


def pinned(data: bytes, **location: str) -> Registration:
    return Registration(
        flow="f",
        kind="pickle",
        storage={"type": "S3", "bucket": "b", "credentials_secret": "A"},
        location={"key": "f/1", **location},
        digest=sha(data),
        size=len(data),
        python="3.13",
        cloudpickle="3",
    )


def followed(**location: str) -> Registration:
    return Registration(flow="f", kind="script", storage={"type": "S3"}, location={"key": "f/1", **location})


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", 1_000_000)


@pytest.fixture
def into(tmp_path: Path) -> Callable[[], Path]:
    """A new folder each time."""
    made = 0

    def make() -> Path:
        nonlocal made
        made += 1
        folder = tmp_path / f"into{made}"
        folder.mkdir()
        return folder

    return make


async def test_what_is_pinned_travels_once(cache: Cache, into: Callable[[], Path], tmp_path: Path) -> None:
    storage, data = Remote(b"one"), b"one"
    found = []
    for _ in range(3):
        folder = into()
        found.append(await cache.fetch(storage, pinned(data), folder, NOBODY))
        assert (folder / "flow.pickle").read_bytes() == data
    assert (storage.asked, storage.fetched) == (1, 1)
    assert found[0] == found[1] == found[2]
    storage.fail = FetchError("the store is away", transient=True)
    assert await Cache(tmp_path / "cache", 1_000_000).fetch(storage, pinned(data), into(), NOBODY) == found[0]


async def test_what_follows_its_source_is_asked_for(cache: Cache, into: Callable[[], Path]) -> None:
    storage = Remote(b"one")
    first, second = into(), into()
    await cache.fetch(storage, followed(), first, NOBODY)
    await cache.fetch(storage, followed(), second, NOBODY)
    assert (storage.asked, storage.fetched) == (2, 1)
    storage.data = b"two"
    third = into()
    found = await cache.fetch(storage, followed(), third, NOBODY)
    assert (storage.asked, storage.fetched, found.digest) == (3, 2, sha(b"two"))
    assert [content(each) for each in (first, second, third)] == [b"one", b"one", b"two"]


async def test_what_cannot_be_asked_for_is_not_served_from_before(cache: Cache, into: Callable[[], Path]) -> None:
    """An agent must not run yesterday's script because the network is away."""
    storage = Remote(b"one")
    await cache.fetch(storage, followed(), into(), NOBODY)
    storage.fail = FetchError("the store is away", transient=True)
    with pytest.raises(FetchError, match="away"):
        await cache.fetch(storage, followed(), into(), NOBODY)


@pytest.mark.parametrize("registration", [pinned(b"one"), followed()], ids=["pinned", "followed"])
async def test_many_runs_that_wait_make_one_fetch(
    registration: Registration, cache: Cache, into: Callable[[], Path]
) -> None:
    storage = Remote(b"one")
    storage.seconds = 0.2
    folders = [into() for _ in range(50)]
    async with anyio.create_task_group() as tasks:
        for folder in folders:
            tasks.start_soon(cache.fetch, storage, registration, folder, NOBODY)
    assert (storage.asked, storage.fetched) == (1, 1)
    assert {content(folder) for folder in folders} == {b"one"}


async def test_the_first_fetches_of_an_agent_do_not_get_in_each_others_way(
    cache: Cache, into: Callable[[], Path], tmp_path: Path
) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(40):
            data = b"%d" % number
            tasks.start_soon(cache.fetch, Remote(data), pinned(data, key=str(number)), into(), NOBODY)
    assert len(cache_folder.listed(tmp_path / "cache")) == 40
    assert len(list((tmp_path / "cache/staging").iterdir())) == 1


async def test_runs_that_wait_for_a_store_that_hangs_share_its_failure(cache: Cache, into: Callable[[], Path]) -> None:
    """One after the other they would wait as many times as there are runs."""
    storage, failures = Remote(b"one"), []
    storage.seconds, storage.fail = 0.2, FetchError("no answer", transient=True)

    async def one() -> None:
        with pytest.raises(FetchError) as caught:
            await cache.fetch(storage, pinned(b"one"), into(), NOBODY)
        failures.append(str(caught.value))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for _ in range(30):
                tasks.start_soon(one)
    assert failures == ["no answer"] * 30
    assert storage.begun <= 2  # the first, and one for all that came while it was on its way
    storage.fail = None
    folder = into()
    await cache.fetch(storage, pinned(b"one"), folder, NOBODY)
    assert content(folder) == b"one"


async def test_a_run_that_is_cancelled_leaves_the_others_their_fetch(cache: Cache, into: Callable[[], Path]) -> None:
    storage = Remote(b"one")
    storage.seconds = 0.1
    other = into()
    async with anyio.create_task_group() as tasks:
        with anyio.move_on_after(0.05):
            tasks.start_soon(cache.fetch, storage, followed(), other, NOBODY)
            await cache.fetch(storage, followed(), into(), NOBODY)
    assert content(other) == b"one"


async def test_payloads_of_different_storages_do_not_wait_for_each_other(
    cache: Cache, into: Callable[[], Path]
) -> None:
    slow, quick = Remote(b"slow"), Remote(b"quick")
    slow.seconds = 5.0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cache.fetch, slow, followed(key="slow"), into(), NOBODY)
        await anyio.sleep(0.05)
        with anyio.fail_after(2):
            await cache.fetch(quick, followed(key="quick"), into(), NOBODY)
        tasks.cancel_scope.cancel()
    assert quick.fetched == 1


async def test_files_of_one_content_keep_their_names(cache: Cache, into: Callable[[], Path]) -> None:
    class Named(Remote):
        async def fetch(
            self, registration: Registration, into: Path, secrets: Any, known: str | None = None
        ) -> Fetched | None:
            found = await super().fetch(registration, into, secrets, known)
            assert found is not None
            name = registration.location["script"]
            (into / "payload" / "flow.py").rename(into / "payload" / name)
            return replace(found, payload={**found.payload, "path": name})

    for name in ("a.py", "b.py"):
        folder = into()
        found = await cache.fetch(Named(b"one"), followed(script=name), folder, NOBODY)
        assert (folder / "payload" / found.payload["path"]).name == name
        assert (folder / "payload" / name).is_file()


async def test_who_has_other_credentials_asks_himself(cache: Cache, into: Callable[[], Path]) -> None:
    """Who knows a digest may not be allowed to read what has it."""
    storage = Remote(b"one")
    other = Registration(
        **{**vars(pinned(b"one")), "storage": {"type": "S3", "bucket": "b", "credentials_secret": "B"}}
    )
    assert key_of(other) != key_of(pinned(b"one"))
    await cache.fetch(storage, pinned(b"one"), into(), NOBODY)
    storage.fail = FetchError("403", transient=False)
    with pytest.raises(FetchError, match="403"):
        await cache.fetch(storage, other, into(), NOBODY)


async def test_what_is_not_what_was_registered_is_not_kept(
    cache: Cache, into: Callable[[], Path], tmp_path: Path
) -> None:
    storage = Remote(b"other")
    with pytest.raises(VerificationError):
        await cache.fetch(storage, pinned(b"one"), into(), NOBODY)
    assert cache_folder.listed(tmp_path / "cache") == []
    assert not list((tmp_path / "cache" / "staging").glob("*/*"))


@pytest.mark.parametrize("damage", ["changed", "removed", "no object", "no index", "bad index"])
async def test_what_the_disk_lost_is_fetched_again(
    damage: str, cache: Cache, into: Callable[[], Path], tmp_path: Path
) -> None:
    storage, registration = Remote(b"one"), pinned(b"one")
    await cache.fetch(storage, registration, into(), NOBODY)
    (entry,) = (tmp_path / "cache" / "index").iterdir()
    (kept,) = (tmp_path / "cache" / "objects").iterdir()
    match damage:
        case "changed":
            (kept / "flow.pickle").write_bytes(b"two")
        case "removed":
            (kept / "flow.pickle").unlink()
        case "no object":
            (kept / "flow.pickle").unlink()
            kept.rmdir()
        case "no index":
            entry.unlink()
        case "bad index":
            entry.write_text("{")
    for _ in range(2):
        folder = into()
        await cache.fetch(storage, registration, folder, NOBODY)
        assert (folder / "flow.pickle").read_bytes() == b"one"


async def test_what_an_attempt_does_to_its_files_does_not_reach_the_cache(
    cache: Cache, into: Callable[[], Path]
) -> None:
    storage, first, second = Remote(b"one"), into(), into()
    await cache.fetch(storage, pinned(b"one"), first, NOBODY)
    (first / "flow.pickle").write_bytes(b"mine")
    await cache.fetch(storage, pinned(b"one"), second, NOBODY)
    assert (second / "flow.pickle").read_bytes() == b"one"


async def test_what_was_not_used_for_the_longest_time_leaves_first(tmp_path: Path, into: Callable[[], Path]) -> None:
    cache = Cache(tmp_path / "cache", 2500)
    payloads = {name: name.encode() * 1000 for name in "abc"}
    for at, name in enumerate("ab", 1):
        await cache.fetch(Remote(payloads[name]), pinned(payloads[name], key=name), into(), NOBODY)
        os.utime(tmp_path / "cache/objects" / f"{sha(payloads[name])}-pickle", (at, at))
    await cache.fetch(Remote(b""), pinned(payloads["a"], key="a"), into(), NOBODY)  # used again, without a fetch
    await cache.fetch(Remote(payloads["c"]), pinned(payloads["c"], key="c"), into(), NOBODY)
    assert sorted(each.location for each in cache_folder.listed(tmp_path / "cache")) == ["a", "c"]
    assert len(list((tmp_path / "cache/index").iterdir())) == 2


async def test_a_payload_larger_than_the_limit_passes_through(tmp_path: Path, into: Callable[[], Path]) -> None:
    cache, storage, folder = Cache(tmp_path / "cache", 100), Remote(b"x" * 1000), into()
    await cache.fetch(storage, pinned(b"x" * 1000), folder, NOBODY)
    assert (folder / "flow.pickle").stat().st_size == 1000
    assert cache_folder.listed(tmp_path / "cache") == []
    assert storage.fetched == 1


async def test_without_a_limit_nothing_is_kept(tmp_path: Path, into: Callable[[], Path]) -> None:
    cache, storage = Cache(tmp_path / "cache", 0), Remote(b"one")
    for _ in range(2):
        await cache.fetch(storage, pinned(b"one"), into(), NOBODY)
    assert storage.fetched == 2
    assert not (tmp_path / "cache").exists()


async def test_a_cache_that_cannot_be_written_does_not_keep_a_run_from_starting(
    tmp_path: Path, into: Callable[[], Path]
) -> None:
    (tmp_path / "cache").write_text("this is no folder")
    cache, storage, folder = Cache(tmp_path / "cache", 1000), Remote(b"one"), into()
    await cache.fetch(storage, pinned(b"one"), folder, NOBODY)
    assert (folder / "flow.pickle").read_bytes() == b"one"


async def test_it_can_be_cleared_beside_a_running_agent(cache: Cache, into: Callable[[], Path], tmp_path: Path) -> None:
    storage = Remote(b"one")
    await cache.fetch(storage, pinned(b"one"), into(), NOBODY)
    assert cache_folder.clear(tmp_path / "cache")[0] == 1
    assert cache_folder.listed(tmp_path / "cache") == []
    await cache.fetch(storage, pinned(b"one"), into(), NOBODY)
    assert storage.fetched == 2
    assert [each.flow for each in cache_folder.listed(tmp_path / "cache")] == ["f"]


PROGRAM = textwrap.dedent(
    """
    import hashlib, sys
    from pathlib import Path
    import anyio
    sys.path.insert(0, sys.argv[2])
    from flow_agent.cache import Cache
    from unit.test_cache import NOBODY, Remote, pinned

    async def main():
        cache, number = Cache(Path(sys.argv[1]) / "cache", 10**9), 0
        while True:
            number += 1
            data = b"%d" % number * 20_000
            folder = Path(sys.argv[1]) / f"into-{number}"
            folder.mkdir(exist_ok=True)
            await cache.fetch(Remote(data), pinned(data, key=str(number)), folder, NOBODY)
            print(number, flush=True)

    anyio.run(main)
    """
)


async def test_killed_at_any_moment_it_holds_only_what_is_whole(tmp_path: Path, into: Callable[[], Path]) -> None:
    tests = str(Path(__file__).parents[1])
    for life in range(6):
        command = [sys.executable, "-c", PROGRAM, str(tmp_path), tests]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.013 * life)
            process.send_signal(signal.SIGKILL)
    entries = cache_folder.listed(tmp_path / "cache")
    assert entries
    for entry in entries:
        kept = (tmp_path / "cache/objects" / entry.object / "flow.pickle").read_bytes()
        assert (sha(kept), len(kept)) == (entry.digest, entry.size)
    # What the dead were fetching is gone once another one stages something.
    await Cache(tmp_path / "cache", 10**9).fetch(Remote(b"x"), pinned(b"x", key="x"), into(), NOBODY)
    assert len(list((tmp_path / "cache/staging").iterdir())) == 1
