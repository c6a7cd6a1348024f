"""Tells a service manager how the agent is: systemd's ``sd_notify`` protocol, one datagram for each message."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncGenerator, MutableMapping
from contextlib import asynccontextmanager

import anyio

from flow_agent.health import Health

LOOK_EVERY = 1.0
"""Seconds between two looks at what there is to tell, unless the watchdog wants to hear more often."""


class ServiceManager:
    """Whoever started this program and wants to hear of it; ``address`` None: nobody does.

    ``watchdog`` is seconds within which it wants a sign of life, None: it wants none. What cannot be sent is dropped:
    the agent works as well unheard, and whoever waits for a sign of life acts by himself.
    """

    def __init__(self, address: str | None, watchdog: float | None = None) -> None:
        self._address, self._watchdog = address, watchdog
        self._status = ""

    @classmethod
    def taken_from(cls, environment: MutableMapping[str, str]) -> ServiceManager:
        """The one that ``environment`` names, which then does so no more: what this program starts is none of its."""
        address = environment.pop("NOTIFY_SOCKET", None)
        microseconds, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        ours = pid in {"", str(os.getpid())} and microseconds.isdecimal() and int(microseconds) > 0
        return cls(address or None, int(microseconds) / 1e6 if ours else None)

    def ready(self) -> None:
        """The agent works."""
        self._tell("READY=1")

    @asynccontextmanager
    async def told(self, health: Health) -> AsyncGenerator[None]:
        """Keep it told while the block runs, and that this ends."""
        if self._address is None:
            yield
            return
        async with anyio.create_task_group() as group:
            group.start_soon(self._keep_told, health, name="service manager")
            try:
                yield
            finally:
                group.cancel_scope.cancel()
                self._tell("STOPPING=1")

    async def _keep_told(self, health: Health) -> None:
        """The loop that runs the agent says so itself: where it hangs, nothing is said any more."""
        stopping = False
        while True:
            if health.draining and not stopping:
                stopping = True
                self._tell("STOPPING=1")
            if (status := _status(health)) != self._status:
                self._status = status
                self._tell(f"STATUS={status}")
            if self._watchdog is not None and health.stuck() is None:
                self._tell("WATCHDOG=1")
            await anyio.sleep(min(LOOK_EVERY, (self._watchdog or LOOK_EVERY) / 2))

    def _tell(self, message: str) -> None:
        if self._address is None:
            return
        # systemd writes an address without a file with @, where the system has a NUL.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.setblocking(False)
            manager.sendto(message.encode(), address)


def _status(health: Health) -> str:
    """One line for ``systemctl status``."""
    runs = f"{health.runs()} of {health.slots} runs"
    reason = health.not_ready()
    return runs if reason is None else f"{runs}; {reason.why}".replace("\n", " ")
