"""Writes a return value: JSON where that gives the same value back, else cloudpickle."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import time
from typing import Any

JSON_FILE = "result.json"
PICKLE_FILE = "result.pickle"

WAIT_FOR = 600.0
"""Seconds for which a full disk is waited for."""
ROOM = 262_144
"""Bytes that must be free beyond what the last try could write, before there is another one."""


def is_json(value: Any) -> bool:
    """Whether JSON gives back exactly ``value``: plain types only, text keys. ``value`` must hold no circle."""
    stack = [value]
    while stack:
        item = stack.pop()
        kind = type(item)
        if item is None or kind in (bool, int, float, str):
            continue
        if kind is list:
            stack.extend(item)
        elif kind is dict:
            if not all(type(key) is str for key in item):
                return False
            stack.extend(item.values())
        else:
            return False
    return True


def save(value: Any, folder: str) -> dict[str, Any]:
    """Write ``value`` into ``folder``; ``{"format": "json" | "pickle", "size": bytes}``. A None is not worth a file: it
    is ``{"inline": None}``.

    On a full disk it waits for room, WAIT_FOR seconds at most: what took hours to compute is not thrown away for
    that. While it waits it takes no room itself, or the queue on the same disk could not go on.

    Raises whatever cloudpickle or the disk raise.
    """
    if value is None:
        return {"inline": None}
    until = time.monotonic() + WAIT_FOR
    while True:
        try:
            return _written(value, folder)
        except OSError as error:
            took = _discard(folder)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or time.monotonic() > until:
                raise
        logging.getLogger("flow_agent").warning("no room on the disk for the return value; waiting for some")
        while _free(folder) < took + ROOM and time.monotonic() < until:
            time.sleep(0.25)


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _discard(folder: str) -> int:
    """Delete what was written of a result; how many bytes it was."""
    took = 0
    for name in (JSON_FILE, PICKLE_FILE):
        path = os.path.join(folder, name)
        with contextlib.suppress(FileNotFoundError):
            took += os.stat(path).st_size
            os.unlink(path)
    return took


def _free(folder: str) -> int:
    """Bytes that this user may still write."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def _written(value: Any, folder: str) -> dict[str, Any]:
    try:
        # First, because it finds circles, which the check would follow for ever.
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        text = None
    if text is not None and is_json(value):
        data = text.encode("utf-8", "surrogatepass")
        path = os.path.join(folder, JSON_FILE)  # pathlib costs a cold start some milliseconds
        with open(path, "wb", buffering=0) as file:
            _write(file.fileno(), data)
        return {"format": "json", "size": len(data)}
    import cloudpickle  # most results do not need it

    path = os.path.join(folder, PICKLE_FILE)
    with open(path, "wb") as binary:
        cloudpickle.dump(value, binary)
    return {"format": "pickle", "size": os.stat(path).st_size}
