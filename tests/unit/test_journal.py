"""The keeper's journal and the daemon's reader of it, on real files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from flow_agent.launchers.journal import Journal
from flow_agent.launchers.spool import SpoolReader
from flow_agent.model import LogLine
from flow_agent.redact import Redactor
from flow_agent.runner.channel import marker


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def event(seq: int, text: str) -> bytes:
    return json.dumps({"seq": seq, "t": 1.0, "log": {"level": "INFO", "logger": "x", "text": text}}).encode() + b"\n"


def texts(folder: Path) -> list[str]:
    return [line.text for line in everything(folder)]


def everything(folder: Path) -> list[LogLine]:
    with SpoolReader(folder, 1) as reader:
        lines = []
        while new := reader.read():
            lines += new
        return [*lines, *reader.rest()]


@pytest.mark.parametrize("nonce", ["0" * 16, "ff7cede01e155800", "0123456789abcdef", "1e001e001e001e00"])
@pytest.mark.parametrize("size", [1, 2, 7, 26, 1000])
def test_markers_are_found_wherever_chunks_end(folder: Path, nonce: str, size: int) -> None:
    journal = Journal(Redactor([]), nonce, 10**6)
    stream = b"a\n" + marker(nonce, 1) + b"\x00\x1enot one\n" + marker(nonce, 2) + marker(nonce, 3) + b"b\n"
    journal.events(event(1, "E1") + event(2, "E2") + event(3, "E3"))
    for start in range(0, len(stream), size):
        assert journal.output(stream[start : start + size]) is None
    journal.close()
    assert journal.flush()
    assert texts(folder) == ["a", "E1", "\ufffd\x1enot one", "E2", "E3", "b"]


def test_a_marker_waits_for_its_event(folder: Path) -> None:
    journal = Journal(Redactor([]), "n" * 16, 10**6)
    assert journal.output(b"a\n" + marker("n" * 16, 1) + b"b\n") == 1
    journal.events(event(1, "E")[:10])
    assert journal.output(b"") == 1
    journal.events(event(1, "E")[10:])
    assert journal.output(b"") is None
    journal.close()
    assert journal.flush()
    assert texts(folder) == ["a", "E", "b"]


def test_events_whose_markers_never_came_are_kept(folder: Path) -> None:
    journal = Journal(Redactor([]), "n" * 16, 10**6)
    journal.output(b"a\n")
    journal.events(b'not json\n{"no": "seq"}\n' + event(2, "E2") + event(1, "E1"))
    journal.close()
    assert journal.flush()
    assert texts(folder) == ["a", "E1", "E2"]


def test_a_full_disk_loses_nothing_once_there_is_room(folder: Path) -> None:
    journal = Journal(Redactor([]), "n" * 16, 10**6)
    full = os.open("/dev/full", os.O_WRONLY)
    kept = os.dup(journal._output)
    os.dup2(full, journal._output)
    journal.output(b"first\n")
    assert journal.blocked
    assert not journal.flush()
    os.dup2(kept, journal._output)
    journal.output(b"second\n")
    journal.close()
    assert journal.flush()
    os.close(full)
    os.close(kept)
    assert texts(folder) == ["first", "second"]


def test_a_reader_that_stops_in_the_middle_goes_on_without_gap_or_double(folder: Path) -> None:
    journal = Journal(Redactor([]), "n" * 16, 10**6)
    reader = SpoolReader(folder, 1)
    seen = []
    for i in range(50):
        journal.events(event(i + 1, f"E{i}"))
        journal.output(b"line %d\npart" % i + marker("n" * 16, i + 1) + b"rest\n")
        seen += reader.read()
    journal.close()
    assert journal.flush()
    while new := reader.read():
        seen += new
    seen += reader.rest()
    reader.__exit__()
    whole = everything(folder)
    assert [(line.seq, line.text) for line in seen] == [(line.seq, line.text) for line in whole]
    assert [line.seq for line in seen] == list(range(1, len(seen) + 1))
    assert [line.text for line in seen[:4]] == ["line 0", "part", "E0", "rest"]


def test_a_marker_that_the_flow_wrote_itself_stops_nothing(folder: Path) -> None:
    journal = Journal(Redactor([]), "n" * 16, 10**6)
    assert journal.output(b"a\n" + marker("n" * 16, 7) + b"b\n") == 7
    journal.give_up(7)
    assert journal.output(b"") is None
    journal.close()
    assert journal.flush()
    assert texts(folder) == ["a", "b"]


def test_a_record_longer_than_one_reading_comes_whole_in_pieces_and_hides_nothing_after_it(folder: Path) -> None:
    journal = Journal(Redactor([]), "n" * 16, 10**8)
    huge = "x" * 5_000_000
    journal.events(event(1, huge) + event(2, "after"))
    journal.output(b"before\n" + marker("n" * 16, 1) + marker("n" * 16, 2) + b"end\n")
    journal.close()
    assert journal.flush()
    first, *pieces, after, last = texts(folder)
    assert (first, "".join(pieces), after, last) == ("before", huge, "after", "end")
    assert {len(piece) for piece in pieces[:-1]} == {65_536}


def test_many_small_writes_without_an_end_of_line_do_not_look_like_the_end(folder: Path) -> None:
    journal = Journal(Redactor([]), "n" * 16, 10**8)
    for _ in range(20_000):
        journal.output(b"..")
    journal.output(b"\nend\n")
    journal.close()
    assert journal.flush()
    assert texts(folder) == ["." * 40_000, "end"]


FRAME = '  File "flow.py", line 1 in call\n'
CRASH = "Fatal Python error: Segmentation fault\n\nCurrent thread 0x1 (most recent call first):\n" + FRAME * 90
CRASH += "  ...\n\nExtension modules: " + "numpy, " * 1000 + "(total: 1000)\n"


@pytest.mark.parametrize(
    ("printed", "kept"),
    [
        ("".join(f"{n}\n" for n in range(20)), [str(n) for n in range(8, 20)]),
        (f"a\nb\n{CRASH}", ["a", "b", CRASH.split("\n")[0], CRASH.split("\n")[2], *[FRAME.rstrip()] * 4]),
        (
            f"{CRASH}of a child\n{FRAME}",
            [CRASH.split("\n")[0], CRASH.split("\n")[2], *([FRAME.rstrip()] * 4), "of a child", FRAME.rstrip()],
        ),
    ],
)
def test_the_last_lines_are_kept_and_of_a_crash_the_first(folder: Path, printed: str, kept: list[str]) -> None:
    journal = Journal(Redactor([]), "0" * 16, 10**6)
    journal.output(printed.encode())
    journal.close()
    with SpoolReader(folder, 1) as reader:
        while reader.read():
            pass
        assert reader.tail == "\n".join(kept)
