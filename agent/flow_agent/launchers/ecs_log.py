"""Reads what a task wrote to CloudWatch, piece by piece: nothing twice, and what is lost is seen to be lost."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import anyio
from ulid import ULID

from flow_agent import retry
from flow_agent.errors import CloudError
from flow_agent.events import cloud_waits as waits
from flow_agent.launchers.ecs_client import Services
from flow_agent.launchers.ecs_held import Held
from flow_agent.launchers.ecs_task import CONTAINER, FAMILY
from flow_agent.launchers.marked_log import MarkedLog
from flow_agent.ports import Sink

PIECES = 64
"""Events that one of our lines may be cut into: the driver cuts at 16 KiB, CloudWatch at 256."""

SOUGHT_WITHIN = 60.0
"""Seconds for which the log of a forgotten task is looked for."""


class TaskLog(MarkedLog):
    """``stream`` is log group, region and log stream of the task's container."""

    def __init__(
        self, services: Services, ref: str, nonce: str, stream: tuple[str, str, str], *, attempt: int, after: int
    ) -> None:
        super().__init__(ref, nonce, attempt=attempt, after=after)
        self._services, (self._group, self._region, self._stream) = services, stream
        self._next: str | None = None
        self._torn = ""
        self._pieces = 0
        self.unread: CloudError | None = None
        """Why it cannot be read now."""

    async def read(self, sink: Sink) -> int:
        """Hand over what is there and was not read yet; gives how many events that were.

        Raises CloudError: the log cannot be read now, or at all.
        """
        count = 0
        while not self.over:
            query: dict[str, Any] = {"logGroupName": self._group, "logStreamName": self._stream, "startFromHead": True}
            if self._next is not None:
                query["nextToken"] = self._next
            try:
                answer = await self._services.logged(
                    f"reading the log {self._stream}", "get_log_events", region=self._region, **query
                )
            except CloudError as error:
                if error.code == "ResourceNotFoundException":
                    return count  # nothing has been written yet
                raise
            events = answer["events"]
            await self.take([line for event in events for line in self._whole(event["message"])], sink)
            count += len(events)
            # At the end CloudWatch gives the token that it was given.
            ended = answer["nextForwardToken"] == self._next
            self._next = answer["nextForwardToken"]
            if ended or not events:
                return count
        return count

    @property
    def began(self) -> bool:
        """Whether a line of our own was read, so that nothing else than ``inside`` runs there."""
        return self._number > 0

    def _whole(self, message: str) -> list[bytes]:
        """The line that ``message`` ends; none while there is more to come."""
        text = self._torn + message.removesuffix("\n")
        data = text.encode()
        if self.is_torn(data) and self._pieces < PIECES:
            self._torn, self._pieces = text, self._pieces + 1
            return []
        self._torn, self._pieces = "", 0
        return [data]


async def forgotten(services: Services, held: Held, group: str) -> str | None:
    """The stream of a task that ECS has forgotten, found by the mark of its lines; None: nobody knows of one."""
    if not group or not held.nonce:
        return None
    query: dict[str, Any] = {
        "logGroupName": group,
        "logStreamNamePrefix": f"{FAMILY}/{CONTAINER}/",
        "filterPattern": f'"flow-agent:{held.nonce}:"',
        "startTime": _made_at(held.token),
    }
    try:
        with anyio.move_on_after(SOUGHT_WITHIN):
            while True:
                answer = await retry.reached(
                    partial(services.logged, f"looking for the log of {held.ref}", "filter_log_events", **query),
                    partial(waits, held.ref),
                )
                if answer["events"]:
                    return str(answer["events"][0]["logStreamName"])
                if not answer.get("nextToken"):
                    return None
                query["nextToken"] = answer["nextToken"]
    except CloudError as error:
        waits(held.ref, 0.0, error)
    return None


def _made_at(token: str) -> int:
    """Milliseconds since the epoch before which the run with that token wrote nothing; 0 if it does not tell."""
    try:
        found = ULID.from_str(token.partition("-")[0].upper()).milliseconds
    except ValueError:
        return 0
    return found if found < time.time() * 1000 else 0
