"""What does it cost to fetch flows from repositories?

One file, and a folder of 2,000 files, of one repository: for the first time, then from the cache (pinned), and asked
whether it has changed (not pinned). By Git from git http-backend, and by GitHub from what plays its API, both over the
same repository of this machine, in another process. Beside each `git clone --depth 1` from that http-backend, in turns.
Then the peak memory of the process that fetches the folder.
Budget: none yet; the first fetch of the folder is shown beside the clone.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import harness

sys.path.insert(0, str(Path(__file__).parents[1]))

from flow_agent import Flow
from flow_agent.cache import Cache
from flow_agent.model import Registration
from flow_agent.objects.pool import clients
from flow_agent.registration import build_registrations
from flow_agent.resolver import Resolver
from flow_agent.storages import Git, GitHub
from servers.git_hosts import playing
from servers.git_servers import http_backend

FILES, ROUNDS = 2_000, 5
NOBODY = Resolver(())
KINDS = ("Git", "GitHub")
PARTS: Mapping[str, dict[str, str]] = {"one file": {}, "folder of 2,000 files": {"root": "."}}
TEXT = "from flow_agent import flow\n\n\n@flow(name='one')\ndef one():\n    return 1\n"


def repository(folder: Path) -> None:
    """A bare repository of ``FILES`` files of about 3 kB in 100 folders, one of them a flow."""
    bare, work = folder / "repository.git", folder / "work"
    work.mkdir()
    (work / "flow.py").write_text(TEXT)
    words = random.Random(1)
    for number in range(FILES - 1):
        place = work / f"part{number % 100}" / f"module{number}.py"
        place.parent.mkdir(exist_ok=True)
        place.write_text("".join(f"VALUE_{line} = {words.getrandbits(64)}\n" for line in range(90)))
    git = ["git", "-C", str(work), "-c", "user.name=bench", "-c", "user.email=bench@example.org"]
    harness.program("git", "init", "-q", "--bare", "-b", "trunk", str(bare))
    for command in (
        ["init", "-q", "-b", "trunk"],
        ["add", "-A"],
        ["commit", "-q", "-m", "first"],
        ["push", "-q", str(bare), "trunk"],
    ):
        harness.program(*git, *command)
    shutil.rmtree(work)


# The servers have a process of their own, so that their work is not taken for ours


def serve(folder: Path) -> None:
    """Print the two addresses, and serve until stdin ends."""
    with http_backend(folder) as git, playing(folder / "repository.git") as hosts:
        print(f"{git.url}/repository.git", f"{hosts.url}/github", flush=True)
        sys.stdin.read()


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, str]]:
    """The addresses of the repository: for git, and of the API."""
    command = [sys.executable, __file__, "serve", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        git, api = process.stdout.readline().split()
        try:
            yield git, api
        finally:
            process.communicate()


def storage(kind: str, urls: tuple[str, str], **given: Any) -> Git | GitHub:
    git, api = urls
    return Git("flow.py", git, **given) if kind == "Git" else GitHub("owner/name", "flow.py", base_url=api, **given)


async def fetched(source: Git | GitHub, made: Registration, cache: Cache, into: Path) -> float:
    """Seconds of one fetch into a new folder."""
    into.mkdir()
    began = time.perf_counter()
    found = await cache.fetch(source, made, into, NOBODY)
    seconds = time.perf_counter() - began
    assert (into / "payload" / str(found.payload["path"])).is_file()
    return seconds


def cloned(url: str, into: Path) -> float:
    """Seconds of a clone."""
    return harness.timed(lambda: harness.program("git", "clone", "-q", "--depth", "1", url, str(into)))


@dataclass(frozen=True)
class Subject:
    """One of the things that are fetched: as it is now, and pinned."""

    kind: str
    part: str
    follows: Git | GitHub
    following: Registration
    stays: Git | GitHub
    pinned: Registration

    async def times(self, folder: Path) -> dict[str, float]:
        """Seconds of each way to fetch it, with an empty cache at first."""
        folder.mkdir()
        cache = Cache(folder / "cache", 10**9)
        first = await fetched(self.follows, self.following, cache, folder / "first")
        again = await fetched(self.follows, self.following, cache, folder / "again")
        await fetched(self.stays, self.pinned, cache, folder / "pinned")
        kept = await fetched(self.stays, self.pinned, cache, folder / "kept")
        return {"for the first time": first, "asked whether it has changed": again, "pinned, from the cache": kept}


def subjects(urls: tuple[str, str]) -> Iterator[Subject]:
    for kind in KINDS:
        for part, given in PARTS.items():
            both = [storage(kind, urls, **given), storage(kind, urls, **given, pin=True)]
            made = [build_registrations([Flow("one", storage=each)])[0] for each in both]
            yield Subject(kind, part, both[0], made[0], both[1], made[1])


async def fetching(urls: tuple[str, str], folder: Path) -> None:
    # Nothing is removed before the end: ext4 is slow to make files for seconds after many were removed.
    every = await anyio.to_thread.run_sync(lambda: list(subjects(urls)))
    found: dict[tuple[str, str, str], list[float]] = {}
    clones = []
    async with clients():
        for number in range(ROUNDS):
            clones.append(await anyio.to_thread.run_sync(cloned, urls[0], folder / f"clone{number}"))
            for at, each in enumerate(every):
                for what, seconds in (await each.times(folder / f"fetched{number}-{at}")).items():
                    found.setdefault((each.part, what, each.kind), []).append(seconds)
    clone = statistics.median(clones)
    rows = []
    for part, what in dict.fromkeys((part, what) for part, what, _ in found):
        git, api = (statistics.median(found[part, what, kind]) for kind in KINDS)
        rows.append([f"{part}, {what}", git * 1000, git / clone, api * 1000, api / clone])
    harness.table(["fetch", "Git ms", "/ clone", "GitHub ms", "/ clone"], rows)
    print(f"\ngit clone --depth 1: {clone * 1000:.0f} ms\n")


# Peak memory, each time of a process of its own


def once(kind: str, git: str, api: str, folder: str) -> None:
    """Fetch one file, then the folder; print the peak memory of this process in MB after each."""
    made = [subject for subject in subjects((git, api)) if subject.kind == kind]

    async def fetch() -> None:
        async with clients():
            for number, each in enumerate(made):
                cache = Cache(Path(folder) / f"cache{number}", 10**9)
                await fetched(each.follows, each.following, cache, Path(folder) / f"into{number}")
                print(peak())

    anyio.run(fetch)


def peak() -> float:
    """MB that this process has held at most; getrusage would count what its parent held."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def memory(urls: tuple[str, str], folder: Path) -> None:
    rows = []
    for kind in KINDS:
        place = folder / f"once-{kind}"
        place.mkdir()
        command = [sys.executable, __file__, "once", kind, *urls, str(place)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append([f"folder by {kind}", *(float(word) for word in done.stdout.split())])
    harness.table(["peak of the process", "MB after one file", "MB after the folder"], rows)


def main() -> None:
    harness.title("What does it cost to fetch flows from repositories?")
    with tempfile.TemporaryDirectory(prefix="flow-agent-bench-") as name:
        folder = Path(name)
        os.environ["FLOW_AGENT_HOME"] = str(folder / "home")
        (folder / "served").mkdir()
        repository(folder / "served")
        with served(folder / "served") as urls:
            anyio.run(fetching, urls, folder)
            memory(urls, folder)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", place]:
            serve(Path(place))
        case ["once", *arguments]:
            once(*arguments)
        case _:
            main()
