"""Registrations in the database."""

# ruff: noqa: D102 - what the methods of a store do is said in store.Store

from __future__ import annotations

import json

from flow_agent.model import Registration, Run
from flow_agent.queues.tables.rows import packed
from flow_agent.queues.tables.statements import Statements

REMEMBERED = 256
"""Registrations whose parsed form a connection keeps."""


def parsed(text: str) -> Registration:
    """The registration that was packed into ``text``."""
    return Registration.from_json(json.loads(text))


class Flows(Statements):
    """The part of a store that keeps flows."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[str, Registration] = {}

    def _remembered(self, text: str | None) -> Registration | None:
        """Kept by its text, which cannot become stale: the same few flows are claimed again and again."""
        if text is None:
            return None
        found = self._known.get(text)
        if found is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            found = self._known[text] = parsed(text)
        return found

    def newest(self, flow: str) -> Registration | None:
        return self._remembered(self._one("newest_registration", flow=flow))

    def registration(self, flow: str, version: int) -> Registration | None:
        return self._remembered(self._one("registration", flow=flow, version=version))

    def registration_of(self, run: Run) -> Registration | None:
        return self.registration(run.flow, run.version)

    def registrations(self) -> list[Registration]:
        return [parsed(row["registration"]) for row in self._rows("registrations")]

    def flow_names(self) -> list[str]:
        return [row["name"] for row in self._rows("flow_names")]

    def add_registration(self, registration: Registration) -> None:
        self._run(
            "add_registration",
            flow=registration.flow,
            version=registration.version,
            registration=packed(registration.to_json()),
        )
