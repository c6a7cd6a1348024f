"""The server's clock: the one that all agents share, whatever the clocks of their machines say."""

from __future__ import annotations

import threading
from collections.abc import Callable


class ServerClock:
    """Time of the server, as the transaction that goes on in this thread sees it; leases are counted by it too.

    It is a wall clock: should it jump forward by more than a lease, leases end early. Servers are kept from that by
    a time service that slews.
    """

    def __init__(self) -> None:
        self._here = threading.local()

    def ask(self, now: Callable[[], float]) -> None:
        """From now on in this thread, ``now`` tells the time (seconds since the epoch)."""
        self._here.now = now

    def now(self) -> float:
        """Seconds since the epoch (UTC)."""
        found: float = self._here.now()
        return found

    def monotonic(self) -> float:
        """The same: the only clock that a server shares with us."""
        return self.now()

    def boot(self) -> str:
        """One name for all its boots: a restart ends no lease."""
        return "server"
