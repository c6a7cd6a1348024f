"""Flows for the tests of tasks, in a module that the process of a task can import."""

from __future__ import annotations


def writes_much(lines: int, width: int) -> None:
    """A flow with long lines."""
    for number in range(lines):
        print(f"{number} {'x' * width}")


def returns_length(text: str) -> int:
    """A flow with a large parameter."""
    return len(text)
