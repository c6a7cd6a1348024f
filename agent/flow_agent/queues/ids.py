"""Run ids: lowercase ULIDs, in order also inside one millisecond and when the clock goes back."""

from __future__ import annotations

import secrets
import threading

from ulid import ULID

_RANDOM_BITS = 80
_lock = threading.Lock()
_last = 0


def new_id(now: float) -> str:
    """An id of the time ``now`` (seconds since the epoch), larger than every id this process made before."""
    global _last  # noqa: PLW0603 - the order holds for the whole process, whatever queue asks
    with _lock:
        fresh = (int(now * 1000) << _RANDOM_BITS) | secrets.randbits(_RANDOM_BITS)
        # One more than the last one also carries over into the time when all random bits are set.
        _last = fresh if fresh >> _RANDOM_BITS > _last >> _RANDOM_BITS else _last + 1
        return str(ULID.from_int(_last)).lower()
