"""The process launcher: the contract, and what only real processes and real signals can show."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import cloudpickle
import psutil
import pytest

from attempts import attempts
from flow_agent import workspace
from flow_agent.errors import LaunchError
from flow_agent.launchers import linux
from flow_agent.launchers.process import ProcessLauncher, open_launcher
from flow_agent.model import LaunchSpec
from flow_agent.testing.launcher_contract import Launch, Launched, LauncherContract, prints_and_returns, sleeps

pytestmark = pytest.mark.anyio


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return workspace.spool_root(tmp_path, "test")


@pytest.fixture
async def launcher(tmp_path: Path, root: Path) -> AsyncIterator[ProcessLauncher]:
    before = set(psutil.Process().children(recursive=True))
    async with open_launcher(tmp_path, "test") as launcher:
        yield launcher
        for folder in sorted(path for path in root.iterdir() if path.is_dir()):
            await launcher.stop(folder.name, 0)
            await launcher.remove(folder.name)
    left = set(psutil.Process().children(recursive=True)) - before
    psutil.wait_procs(left, timeout=5)  # a keeper that was another launcher's child may still be on its way out
    assert {process for process in left if linux.start_time(process.pid) is not None} == set()


@pytest.fixture
def launch(launcher: ProcessLauncher, root: Path) -> Launch:
    count = 0

    async def launch(
        function, *, go=True, lives=60.0, grace=1.0, secrets=(), interpreter=None, output_limit=10**9, **parameters
    ) -> Launched:
        nonlocal count
        count += 1
        folder = workspace.make_spool(root, f"run{count}", 1)
        cloudpickle.register_pickle_by_value(sys.modules[function.__module__])
        (folder / "payload").mkdir()
        try:
            (folder / "payload" / "flow.pickle").write_bytes(cloudpickle.dumps(function))
        finally:
            cloudpickle.unregister_pickle_by_value(sys.modules[function.__module__])
        ref = await launcher.create(
            LaunchSpec(
                run_id=f"run{count}",
                flow=function.__name__,
                claim=1,
                attempt=1,
                folder=str(folder),
                payload={"kind": "pickle", "path": "payload/flow.pickle"},
                parameters=parameters,
                deadline=time.monotonic() + lives,
                grace=grace,
                interpreter=interpreter,
                env={"PATH": os.environ["PATH"]},
                redacted=tuple(secrets),
                output_limit=output_limit,
            )
        )
        if go:
            await launcher.go(ref)
        return Launched(launcher, ref)

    return launch


class TestProcessLauncher(LauncherContract):
    """All of the contract."""


def talks_in_turns() -> None:
    logging.getLogger().setLevel(logging.DEBUG)
    for i in range(300):
        print(f"out {i}")
        print(f"err {i}", file=sys.stderr)
        logging.debug("log %d", i)
        os.write(1, b"raw %d\n" % i)


async def test_stdout_stderr_and_records_keep_their_true_order(launch: Launch) -> None:
    attempt = await launch(talks_in_turns)
    await attempt.end()
    assert attempt.texts == [f"{what} {i}" for i in range(300) for what in ("out", "err", "log", "raw")]


def raises_much() -> None:
    raise ValueError("\U0001f600x" * 300_000)


async def test_a_record_as_long_as_no_line_may_be_comes_in_pieces(launch: Launch) -> None:
    attempt = await launch(raises_much)
    ending = await attempt.end()
    assert ending.receipt is not None
    assert ending.receipt["reason"] == "raised"
    assert {line.level for line in attempt.lines} == {"ERROR"}
    assert max(len(text) for text in attempt.texts) == 65_536
    assert "".join(attempt.texts).count("\U0001f600x" * 300_000) == 1


def leaves_a_line_open() -> None:
    print("no end", end="")
    logging.warning("record")
    print(" of line")
    print("last", end="")


async def test_an_unfinished_line_stands_before_the_record_that_followed_it(launch: Launch) -> None:
    attempt = await launch(leaves_a_line_open)
    await attempt.end()
    assert attempt.texts == ["no end", "record", " of line", "last"]


def writes_much() -> None:
    sys.stdout.write("x" * 200_000 + "\n" + "é" * 70_000 + "\n")
    sys.stdout.write("y" * 65_536 + "\n" + "end\n")


async def test_long_lines_are_cut_at_the_same_places_however_often_they_are_read(launch: Launch) -> None:
    attempt = await launch(writes_much)
    await attempt.end()
    first = [(line.seq, line.text) for line in attempt.lines]
    again = Launched(attempt.launcher, attempt.ref)
    await again.end()
    assert [(line.seq, line.text) for line in again.lines] == first
    assert "".join(text for _, text in first).replace("\ufffd", "")[:200_000] == "x" * 200_000
    assert first[-1][1] == "end"


def floods() -> None:
    for i in range(20_000):
        print(f"line {i} " + "z" * 80)


async def test_output_beyond_its_bound_leaves_a_counted_gap(launch: Launch) -> None:
    attempt = await launch(floods, output_limit=100_000)
    ending = await attempt.end()
    written = sum(len(f"line {i} ") + 81 for i in range(20_000))
    assert ending.code == 0
    assert f"{written - 100_000} bytes" in attempt.texts[-1]
    assert attempt.lines[-1].level == "WARNING"


def double_forks(pids: str) -> None:
    script = "import os,sys,time\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n"
    script += f"open({pids!r}, 'a').write(f'{{os.getpid()}}\\n')\ntime.sleep(300)"
    subprocess.run([sys.executable, "-c", script], check=True)
    while not os.path.exists(pids):
        time.sleep(0.01)
    print("ready")
    time.sleep(300)


async def test_stop_reaches_children_that_changed_session_and_double_forked(launch: Launch, tmp_path: Path) -> None:
    attempt = await launch(double_forks, pids=str(tmp_path / "pids"))
    async with anyio.create_task_group() as group:

        async def stop() -> None:
            while "ready" not in attempt.texts:
                await anyio.sleep(0.02)
            await attempt.launcher.stop(attempt.ref, 0.2)

        group.start_soon(stop)
        ending = await attempt.end()
    assert ending.ended_by == "stop"
    assert [linux.start_time(int(pid)) for pid in (tmp_path / "pids").read_text().split()] == [None]


def leaves_a_child_behind(pids: str) -> str:
    child = subprocess.Popen(["sleep", "300"], start_new_session=True)
    with open(pids, "w") as file:
        file.write(str(child.pid))
    return "done"


async def test_what_a_flow_leaves_running_is_killed_and_told(launch: Launch, tmp_path: Path) -> None:
    attempt = await launch(leaves_a_child_behind, pids=str(tmp_path / "pids"))
    ending = await attempt.end()
    assert ending.code == 0
    assert "left 1 of its processes running" in attempt.texts[-1]
    assert linux.start_time(int((tmp_path / "pids").read_text())) is None


def ignores_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("deaf")
    time.sleep(300)


async def test_a_flow_deaf_to_sigterm_is_killed_after_the_grace(launch: Launch) -> None:
    attempt = await launch(ignores_sigterm)
    ending = await attempt.end_once_it_writes(grace=0.5, within=15)
    assert (ending.ended_by, ending.signal) == ("stop", signal.SIGKILL)


def cleans_up() -> None:
    def bye(*_):
        # The signal may come inside of the print below, and print cannot be called from within print.
        os.write(1, b"cleaned up\n")
        raise SystemExit(3)

    signal.signal(signal.SIGTERM, bye)
    print("working")
    time.sleep(300)


async def test_a_flow_has_its_grace_to_clean_up(launch: Launch) -> None:
    attempt = await launch(cleans_up)
    ending = await attempt.end_once_it_writes(grace=5, within=15)
    assert "cleaned up" in attempt.texts
    assert ending.code == 3


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
async def test_a_signal_is_told_by_its_number(launch: Launch, number: int) -> None:
    attempt = await launch(lambda number: os.kill(os.getpid(), number), number=int(number))
    ending = await attempt.end()
    assert (ending.code, ending.signal, ending.receipt) == (None, number, None)


async def test_leaving_without_a_word_gives_no_receipt(launch: Launch) -> None:
    attempt = await launch(lambda: os._exit(0))
    ending = await attempt.end()
    assert (ending.code, ending.receipt) == (0, None)


def forks_and_logs() -> None:
    pid = os.fork()
    if pid == 0:
        logging.warning("from the child")
        os._exit(0)
    os.waitpid(pid, 0)
    logging.warning("from the parent")


async def test_a_forked_child_may_log(launch: Launch) -> None:
    attempt = await launch(forks_and_logs)
    ending = await attempt.end()
    assert ending.code == 0
    assert attempt.texts == ["WARNING root: from the child", "from the parent"]


def says_secret_in_pieces(secret: str) -> None:
    for letter in f"<{secret}>":
        os.write(1, letter.encode())
        time.sleep(0.005)
    logging.warning("record with %s", secret)
    raise RuntimeError(f"error with {secret}")


async def test_secrets_are_redacted_across_chunks_in_records_and_in_errors(launch: Launch, root: Path) -> None:
    attempt = await launch(says_secret_in_pieces, secrets=("tr0ub4dor&3",), secret="tr0ub4dor&3")
    ending = await attempt.end()
    assert attempt.texts[:2] == ["<[redacted]>", "record with [redacted]"]
    assert ending.receipt is not None
    assert ending.receipt["detail"] == "RuntimeError: error with [redacted]"
    kept = [path for path in (root / attempt.ref).rglob("*") if path.is_file() and "payload" not in path.parts]
    assert kept
    assert all(b"tr0ub4dor" not in path.read_bytes() for path in kept)


async def test_secrets_stand_in_no_command_line_and_no_environment(launch: Launch) -> None:
    attempt = await launch(sleeps, secrets=("correct horse",), go=False)
    looked = 0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):  # one that has ended says nothing
            assert "correct horse" not in " ".join(process.cmdline())
            assert "correct horse" not in str(process.environ())
            looked += 1
    assert looked >= 3  # the zygote, the keeper and the attempt
    await attempt.launcher.stop(attempt.ref, 0)


async def test_a_missing_interpreter_is_a_launch_error(launch: Launch) -> None:
    with pytest.raises(LaunchError, match="No such file or directory: /nowhere/python"):
        await launch(prints_and_returns, interpreter="/nowhere/python")


@pytest.mark.parametrize("start", ["fork", "fresh"])
async def test_a_program_that_is_no_python_that_we_can_use_is_a_launch_error(tmp_path: Path, start: str) -> None:
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\necho 'Unknown option: -P' >&2\necho 'usage: ...' >&2\nexit 2\n")
    old.chmod(0o755)
    async with attempts(tmp_path / "home", start=start) as launch:
        for _ in range(2):
            with pytest.raises(LaunchError, match=r"ended at its start \(2\): Unknown option: -P") as raised:
                await launch(prints_and_returns, interpreter=str(old))
            assert not raised.value.transient
        # It may be mended.
        old.unlink()
        old.symlink_to(sys.executable)
        attempt = await launch(prints_and_returns, interpreter=str(old))
        assert (await attempt.end()).code == 0


async def test_another_interpreter_needs_nothing_of_ours(launch: Launch, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "other"], check=True)
    attempt = await launch(prints_and_returns, interpreter=str(tmp_path / "other/bin/python"))
    ending = await attempt.end()
    assert (ending.code, attempt.texts) == (0, ["one", "two"])


async def test_a_keeper_that_is_killed_takes_its_attempt_along(launch: Launch, root: Path) -> None:
    attempt = await launch(sleeps)
    who = json.loads((root / attempt.ref / "keeper.json").read_text())
    os.kill(who["pid"], signal.SIGKILL)
    ending = await attempt.end()
    assert ending.lost is not None
    assert "keeper" in ending.lost
    assert linux.start_time(who["child"]) != who["child_start"]


async def test_a_frozen_keeper_does_not_stop_a_stop(launch: Launch, root: Path) -> None:
    attempt = await launch(sleeps)
    who = json.loads((root / attempt.ref / "keeper.json").read_text())
    os.kill(who["pid"], signal.SIGSTOP)
    with anyio.fail_after(20):
        await attempt.launcher.stop(attempt.ref, 0)
        ending = await attempt.end()
    assert ending.lost is not None
    assert linux.start_time(who["child"]) != who["child_start"]


def counts(until: int) -> int:
    for i in range(until):
        print(i)
        time.sleep(0.02)
    return until


async def test_another_life_goes_on_where_the_first_one_stopped(launch: Launch, tmp_path: Path) -> None:
    attempt = await launch(counts, until=60)
    with anyio.move_on_after(0.8):
        await attempt.end()
    seen = len(attempt.lines)
    async with open_launcher(tmp_path, "test") as successor:
        await successor.adopt({attempt.ref})
        again = Launched(successor, attempt.ref)
        with anyio.fail_after(20):
            ending = await successor.wait(attempt.ref, again.sink, attempt=1, after=seen)
    assert [*attempt.texts, *again.texts] == [str(i) for i in range(60)]
    assert ending.code == 0
    assert ending.receipt is not None


async def test_what_nobody_adopts_is_ended_and_removed(launch: Launch, tmp_path: Path, root: Path) -> None:
    attempt = await launch(sleeps)
    who = json.loads((root / attempt.ref / "keeper.json").read_text())
    async with open_launcher(tmp_path, "test") as successor:
        await successor.adopt(set())
    assert not (root / attempt.ref).exists()
    assert linux.start_time(who["child"]) != who["child_start"]


def closes_everything() -> None:
    os.closerange(3, 1000)
    print("still talking")


async def test_a_flow_that_closes_our_descriptors_gets_no_receipt_but_an_honest_end(launch: Launch) -> None:
    attempt = await launch(closes_everything)
    ending = await attempt.end()
    assert attempt.texts == ["still talking"]
    assert (ending.code, ending.receipt) == (0, None)


def returns_twice() -> str:
    return "parent" if os.fork() else "child"


async def test_a_forked_child_that_returns_has_no_say_in_the_result(launch: Launch) -> None:
    attempt = await launch(returns_twice)
    ending = await attempt.end()
    assert ending.code == 0
    assert ending.result is not None
    assert json.loads(Path(ending.result).read_text()) == "parent"


def leaves_success_to_its_child() -> str:
    if os.fork():
        time.sleep(0.5)
        os._exit(0)
    return "child says so"


async def test_a_forked_child_cannot_speak_for_a_parent_that_left_without_a_word(launch: Launch) -> None:
    attempt = await launch(leaves_success_to_its_child)
    ending = await attempt.end()
    assert (ending.code, ending.receipt) == (0, None)


def has_children(pids: str) -> None:
    plain = subprocess.Popen(["sleep", "300"])
    apart = subprocess.Popen(["sleep", "300"], start_new_session=True)
    with open(pids, "w") as file:
        file.write(f"{plain.pid} {apart.pid}")
    print("ready")
    time.sleep(300)


async def test_a_killed_keeper_leaves_nothing_of_its_attempt_behind(launch: Launch, root: Path, tmp_path: Path) -> None:
    attempt = await launch(has_children, pids=str(tmp_path / "pids"))

    async def kill() -> None:
        os.kill(json.loads((root / attempt.ref / "keeper.json").read_text())["pid"], signal.SIGKILL)

    async with anyio.create_task_group() as group:

        async def once_ready() -> None:
            while "ready" not in attempt.texts:
                await anyio.sleep(0.02)
            await kill()

        group.start_soon(once_ready)
        ending = await attempt.end()
    assert ending.lost is not None
    with anyio.fail_after(5):
        while any(linux.start_time(int(pid)) for pid in (tmp_path / "pids").read_text().split()):
            await anyio.sleep(0.02)


async def test_a_folder_that_cannot_be_removed_does_not_keep_an_agent_from_starting(
    launcher: ProcessLauncher, root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    left = workspace.make_spool(root, "old", 1)
    mount = left / "work" / "mounted"
    mount.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "tmpfs", mount], check=False).returncode:
        (left / "work").chmod(0o000)  # no mount here: at least a folder that nobody may look into
        await launcher.adopt(set())
        assert not left.exists()
        return
    try:
        await launcher.adopt(set())
        assert left.exists()
        said = capfd.readouterr()
        assert "spool.left" in said.out + said.err
    finally:
        subprocess.run(["umount", mount], check=True)
