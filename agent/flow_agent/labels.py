"""The one rule of matching, in Python; the claim's SQL must equal it (a property test holds them together)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flow_agent.errors import InvalidInput

if TYPE_CHECKING:
    from flow_agent.model import AgentInfo

LONGEST = 255
"""Characters of a label."""


def matches(labels: frozenset[str], launcher: str | None, agent: AgentInfo) -> bool:
    """Whether ``agent`` may take a run that asks for ``labels`` and ``launcher``.

    All labels of the run are among the agent's, compared exactly; a run without labels is for any agent but one
    that takes only labelled runs; the launcher is one of the agent's, or any.
    """
    if not labels and agent.only_labelled:
        return False
    return labels <= agent.labels and (launcher is None or launcher in agent.launchers)


def checked(labels: Iterable[str]) -> frozenset[str]:
    """``labels`` as a set.

    Raises InvalidInput: a label is empty, too long, or has white space at its ends or control characters in it.
    """
    found = frozenset(labels)
    for label in found:
        if not label or len(label) > LONGEST or label != label.strip() or not label.isprintable():
            raise InvalidInput(
                f"label {label!r} is not a label: expected 1 to {LONGEST} printable characters"
                " without white space at either end"
            )
    return found
