"""What the stand-in of a Kubernetes API keeps: objects with versions, their history, and who waits for more of it."""

from __future__ import annotations

import asyncio
import copy
import re
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

Object = dict[str, Any]
HISTORY = 2_000
"""Events that are remembered; a watch from before that is told 410."""
KINDS = {"jobs": ("batch/v1", "Job"), "pods": ("v1", "Pod"), "secrets": ("v1", "Secret"), "events": ("v1", "Event")}


class Refused(Exception):
    """An answer of the API that is no success."""

    def __init__(self, code: int, reason: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
            **({"details": details} if details else {}),
        }


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def selects(selector: str, labels: dict[str, str]) -> bool:
    """Equality, inequality, existence, absence; what a real server understands besides is not in use."""
    for part in [each.strip() for each in selector.split(",") if each.strip()]:
        if "!=" in part:
            name, _, value = part.partition("!=")
            if labels.get(name) == value:
                return False
        elif "=" in part:
            name, value = re.split("==?", part, maxsplit=1)
            if labels.get(name) != value:
                return False
        elif part.startswith("!"):
            if part[1:] in labels:
                return False
        elif part not in labels:
            return False
    return True


def field_selects(selector: str, found: Object) -> bool:
    for part in [each for each in selector.split(",") if each]:
        path, _, wanted = part.partition("=")
        value: Any = found
        for name in path.split("."):
            value = value.get(name, "") if isinstance(value, dict) else ""
        if value != wanted.lstrip("="):
            return False
    return True


class Store:
    def __init__(self) -> None:
        self.version = 1_000
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.history: list[tuple[int, str, str, Object]] = []
        self.forgotten = self.version
        """Versions up to here are too old to be watched from."""
        self._changed = asyncio.Event()

    # Reading

    def get(self, kind: str, namespace: str, name: str) -> Object:
        if (found := self.objects.get((kind, namespace, name))) is None:
            group = f"{kind}.batch" if kind == "jobs" else kind
            raise Refused(404, "NotFound", f'{group} "{name}" not found', name=name, kind=kind)
        return found

    def list(self, kind: str, namespace: str, labels: str = "", fields: str = "") -> list[Object]:
        return [
            found
            for (its_kind, its_namespace, _), found in sorted(self.objects.items())
            if (its_kind, its_namespace) == (kind, namespace)
            and selects(labels, found["metadata"].get("labels") or {})
            and field_selects(fields, found)
        ]

    def check_version(self, version: int) -> None:
        if 0 < version < self.forgotten:
            raise Refused(410, "Expired", f"too old resource version: {version} ({self.forgotten})")

    async def watch(self, kind: str, namespace: str, version: int, labels: str) -> AsyncIterator[tuple[str, Object]]:
        """Events after ``version``, for ever; a BOOKMARK each second in which there is none."""
        at = version
        while True:
            self.check_version(at)
            changed = self._changed
            for number, what, its_kind, found in self.history:
                if number <= at:
                    continue
                at = number
                metadata = found["metadata"]
                if (its_kind, metadata["namespace"]) == (kind, namespace) and selects(
                    labels, metadata.get("labels") or {}
                ):
                    yield what, found
            try:
                await asyncio.wait_for(changed.wait(), 1.0)
            except TimeoutError:
                at = max(at, self.version)
                api, name = KINDS[kind]
                yield "BOOKMARK", {"kind": name, "apiVersion": api, "metadata": {"resourceVersion": str(at)}}

    # Writing

    def create(self, kind: str, namespace: str, given: Object) -> Object:
        made = copy.deepcopy(given)
        metadata = made.setdefault("metadata", {})
        name = metadata.get("name") or f"{metadata.get('generateName', '')}{uuid.uuid4().hex[:5]}"
        if (kind, namespace, name) in self.objects:
            group = f"{kind}.batch" if kind == "jobs" else kind
            raise Refused(409, "AlreadyExists", f'{group} "{name}" already exists', name=name, kind=kind)
        api, word = KINDS[kind]
        made |= {"apiVersion": api, "kind": word}
        metadata |= {
            "name": name,
            "namespace": namespace,
            "uid": str(uuid.uuid4()),
            "creationTimestamp": now(),
            "generation": 1,
        }
        return self._write("ADDED", kind, made)

    def save(self, kind: str, changed: Object) -> Object:
        metadata = changed["metadata"]
        if (kind, metadata["namespace"], metadata["name"]) not in self.objects:
            return changed
        return self._write("MODIFIED", kind, changed)

    def remove(self, kind: str, found: Object) -> None:
        metadata = found["metadata"]
        if self.objects.pop((kind, metadata["namespace"], metadata["name"]), None) is not None:
            self._record("DELETED", kind, copy.deepcopy(found))

    def _write(self, what: str, kind: str, found: Object) -> Object:
        self._record(what, kind, found)
        metadata = found["metadata"]
        self.objects[kind, metadata["namespace"], metadata["name"]] = found
        return found

    def _record(self, what: str, kind: str, found: Object) -> None:
        self.version += 1
        found["metadata"]["resourceVersion"] = str(self.version)
        self.history.append((self.version, what, kind, copy.deepcopy(found)))
        if len(self.history) > HISTORY:
            self.forgotten = self.history[len(self.history) - HISTORY][0]
            del self.history[: len(self.history) - HISTORY]
        self.wake()

    def forget(self) -> None:
        """As after a restart: no watch goes on from a version that was given before."""
        self.version += 1
        self.forgotten = self.version
        self.history.clear()
        self.wake()

    def wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def merged(found: Object, patch: Object) -> Object:
    """A JSON merge patch (RFC 7386)."""
    new = copy.deepcopy(found)
    for name, value in patch.items():
        if value is None:
            new.pop(name, None)
        elif isinstance(value, dict):
            new[name] = merged(new[name] if isinstance(new.get(name), dict) else {}, value)
        else:
            new[name] = value
    return new
