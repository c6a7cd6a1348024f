"""An attempt that is forked finds what one in a fresh interpreter finds, and ends as it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attempts import attempts

pytestmark = pytest.mark.anyio

VARIABLES = {"LANG": "C.UTF-8", "TZ": "Asia/Tokyo", "PYTHONPATH": "/somewhere", "PLAIN": "x", "PYTHONHASHSEED": "7"}


def looks_around() -> dict[str, Any]:
    """All that a program may find at its start, but for numbers that differ each time."""
    import asyncio
    import atexit
    import faulthandler
    import gc
    import json
    import locale
    import logging
    import multiprocessing
    import os
    import resource
    import signal
    import sys
    import threading
    import time
    import warnings

    signals = {
        name: str(signal.getsignal(number)).split(" at ")[0]
        for name, number in sorted(vars(signal).items())
        if name.startswith("SIG") and isinstance(number, signal.Signals)
    }
    status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
    main = sys.modules["__main__"]
    mark = os.environ.pop("FLOW_AGENT_ATTEMPT")
    found = {
        "argv": sys.argv,
        "path": [entry for entry in sys.path if not entry.endswith(".pyz")],
        "flags": str(sys.flags),
        "warnoptions": sys.warnoptions,
        "executable": sys.executable,
        "prefix": sys.prefix,
        "main": sorted(vars(main)),
        "main is in": main.__name__,
        "cwd": os.path.basename(os.getcwd()),
        "environ": dict(os.environ),
        "environ of the kernel": [
            line
            for line in open("/proc/self/environ").read().split("\0")
            if line.startswith("FLOW_AGENT_ATTEMPT=") and line != f"FLOW_AGENT_ATTEMPT={mark}"
        ],
        "umask": os.umask(0o22),
        "nice": os.nice(0),
        "limits": {
            name: resource.getrlimit(number)
            for name, number in sorted(vars(resource).items())
            if name.startswith("RLIMIT")
        },
        "signals": signals,
        "masks": {name: status[name] for name in ("SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd")},
        "privileges": {name: status[name] for name in ("CapEff", "CapPrm", "NoNewPrivs", "Seccomp", "Uid", "Gid")},
        "leader": [os.getsid(0) == os.getpid(), os.getpgrp() == os.getpid()],
        "dumpable": os.stat("/proc/self").st_uid == os.getuid() and os.access("/proc/self/environ", os.R_OK),
        "descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd") if int(name) < 100)[:5],
        "stdin": os.readlink("/proc/self/fd/0"),
        "streams": [
            [
                *[stream.name, stream.mode, stream.encoding, stream.errors, stream.line_buffering, stream.newlines],
                *[stream.write_through, stream.seekable(), stream.isatty(), stream.buffer.name],
                [getattr(sys, f"__{name}__") is stream, stream.closed],
            ]
            for name, stream in (("stdin", sys.stdin), ("stdout", sys.stdout), ("stderr", sys.stderr))
        ],
        "threads": [threading.active_count(), threading.current_thread().name, threading.main_thread().name],
        "tasks": len(os.listdir("/proc/self/task")),
        "gc": [gc.isenabled(), gc.get_threshold(), gc.get_debug()],
        "recursion": [sys.getrecursionlimit(), sys.getswitchinterval()],
        "hash": hash("the same with the same seed"),
        "filters": [str(each) for each in warnings.filters],
        "loggers": [logging.root.level, [type(each).__name__ for each in logging.root.handlers]],
        "exits": atexit._ncallbacks(),
        "hooks": [hook is original for hook, original in ((sys.excepthook, sys.__excepthook__),)],
        "tracing": [sys.gettrace(), sys.getprofile(), faulthandler.is_enabled()],
        "time zone": [time.tzname, time.timezone],
        "locale": [locale.setlocale(locale.LC_ALL), sys.getfilesystemencoding(), sys.getdefaultencoding()],
        "asyncio": type(asyncio.new_event_loop()).__name__,
        "multiprocessing": [multiprocessing.current_process().name, multiprocessing.active_children()],
        "ours": sorted(name for name in sys.modules if name.startswith(("flow_agent.launchers", "flow_agent.redact"))),
        "CPU time": time.process_time() < 2,
    }
    return json.loads(json.dumps(found))


@pytest.fixture
async def both(tmp_path: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for start in ("fork", "fresh"):
        async with attempts(tmp_path / start, start=start) as launch:
            found[start] = await launch.value(looks_around, env=VARIABLES)
    return found


async def test_a_forked_attempt_finds_what_a_fresh_interpreter_finds(both: dict[str, dict[str, Any]]) -> None:
    assert both["fork"] == both["fresh"]
    fresh = both["fresh"]
    # What the comparison would not show, were both wrong.
    assert fresh["argv"] == ["looks_around"]
    assert fresh["environ of the kernel"] == []
    assert fresh["time zone"][0][0] == "JST"
    assert "/somewhere" in fresh["path"]
    assert fresh["ours"] == []
    assert fresh["stdin"] == "/dev/null"


def cmdline() -> str:
    return open("/proc/self/cmdline").read()


async def test_what_was_compared_were_a_fork_and_a_program(tmp_path: Path) -> None:
    async with attempts(tmp_path / "fork") as launch:
        assert "flow_agent.launchers.zygote" in await launch.value(cmdline)
    async with attempts(tmp_path / "fresh", start="fresh") as launch:
        assert "flow_agent.runner.main" in await launch.value(cmdline)


def forgets() -> None:
    """Leaves a thread, an exit handler, unwritten text in a file that is never closed, and a daemon thread."""
    import atexit
    import builtins
    import threading
    import time

    def late() -> None:
        time.sleep(0.3)
        print("thread")

    threading.Thread(target=late).start()
    threading.Thread(target=time.sleep, args=[300], daemon=True).start()
    atexit.register(print, "exit handler")
    builtins.kept = open("forgotten", "w")  # nothing closes it but the end
    builtins.kept.write("text")
    atexit.register(lambda: print("not written yet:", repr(open("forgotten").read())))


@pytest.mark.parametrize("start", ["fork", "fresh"])
async def test_both_end_alike(tmp_path: Path, start: str) -> None:
    async with attempts(tmp_path, start=start) as launch:
        attempt = await launch(forgets)
        ending = await attempt.end()
        assert ending.code == 0
        assert attempt.texts == ["thread", "not written yet: ''", "exit handler"]
        assert (launch.root / attempt.ref / "work" / "forgotten").read_text() == "text"


def rolls() -> list[Any]:
    import os
    import random
    import tempfile
    import uuid

    return [random.random(), str(uuid.uuid4()), next(tempfile._get_candidate_names()), os.getpid()]


async def test_no_two_attempts_share_their_randomness(tmp_path: Path) -> None:
    async with attempts(tmp_path) as launch:
        first, second = await launch.value(rolls), await launch.value(rolls)
    assert all(one != other for one, other in zip(first, second, strict=True))


def leaves_traces() -> int:
    import builtins
    import logging
    import os
    import signal
    import sys

    builtins.trace = getattr(builtins, "trace", 0) + 1
    sys.path.append("/trace")
    os.environ["TRACE"] = "1"
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    logging.disable()
    os.umask(0o777)
    return builtins.trace


async def test_what_an_attempt_changes_ends_with_it(tmp_path: Path) -> None:
    async with attempts(tmp_path) as launch:
        before = await launch.value(looks_around)
        keepers = set()
        for _ in range(8):
            attempt = await launch(leaves_traces)
            keepers.add(launch.keeper(attempt)["pid"])
            ending = await attempt.end()
            assert json.loads(Path(ending.result or "").read_text()) == 1
            await launch.launcher.remove(attempt.ref)
        assert await launch.value(looks_around) == before
    assert len(keepers) < 8, "no keeper was used again, so this shows nothing"
