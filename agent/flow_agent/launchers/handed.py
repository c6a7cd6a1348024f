"""What an attempt elsewhere is handed, and how it tells of itself: both ends of it.

It is handed a JSON object with all that it needs to prepare itself, secrets too, in a file that only it can read. It
tells by lines of its output that begin with a mark, which has a nonce of the attempt, and a number that counts from 1:
so a line that is read twice is known, and one that is missing too. All else in its output is not of ours.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from flow_agent.model import Ending, LaunchSpec, LogLine, Reason, Registration
from flow_agent.runner.first import ORDER

WORDLESS = 124
"""The exit code of a flow's own 0 that is no success: whoever sees only the code must not take it for one."""
FAILED = 125
"""The exit code that says that the flow never began."""
LONGEST_TOLD = 4_000
"""Bytes of the termination message: a kubelet takes 4,096."""


@dataclass(frozen=True, kw_only=True)
class Orders:
    """``grace``, ``fetch_for`` and ``write_for`` are seconds, ``output_limit`` is bytes."""

    run_id: str
    claim: int
    attempt: int
    nonce: str
    registration: Registration
    parameters: Mapping[str, Any]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    grace: float = 10.0
    output_limit: int = 1_000_000_000
    fetch_for: float = 600.0
    write_for: float = 600.0

    def text(self) -> str:
        """The orders as JSON."""
        return json.dumps({**vars(self), "registration": self.registration.to_json()}, default=dict)

    @classmethod
    def of(cls, text: str) -> Orders:
        """The orders that ``text`` gave; fields of a newer program are left out.

        Raises ValueError, KeyError, TypeError: they are none.
        """
        found = json.loads(text)
        values = {name: found[name] for name in cls.__dataclass_fields__ if name in found}
        return cls(**{**values, "registration": Registration.from_json(found["registration"])})


def packed(text: str) -> str:
    """``text`` as a variable can hold it, where each byte counts."""
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def unpacked(text: str) -> str:
    """What ``packed`` was given.

    Raises ValueError: it is no such text.
    """
    try:
        return zlib.decompress(base64.b64decode(text, validate=True)).decode()
    except zlib.error as error:
        raise ValueError(str(error)) from None


def orders_of(spec: LaunchSpec, nonce: str, *, fetch_for: float, write_for: float) -> Orders:
    """The orders of ``spec``, which has a registration."""
    assert spec.registration is not None
    return Orders(
        run_id=spec.run_id,
        claim=spec.claim,
        attempt=spec.attempt,
        nonce=nonce,
        registration=spec.registration,
        parameters=spec.parameters,
        env=spec.env,
        secrets=spec.secrets,
        grace=spec.grace,
        output_limit=spec.output_limit,
        fetch_for=fetch_for,
        write_for=write_for,
    )


_SHORT = frozenset({"code", "signal", "ended_by", "at", "revision"})
"""What of an end is told in whole even where there is no room."""


class Mark:
    """Writes and reads marked lines of one attempt."""

    def __init__(self, nonce: str) -> None:
        self._begin = f"flow-agent:{nonce}:"
        self._pattern = re.compile(re.escape(self._begin).encode() + rb"(\d+) (\{.*\})\r?")
        self._number = 0

    def line(self, **message: Any) -> bytes:
        """The next line."""
        self._number += 1
        return f"{self._begin}{self._number} {json.dumps(message)}\n".encode()

    def is_torn(self, line: bytes) -> bool:
        """Whether ``line`` begins as one of ours and is not whole."""
        return line.startswith(self._begin.encode()) and self.read(line) is None

    def read(self, line: bytes) -> tuple[int, dict[str, Any]] | None:
        """The number and the message of a line; None: it is not of ours, or torn."""
        if (found := self._pattern.fullmatch(line)) is None:
            return None
        try:
            return int(found[1]), dict(json.loads(found[2]))
        except ValueError:
            return None


def log_message(seq: int, line: LogLine) -> dict[str, Any]:
    """A line of the log as it travels."""
    return {"log": [seq, line.time, line.text, line.level, line.logger]}


def log_line(message: Mapping[str, Any], attempt: int) -> LogLine:
    """The line that ``log_message`` gave."""
    seq, time, text, level, logger = message["log"]
    return LogLine(attempt=attempt, source="flow", seq=seq, time=time, text=text, level=level, logger=logger)


def end_message(ending: Ending, revision: str | None) -> dict[str, Any]:
    """How the attempt ended, as it travels; its return value is put away, so that no file is named."""
    told = {name: value for name, value in asdict(ending).items() if value is not None and name != "result"}
    if revision is not None:
        told["revision"] = revision
    return {"exit": told}


def ending_of(told: Mapping[str, Any]) -> Ending:
    """The ending that ``end_message`` gave; fields of a newer program are left out."""
    return Ending(**{name: told[name] for name in Ending.__dataclass_fields__ if name in told})


def termination_message(mark: Mark, message: dict[str, Any]) -> bytes:
    """``message`` for a kubelet, which takes only so much: the tail of the output stands in the log too."""
    line = mark.line(**message)
    if len(line) > LONGEST_TOLD and "exit" in message:
        line = mark.line(exit={**message["exit"], "tail": ""})
    if len(line) > LONGEST_TOLD and "exit" in message:
        receipt = message["exit"].get("receipt") or {}
        short = {name: value for name, value in message["exit"].items() if name in _SHORT}
        said = {"ok": bool(receipt.get("ok")), "reason": receipt.get("reason"), "detail": receipt.get("detail", "")}
        line = mark.line(exit=short | ({"receipt": said | {"detail": said["detail"][:500]}} if receipt else {}))
    if len(line) > LONGEST_TOLD and "failed" in message:
        line = mark.line(failed={**message["failed"], "detail": message["failed"]["detail"][:1_000]})
    return line


def program(place: str) -> str:
    """What python3 does first in an image that lacks flow-agent, which an earlier container has put at ``place``."""
    return f"""{ORDER}
if sys.version_info < (3, 11):
    sys.exit("this is Python %d.%d, expected 3.11 or newer" % sys.version_info[:2])
sys.path.insert(0, "{place}")  # the image may have other versions of what we need; its flow gets those
from flow_agent.inside import main
sys.exit(main(sys.argv[1:]))
"""


def reason_of(word: object) -> Reason:
    """The reason that the attempt itself gave for its end before it began."""
    try:
        return Reason(str(word))
    except ValueError:
        return Reason.LAUNCH_FAILED
