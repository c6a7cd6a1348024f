"""Texts with the names of secrets in them: what is a name, what is not, and what takes its place."""

from __future__ import annotations

from typing import Any

import pytest

from flow_agent.storages import templates

VALUES = {"X": "x", "x": "small", "MY_VAR": "v1", "MY_VARb": "v2", "_a1": "v3", "NESTED": "$X and ${X}", "EMPTY": ""}


@pytest.mark.parametrize(
    ("text", "gives"),
    [
        ("${X}", "x"),
        ("$X", "x"),
        ("$MY_VAR-b", "v1-b"),
        ("a${MY_VAR}b", "av1b"),
        ("a$MY_VARb", "av2"),  # a name takes every letter that it can
        ("$X$X${X}", "xxx"),
        ("${x}", "small"),  # capitals are letters of their own
        ("$_a1", "v3"),
        ("$$", "$"),
        ("$$X", "$X"),
        ("$${X}", "${X}"),
        ("$$$X", "$x"),
        ("${NESTED}", "$X and ${X}"),  # one pass
        ("[${EMPTY}]", "[]"),
        ("Grüße\n${X}\n☃", "Grüße\nx\n☃"),
        ("${X}ü", "xü"),
        ("$Xü", "xü"),
        ("nothing", "nothing"),
        ("", ""),
    ],
)
def test_a_text_is_filled_in(text: str, gives: str) -> None:
    assert templates.filled(templates.checked(text, "it"), VALUES) == gives


@pytest.mark.parametrize(
    "text",
    [
        *("100$", "$5", "${}", "${ X }", "${A-B}", "${1A}", "${ÜNI}", "$ÜNI", "${X", "${X:-d}", "${${X}}"),
        *("$", "$ X", "$-", "${X }", "${X.y}", "line\n$5", "\u0024{\u212a}", "$\u017f"),
    ],
)
def test_a_dollar_that_begins_no_name_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(ValueError, match=r"it\['headers'\]\['A'\] holds a '\$' that begins no name.*written '\$\$'"):
        templates.checked({"headers": {"A": text}}, "it")


def test_lists_and_tuples_are_filled_in_and_keys_are_not() -> None:
    given = {
        "$X": ["$X", ("$X", {"${X}": "${X}"})],
        "100$": "a key is no template",
        "numbers": [1, 2.5, None, True, False],
    }

    checked = templates.checked(given, "it")

    assert templates.filled(checked, VALUES) == {
        "$X": ["x", ["x", {"${X}": "x"}]],
        "100$": "a key is no template",
        "numbers": [1, 2.5, None, True, False],
    }


def test_the_names_are_those_of_the_values_wherever_they_stand() -> None:
    value = templates.checked({"$KEY": ["$A", ("${B}", {"c": "$C$A"})], "d": "$$D", "e": 5}, "it")

    assert sorted(templates.names(value)) == ["A", "A", "B", "C"]


def test_what_is_filled_in_stays_a_template_itself() -> None:
    given: dict[str, Any] = {"a": ["$X", {"b": "$X"}]}
    checked = templates.checked(given, "it")

    templates.filled(checked, VALUES)

    assert given == checked == {"a": ["$X", {"b": "$X"}]}


@pytest.mark.parametrize("value", [b"x", {1: "x"}, {"a": {"b": object()}}, [{"x"}]])
def test_what_is_no_json_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"it.* (is a|has the key)"):
        templates.checked(value, "it")
