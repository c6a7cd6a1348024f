"""Secrets leave in no form, wherever a chunk ends."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow_agent.redact import MASK, SHORTEST, Known, Redactor, Stream

SECRET = 'p@ss/w"ord +é\\1'


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        json.dumps(SECRET),
        json.dumps(SECRET, ensure_ascii=False),
        quote(SECRET),
        quote(SECRET, safe=""),
        quote_plus(SECRET),
        base64.b64encode(SECRET.encode()).decode(),
        base64.b64encode(b"x" + SECRET.encode() + b"yz").decode(),
        base64.b64encode(b"xy" + SECRET.encode()).decode(),
        base64.urlsafe_b64encode(SECRET.encode()).decode(),
    ],
)
def test_a_secret_is_hidden_in_every_encoding(form: str) -> None:
    shown = Redactor([SECRET]).text(f"before {form} after")
    assert form.strip('"') not in shown
    assert MASK in shown
    assert shown.startswith("before ")
    assert shown.endswith(" after")


def test_the_lines_and_json_values_of_a_secret_are_hidden_too() -> None:
    key = "-----BEGIN KEY-----\nabcdefgh12345\nijklmnop67890\n-----END KEY-----"
    redactor = Redactor([json.dumps({"private_key": key, "nested": [{"token": "tok-998877"}]})])
    assert redactor.text("saw ijklmnop67890 and tok-998877") == f"saw {MASK} and {MASK}"


def test_a_short_secret_does_not_blank_the_log() -> None:
    assert Redactor(["none", "x" * (SHORTEST - 1)]).text("none of it, xxxxx") == "none of it, xxxxx"


def test_values_inside_json_are_cleaned_and_the_rest_kept() -> None:
    cleaned = Redactor(["hunter22"]).value({"a": ["x hunter22", 1, None], "hunter22": True})
    assert cleaned == {"a": [f"x {MASK}", 1, None], MASK: True}


@given(
    secret=st.text(alphabet="abAB1+/=\n é", min_size=SHORTEST, max_size=20).filter(
        lambda s: len(s.strip()) >= SHORTEST
    ),
    around=st.tuples(st.text(alphabet="abAB1 ", max_size=10), st.text(alphabet="abAB1 ", max_size=10)),
    cut=st.integers(min_value=1, max_value=9),
)
def test_chunk_borders_hide_nothing(secret: str, around: tuple[str, str], cut: int) -> None:
    redactor = Redactor([secret])
    data = (around[0] + secret + around[1]).encode()
    stream = Stream(redactor)
    shown = b"".join(stream.feed(data[i : i + cut]) for i in range(0, len(data), cut)) + stream.close()
    assert secret.encode() not in shown
    assert MASK.encode() in shown


@given(data=st.binary(max_size=200), cut=st.integers(min_value=1, max_value=50))
def test_what_holds_no_secret_passes_unchanged(data: bytes, cut: int) -> None:
    stream = Stream(Redactor(["a secret that is in no such data"]))
    shown = b"".join(stream.feed(data[i : i + cut]) for i in range(0, len(data), cut)) + stream.close()
    assert shown == data


@pytest.mark.parametrize("pause", range(1, 20))
def test_a_secret_that_begins_with_another_is_hidden_whole_wherever_it_pauses(pause: int) -> None:
    stream = Stream(Redactor(["correct-horse", "correct-horse-battery"]))
    data = b"A:correct-horse-battery."
    assert stream.feed(data[:pause]) + stream.feed(data[pause:]) + stream.close() == b"A:[redacted]."


def test_a_secret_at_the_very_end_is_hidden() -> None:
    stream = Stream(Redactor(["correct-horse", "correct-horse-battery"]))
    assert stream.feed(b"A:correct-horse") + stream.close() == b"A:[redacted]"


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        ("pa/ss+wo=rd?x&y", "pa%2fss%2bwo%3drd%3fx%26y"),
        ('it\'s"quoted"secret', repr('it\'s"quoted"secret')),
        ("pässwörd-ünicode", repr("pässwörd-ünicode".encode())),
        ("pässwörd-ünicode", ascii("pässwörd-ünicode")),
        ("\x1b[with-escape", repr(["\x1b[with-escape"])),
        ("<secret>&value12", "&lt;secret&gt;&amp;value12"),
        ("abc/def/ghi-12", '"abc\\/def\\/ghi-12"'),
        ('{"pin": 1234567890}', "pin 1234567890"),
        ("redis://:hunter2-secret@h/0", "password hunter2-secret"),
        ("postgresql://u:hunter2%2Dsecret@h/db", "password hunter2-secret"),
        ("Server=x;Password = hunter2-secret;", "password hunter2-secret"),
    ],
)
def test_a_secret_is_taken_out_as_programs_write_it(secret: str, text: str) -> None:
    known = Known()
    known.add(secret)
    for shown in (Redactor([secret]).text(text), known.text(text)):
        assert MASK in shown
        assert not any(part in shown for part in ("hunter2", "value12", "quoted", "nicode", "escape", "ghi", "12345"))


def test_what_is_no_secret_and_no_text_passes_as_it_is() -> None:
    known = Known()
    assert known.text("\ud800 lone") == "\ud800 lone"
    known.add("[" * 100_000)  # no JSON that could be read
    assert known.text("\ud800 lone") == "\ud800 lone"
