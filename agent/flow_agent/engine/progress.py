"""How far a build, a pull or a push is, in lines for whoever waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from flow_agent.errors import EngineError

EVERY = 2.0
"""Seconds between two lines about one transfer."""


class Progress:
    """Hands lines to ``say``; setting ``unwanted`` ends what reports to it at its next word, since a thread that
    listens to an engine cannot be ended from outside."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._layers: dict[str, tuple[int, int]] = {}
        self._last = time.monotonic()
        self.unwanted = False

    def say(self, text: str) -> None:
        """Tell ``text``, a line."""
        self._say(text)

    def goes_on(self) -> None:
        """Called between two words of the engine.

        Raises EngineError: nobody wants to hear more.
        """
        if self.unwanted:
            raise EngineError("it is not wanted any more", transient=False)

    def transfer(self, doing: str, image: str, said: Mapping[str, Any]) -> None:
        """Take what the engine says of one layer, and tell the sum of all now and then."""
        self.goes_on()
        detail, layer = said.get("progressDetail"), said.get("id")
        if not isinstance(detail, Mapping) or layer is None or not detail.get("total"):
            return
        self._layers[str(layer)] = (min(int(detail.get("current") or 0), int(detail["total"])), int(detail["total"]))
        if time.monotonic() - self._last >= EVERY:
            self._last = time.monotonic()
            done, total = (sum(each[place] for each in self._layers.values()) for place in (0, 1))
            self.say(f"{doing} {image}: {_megabytes(done)} of {_megabytes(total)} MB")

    def transferred(self, done: str, image: str) -> None:
        """The transfer has come to its end."""
        total = sum(each[1] for each in self._layers.values())
        self._layers.clear()
        self.say(f"{done} {image}" + (f" ({_megabytes(total)} MB)" if total else ""))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f}"
