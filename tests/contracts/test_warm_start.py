"""Zygotes and keepers: where attempts come from, what they are kept from, what happens when one of these is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from attempts import attempts
from flow_agent.errors import LaunchError
from flow_agent.launchers import linux
from flow_agent.testing.launcher_contract import Launched, prints_and_returns, sleeps

pytestmark = pytest.mark.anyio


def zygotes(of: int | None = None) -> list[psutil.Process]:
    """The zygotes that this process, or ``of``, has started."""
    children = [child for child in psutil.Process(of).children() if linux.start_time(child.pid) is not None]
    return [child for child in children if any("zygote" in part for part in _command(child)[:6])]


def _command(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):  # it ended just now
        return process.cmdline()
    return []


async def zygote() -> psutil.Process:
    with anyio.fail_after(30):
        while not (found := zygotes()):
            await anyio.sleep(0.02)
    return found[0]


# Secrets


def pipes_open() -> int:
    """How many ends of pipes this process has."""
    count = 0
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{descriptor}").startswith("pipe:")
    return count


def searches_its_memory(half: str, other: str) -> list[str]:
    """Which secret can be read anywhere in this process; told by halves, so that asking brings none of it here."""
    import re

    found = set()
    with open("/proc/self/mem", "rb", 0) as memory:
        for line in open("/proc/self/maps").read().splitlines():
            where = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if where is None:
                continue
            start, end = int(where[1], 16), int(where[2], 16)
            memory.seek(start)
            try:
                data = memory.read(end - start)
            except OSError:
                continue
            at = data.find(half.encode())
            while at >= 0:
                if data[at + len(half) :].startswith(other[::-1].encode()):
                    found.add("the secret of another run")
                at = data.find(half.encode(), at + 1)
    return sorted(found)


async def test_no_attempt_finds_the_secret_of_another_run_in_its_memory(tmp_path: Path) -> None:
    secret = "correct-horse-battery-staple"
    half, other = secret[:14], secret[14:][::-1]
    parameters = {"half": half, "other": other}
    async with attempts(tmp_path, ahead=1) as launch:
        attempt = await launch(searches_its_memory, secrets=(secret,), parameters=parameters)
        ending = await attempt.end()
        await launch.launcher.remove(attempt.ref)
        assert ending.code == 0
        for _ in range(4):
            assert await launch.value(searches_its_memory, parameters=parameters) == []


async def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    secret = "correct-horse-battery-staple"
    parameters = {"half": secret[:14], "other": secret[14:][::-1], "secret": secret}
    async with attempts(tmp_path) as launch:
        assert await launch.value(holds_it_and_searches, parameters=parameters) == ["the secret of another run"]


def holds_it_and_searches(half: str, other: str, secret: str) -> list[str]:
    kept = [secret + "!"]
    return searches_its_memory(half, other) if kept else []


async def test_a_keeper_that_was_given_a_secret_keeps_no_second_attempt(tmp_path: Path) -> None:
    async with attempts(tmp_path, ahead=1) as launch:
        seen = []
        for _ in range(4):
            attempt = await launch(prints_and_returns, secrets=("correct horse",))
            seen.append(launch.keeper(attempt)["pid"])
            await attempt.end()
            await launch.launcher.remove(attempt.ref)
        assert len(set(seen)) == 4


# Environments


def tells(name: str) -> Any:
    import os
    import sys

    return [os.environ.get(name), [path for path in sys.path if path.startswith("/of-")]]


async def test_runs_with_other_variables_of_the_interpreter_come_from_another_zygote(tmp_path: Path) -> None:
    async with attempts(tmp_path) as launch:
        for path in ("/of-one", "/of-two", "/of-one"):
            env = {"PYTHONPATH": path, "PLAIN": path}
            assert await launch.value(tells, parameters={"name": "PLAIN"}, env=env) == [path, [path]]
        assert len(zygotes()) == 3


async def test_environments_that_nobody_asks_for_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flow_agent.launchers.nursery.TEND_EVERY", 0.1)
    async with attempts(tmp_path, idle=3.0) as launch:
        await launch.value(prints_and_returns)
        await launch.value(prints_and_returns, env={"PYTHONPATH": "/of-one"})
        assert len(zygotes()) == 2
        with anyio.fail_after(30):
            while len(zygotes()) > 1:
                await anyio.sleep(0.05)
        assert await launch.value(prints_and_returns) == {"x": 1}
        assert len(zygotes()) == 1


async def test_only_so_many_environments_are_kept_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flow_agent.launchers.nursery.MOST", 2)
    async with attempts(tmp_path) as launch:
        for path in ("/of-one", "/of-two", "/of-three"):
            await launch.value(prints_and_returns, env={"PYTHONPATH": path})
        assert len(zygotes()) == 3, "the usual one and two others"


async def test_another_interpreter_gets_a_zygote_of_its_own(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "other"], check=True)
    python = str(tmp_path / "other/bin/python")
    async with attempts(tmp_path) as launch:
        assert await launch.value(where_am_i, interpreter=python) == [python, False, False]
        assert any(process.cmdline()[0] == python for process in zygotes())
        attempt = await launch(prints_and_returns, interpreter=python)
        await attempt.end()
        assert attempt.texts == ["one", "two"]


def where_am_i() -> list[Any]:
    import importlib.util
    import sys

    return [sys.executable, *(importlib.util.find_spec(name) is not None for name in ("anyio", "pydantic"))]


# Preloading


def module(folder: Path, name: str, text: str) -> dict[str, str]:
    (folder / f"{name}.py").write_text(text)
    return {"PYTHONPATH": str(folder)}


def is_loaded(name: str) -> bool:
    import sys

    return name in sys.modules


async def test_what_the_settings_name_is_loaded_before_an_attempt_begins(tmp_path: Path) -> None:
    env = module(tmp_path, "heavy", "import time\ntime.sleep(0.2)\n")
    async with attempts(tmp_path, preload=["heavy"]) as launch:
        assert await launch.value(is_loaded, parameters={"name": "heavy"}, env=env) is True


async def test_a_module_that_cannot_be_preloaded_is_told_and_left_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    env = module(tmp_path, "broken", "raise RuntimeError('on purpose')\n")
    async with attempts(tmp_path, preload=["broken", "absent"], env=env) as launch:
        assert await launch.value(prints_and_returns, env=env) == {"x": 1}
    said = "".join(capfd.readouterr())
    assert "broken: RuntimeError: on purpose" in said
    assert "No module named 'absent'" in said


DISTURBS = """
import os, signal, sys
print('printed while preloading')
os.umask(0)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
sys.stderr = open(os.devnull, 'w')
"""


def state() -> list[Any]:
    """What ``DISTURBS`` changes."""
    import os
    import signal
    import sys

    print("the flow's own line")
    blocked = sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    return [os.umask(0o22), signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL, blocked, sys.stderr.fileno()]


async def test_what_a_preloaded_module_does_to_the_process_no_attempt_finds(tmp_path: Path) -> None:
    before = os.umask(0o27)
    try:
        env = module(tmp_path, "disturbs", DISTURBS)
        async with attempts(tmp_path, preload=["disturbs"]) as launch:
            attempt = await launch(state, env=env)
            ending = await attempt.end()
            assert ending.result is not None, attempt.texts
            assert json.loads(Path(ending.result).read_text()) == [0o27, True, [], 2]
            assert attempt.texts == ["the flow's own line"]
            assert await launch.value(is_loaded, parameters={"name": "disturbs"}, env=env) is True
    finally:
        os.umask(before)


async def test_threads_after_preloading_mean_fresh_interpreters_and_one_warning(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = "import threading, time\nthreading.Thread(target=time.sleep, args=[300], daemon=True).start()\n"
    env = module(tmp_path, "threaded", text)
    async with attempts(tmp_path, preload=["threaded"], env=env) as launch:
        for _ in range(3):
            assert await launch.value(is_loaded, parameters={"name": "threaded"}, env=env) is False
        assert zygotes() == []
    said = "".join(capfd.readouterr())
    assert said.count("process.no_zygote") == 1
    assert "1 threads run in it after its imports" in said


async def test_an_interpreter_that_cannot_be_a_zygote_still_runs_attempts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "other"], check=True)
    site = next((tmp_path / "other/lib").glob("python*/site-packages"))
    (site / "busy.pth").write_text(
        "import threading, time; threading.Thread(target=time.sleep, args=[300], daemon=True).start()\n"
    )
    async with attempts(tmp_path) as launch:
        python = str(tmp_path / "other/bin/python")
        assert (await launch.value(where_am_i, interpreter=python))[0] == python
    assert "process.no_zygote" in "".join(capfd.readouterr())


async def test_what_cannot_be_got_ready_now_ends_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flow_agent.launchers.nursery.TEND_EVERY", 0.05)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "other"], check=True)
    python = str(tmp_path / "other/bin/python")
    (tmp_path / "home").mkdir()
    (tmp_path / "home/runner").touch()  # no folder, so no archive can be put there
    async with attempts(tmp_path / "home") as launch:
        with pytest.raises(LaunchError) as raised:
            await launch(prints_and_returns, interpreter=python)
        assert raised.value.transient
        await anyio.sleep(0.3)  # several looks at what should be ready
        assert await launch.value(prints_and_returns) == {"x": 1}
        (tmp_path / "home/runner").unlink()
        assert await launch.value(prints_and_returns, interpreter=python) == {"x": 1}


# Kills


async def test_a_killed_zygote_takes_no_attempt_along_and_is_replaced(tmp_path: Path) -> None:
    async with attempts(tmp_path) as launch:
        attempt = await launch(sleeps, parameters={"seconds": 1.0})
        first = await zygote()
        first.kill()
        for _ in range(5):
            assert await launch.value(prints_and_returns) == {"x": 1}
        ending = await attempt.end()
        assert (ending.code, ending.lost) == (0, None)
        for _ in range(3):  # each takes a keeper that does not come back
            await launch.value(prints_and_returns, secrets=("correct horse",))
        assert (await zygote()).pid != first.pid


async def test_a_zygote_that_was_killed_is_replaced_before_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flow_agent.launchers.nursery.TEND_EVERY", 0.1)
    async with attempts(tmp_path):
        first = await zygote()
        first.kill()
        with anyio.fail_after(30):
            while (await zygote()).pid == first.pid:
                await anyio.sleep(0.02)


async def test_killed_keepers_that_wait_are_replaced(tmp_path: Path) -> None:
    async with attempts(tmp_path, ahead=3) as launch:
        await launch.value(prints_and_returns)
        pipes = pipes_open()
        for _ in range(4):
            waiting = (await zygote()).children()
            for keeper in waiting:
                keeper.kill()
            while any(linux.start_time(keeper.pid) for keeper in waiting):
                await anyio.sleep(0.001)
            assert await launch.value(prints_and_returns) == {"x": 1}
        assert pipes_open() <= pipes + 3, "one for each that waits"


async def test_a_parked_attempt_that_is_killed_is_replaced(tmp_path: Path) -> None:
    async with attempts(tmp_path, ahead=3) as launch:
        await launch.value(prints_and_returns)
        keepers = (await zygote()).children()
        for keeper in keepers:
            for parked in keeper.children():
                parked.kill()
        while any(linux.start_time(keeper.pid) for keeper in keepers):
            await anyio.sleep(0.001)
        assert await launch.value(prints_and_returns) == {"x": 1}


async def test_a_zygote_is_replaced_after_so_many_keepers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flow_agent.launchers.warm.RECYCLE_AFTER", 3)
    async with attempts(tmp_path, ahead=1) as launch:
        seen, running = set(), []
        for _ in range(8):
            running.append(await launch(sleeps, parameters={"seconds": 1.0}, secrets=("correct horse",)))
            seen.add((await zygote()).pid)
        assert len(seen) > 1
        for attempt in running:
            assert (await attempt.end()).code == 0


async def test_the_end_of_the_daemon_ends_what_waits_and_nothing_else(tmp_path: Path) -> None:
    program = tmp_path / "daemon.py"
    program.write_text(DAEMON)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, program, tmp_path / "home"], stdout=subprocess.PIPE, env=env) as daemon:
        assert daemon.stdout is not None
        keeper = json.loads(daemon.stdout.readline())
        others = psutil.Process(daemon.pid).children(recursive=True)
        daemon.kill()
        daemon.wait()
    kept = {keeper["pid"], keeper["child"]}
    try:
        gone = [process for process in others if process.pid not in kept]
        assert len(gone) >= 3, "the zygote, a waiting keeper, and its parked attempt"
        psutil.wait_procs(gone, timeout=10)
        assert [process for process in gone if linux.start_time(process.pid) is not None] == []
        assert linux.start_time(keeper["child"]) == keeper["child_start"]
    finally:
        os.kill(keeper["pid"], signal.SIGTERM)


DAEMON = """
import json, sys
from pathlib import Path
import anyio
from attempts import attempts
from flow_agent.testing.launcher_contract import sleeps

async def main():
    async with attempts(Path(sys.argv[1])) as launch:
        attempt = await launch(sleeps)
        await anyio.sleep(0.5)
        print(json.dumps(launch.keeper(attempt)), flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


# Limits


def takes_memory(size: int) -> int:
    return len(bytearray(size))


def takes_memory_in_children(size: int, children: int) -> None:
    import subprocess
    import sys
    import time

    program = f"x = bytearray({size}); x[::4096] = b'x' * len(x[::4096]); import time; time.sleep(60)"
    for _ in range(children):
        subprocess.Popen([sys.executable, "-c", program])
    time.sleep(60)


def burns() -> None:
    while True:
        pass


def niceness() -> int:
    import os

    return os.nice(0)


@pytest.mark.parametrize("start", ["fork", "fresh"])
async def test_an_attempt_cannot_take_more_memory_than_its_limit(tmp_path: Path, start: str) -> None:
    async with attempts(tmp_path, start=start) as launch:
        limit = 256 * 2**20
        assert await launch.value(takes_memory, parameters={"size": 2**20}, memory_limit=limit) == 2**20
        attempt = await launch(takes_memory, parameters={"size": 2**30}, memory_limit=limit)
        ending = await attempt.end()
        assert ending.receipt is not None
        assert ending.receipt["reason"] == "out_of_memory"
        assert "memory_limit is 268435456 bytes" in ending.receipt["detail"]


async def test_the_processes_of_an_attempt_share_its_memory_limit(tmp_path: Path) -> None:
    async with attempts(tmp_path) as launch:
        parameters = {"size": 100 * 2**20, "children": 4}
        attempt = await launch(takes_memory_in_children, parameters=parameters, memory_limit=256 * 2**20)
        ending = await attempt.end()
        assert ending.ended_by == "memory"
        assert ending.memory is not None
        assert "memory_limit is 268435456" in ending.memory


async def test_cpu_time_and_niceness_are_limited(tmp_path: Path) -> None:
    async with attempts(tmp_path) as launch:
        attempt = await launch(burns, cpu_time_limit=1)
        ending = await attempt.end()
        assert ending.signal == signal.SIGXCPU
        assert ending.cpu is not None
        assert "cpu_time_limit is 1 s" in ending.cpu
        assert await launch.value(niceness, nice=5) == 5 + os.nice(0)
        assert await launch.value(niceness) == os.nice(0)


# Ends


def overflows_the_stack_of_c() -> None:
    import ctypes
    import resource

    resource.setrlimit(resource.RLIMIT_STACK, (262_144, 262_144))  # it overflows before Python counts too many calls
    call = ctypes.CFUNCTYPE(None)(lambda: call())  # noqa: PLW0108 - it must look its name up each time
    call()


def ignores_sigterm() -> None:
    import signal
    import time

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)


def returns_nothing() -> None:
    print("done")


def leaves_at_once() -> None:
    import os
    import sys

    print("last words", file=sys.stderr)
    os._exit(3)


def is_shot() -> None:
    import os
    import signal

    print("last words")
    os.kill(os.getpid(), signal.SIGKILL)


async def test_a_crash_in_c_tells_where_it_was(tmp_path: Path) -> None:
    async with attempts(tmp_path) as launch:
        attempt = await launch(overflows_the_stack_of_c)
        ending = await attempt.end()
        assert ending.signal in {signal.SIGSEGV, signal.SIGBUS}
        assert "Segmentation fault" in attempt.texts[0]
        assert "test_warm_start.py" in "\n".join(attempt.texts)


async def test_ends_are_told_apart(tmp_path: Path) -> None:
    async with attempts(tmp_path) as launch:
        for function, expected in ((leaves_at_once, (3, None)), (is_shot, (None, signal.SIGKILL))):
            attempt = await launch(function)
            ending = await attempt.end()
            assert (ending.code, ending.signal, ending.receipt, ending.memory) == (*expected, None, None)
            assert ending.tail == "last words"


@pytest.mark.parametrize("function", [sleeps, ignores_sigterm])
async def test_the_keeper_holds_the_time_limit_of_user_code_though_nobody_asks(
    tmp_path: Path, function: Callable[[], None]
) -> None:
    async with attempts(tmp_path) as launch:
        attempt = await launch(function, timeout=0.5, grace=0.2, go=False)
        await anyio.sleep(0.7)  # what is before the word to go does not count
        await launch.launcher.go(attempt.ref)
        began = time.monotonic()
        ending = await attempt.end()
        assert time.monotonic() - began >= 0.5
        number = signal.SIGTERM if function is sleeps else signal.SIGKILL
        assert (ending.ended_by, ending.signal) == ("timeout", number)


async def test_a_keeper_that_somebody_else_ends_gives_its_attempt_the_grace_and_tells_so(tmp_path: Path) -> None:
    async with attempts(tmp_path) as launch:
        attempt = await launch(sleeps)

        async def end_its_keeper() -> None:
            os.kill(launch.keeper(attempt)["pid"], signal.SIGTERM)

        ending = await attempt.end_once_it_writes(end_its_keeper)
        assert (ending.ended_by, ending.signal) == ("keeper", signal.SIGTERM)


async def test_nothing_is_written_for_a_flow_that_returns_none(tmp_path: Path) -> None:
    async with attempts(tmp_path) as launch:
        ending = await (await launch(returns_nothing)).end()
        assert (ending.receipt, ending.result) == ({"ok": True, "result": {"inline": None}}, None)


async def test_what_is_said_too_late_to_one_attempt_does_not_reach_the_next(tmp_path: Path) -> None:
    async with attempts(tmp_path, ahead=1) as launch:
        seen = set()
        for _ in range(6):
            attempt = await launch(prints_and_returns)
            seen.add(launch.keeper(attempt)["pid"])
            await attempt.end()
            await launch.launcher.extend(attempt.ref, time.monotonic() - 10)  # a lease that was extended meanwhile
            await launch.launcher.stop(attempt.ref, 0)
            await launch.launcher.remove(attempt.ref)
        assert len(seen) < 6, "no keeper was used again, so this shows nothing"
        assert await launch.value(prints_and_returns) == {"x": 1}


async def test_many_at_once_all_end(tmp_path: Path) -> None:
    async with attempts(tmp_path) as launch:
        running: list[Launched] = [await launch(prints_and_returns) for _ in range(40)]
        for attempt in running:
            assert (await attempt.end()).code == 0
            await launch.launcher.remove(attempt.ref)
