"""Starts a server of the tests' own environment and sees to its end."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from command import unless_all_is_required

FOLDER = Path(os.environ.get("FLOW_AGENT_TEST_SERVERS") or Path(__file__).parents[2] / ".venv-servers")


def installed(name: str) -> Path:
    """The program ``name`` of the servers' environment; the test is left out if they are not installed."""
    if not (FOLDER / ".ready").exists():
        unless_all_is_required("the servers for the tests are not installed: `make servers`")
    return FOLDER / "bin" / name


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def running(
    command: list[str | Path], port: int, log: Path, env: Mapping[str, str] | None = None, *, tidies_within: float = 0
) -> Iterator[str]:
    """The URL of ``command``, once it listens on ``port`` of this machine; it is killed with all its children, after
    ``tidies_within`` seconds for what it has to tidy up."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={"PATH": os.environ["PATH"], "HOME": str(log.parent), **(env or {})},
            start_new_session=True,
        )
    try:
        _wait_for(process, port, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        if tidies_within:
            process.terminate()
            process.send_signal(signal.SIGCONT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(tidies_within)
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself, and what it said is on its way
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            said = log.read_text(errors="replace")[-2000:]
            assert process.poll() is None, f"the server ended: {said}"
            assert time.monotonic() < end, f"the server does not listen after 60 s: {said}"
            time.sleep(0.05)
        else:
            return
