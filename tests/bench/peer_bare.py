"""Driver for what the system itself needs: ``peer_bare.py WHAT AT_ONCE``, a new process for each call of a function.

``fork``: this small process forks, the child ends. ``fork-loads``: with cloudpickle imported, the child loads the
function out of its pickle and calls it. ``interpreter``, ``interpreter-loads``: the same in a fresh interpreter, for
the first of them out of a line of code. AT_ONCE processes share the work when it is the rate that is asked for.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from serving import PYTHON, serve

LINE = "import time, sys; sys.stdout.write(repr(time.time()))"
LOADS = "import cloudpickle, sys; sys.stdout.write(repr(cloudpickle.loads(open({!r}, 'rb').read())()))"


def first_line() -> float:
    return time.time()


class Bare:
    """One way to call a function in a process of its own; ``once`` gives the moment of its first line."""

    version = PYTHON

    def __init__(self, once: Callable[[], float], at_once: int) -> None:
        self._once, self._at_once = once, at_once

    def first_line(self) -> tuple[float, float]:
        began = time.time()
        found = self._once() - began
        return found, found

    def rate(self, jobs: int) -> float:
        share, began = jobs // self._at_once, time.perf_counter()
        helpers = []
        for _ in range(self._at_once):
            helper = os.fork()
            if helper == 0:
                self._calls(share)
            helpers.append(helper)
        failed = [helper for helper in helpers if os.waitpid(helper, 0)[1] != 0]
        if failed:
            raise RuntimeError(f"{len(failed)} of {len(helpers)} processes failed")
        return share * self._at_once / (time.perf_counter() - began)

    def _calls(self, share: int) -> None:
        code = 1
        try:
            for _ in range(share):
                self._once()
            code = 0
        finally:
            os._exit(code)


def forked(function: Callable[[], float]) -> Callable[[], float]:
    """Call ``function`` in a fork of this process."""

    def once() -> float:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(write, repr(function()).encode())
            os._exit(0)
        os.close(write)
        found = float(os.read(read, 64))
        os.close(read)
        if os.waitpid(child, 0)[1] != 0:
            raise RuntimeError("the child failed")
        return found

    return once


def interpreted(line: str) -> Callable[[], float]:
    """Run ``line`` in a fresh interpreter, which writes the moment."""

    def once() -> float:
        done = subprocess.run(
            [sys.executable, "-c", line], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        return float(done.stdout)

    return once


@contextmanager
def opened(what: str, at_once: int) -> Iterator[Bare]:
    with tempfile.TemporaryDirectory(prefix="flow-agent-bench-") as folder:
        if what == "fork":
            yield Bare(forked(first_line), at_once)
            return
        if what == "interpreter":
            yield Bare(interpreted(LINE), at_once)
            return
        path = Path(folder, "first_line.pickle")
        pickled(path)
        if what == "interpreter-loads":
            yield Bare(interpreted(LOADS.format(str(path))), at_once)
            return
        import cloudpickle  # noqa: F401 - only where it belongs to what is measured

        def loaded() -> float:
            found: float = pickle.loads(path.read_bytes())()
            return found

        yield Bare(forked(loaded), at_once)


def pickled(path: Path) -> None:
    """Store ``first_line`` as an author's flow is stored, by another process: this one stays as small as it is."""
    line = (
        f"import cloudpickle, sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import peer_bare;"
        f" cloudpickle.register_pickle_by_value(peer_bare);"
        f" open({str(path)!r}, 'wb').write(cloudpickle.dumps(peer_bare.first_line))"
    )
    subprocess.run([sys.executable, "-c", line], check=True)


if __name__ == "__main__":
    serve(opened(sys.argv[1], int(sys.argv[2])))
