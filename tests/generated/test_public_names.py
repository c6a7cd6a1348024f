"""The public names are those that the reference lists: a name comes or goes only together with its line there."""

from __future__ import annotations

import re
from pathlib import Path

import flow_agent

REFERENCE = Path(__file__).parents[2] / "docs" / "flows.md"
ROW = re.compile(r"^\| `(?P<name>\w+)` \|", flags=re.MULTILINE)


def listed() -> list[str]:
    """The names of the table under the heading "Public names"."""
    section = REFERENCE.read_text().partition("\n## Public names\n")[2].partition("\n## ")[0]
    return ROW.findall(section)


def test_the_reference_lists_the_public_names():
    assert sorted(listed()) == sorted(flow_agent.__all__)


def test_every_public_name_is_there():
    missing = [name for name in flow_agent.__all__ if not hasattr(flow_agent, name)]

    assert missing == []


def test_dir_shows_the_public_names_before_they_are_used():
    assert set(flow_agent.__all__) <= set(dir(flow_agent))


def test_an_unknown_name_is_an_attribute_error_that_names_it():
    assert not hasattr(flow_agent, "no_such_name")
