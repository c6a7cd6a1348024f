"""How data looks: tables on a terminal, tab-separated lines in a pipe, JSON where it is asked for."""
# ruff: noqa: PLC0415 - rich takes 80 ms, which pipes and scripts do not pay

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from flow_agent.model import Json, LogLine, Run
from flow_agent.why import span

if TYPE_CHECKING:
    from rich.console import Console


def document(value: Json) -> None:
    """Print one JSON document."""
    # Other encodings would put escapes of their own into the text, which are no JSON.
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(value, indent=2, ensure_ascii=not utf8)
    line(text)


def line(text: str) -> None:
    """Print one line of data, whatever characters it has."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, errors="backslashreplace").decode(encoding))


def note(text: str) -> None:
    """Tell a person something that is not data."""
    print(text.encode("utf-8", errors="backslashreplace").decode("utf-8"), file=sys.stderr, flush=True)


_MOMENT = re.compile(r"\d{4}-(\d\d-\d\d \d\d:\d\d):\d\d UTC")
_GAP = 2
"""Blanks between two columns."""


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, less: Sequence[str] = ()) -> None:
    """Print ``rows``: with a head on a terminal; without one, separated by tabs, in a pipe.

    On a terminal that is too narrow times lose their year and seconds, then the columns of ``less`` are left out, one
    after the other, as far as needed.
    """
    if not sys.stdout.isatty():
        for row in rows:
            line("\t".join(" ".join(cell.split()) for cell in row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    shown = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    fitted = _fitting([*zip(columns, *rows, strict=True)], less, console.width)
    for head, *_ in fitted:
        shown.add_column(head, overflow="fold", no_wrap=head == "id" or head.endswith(" UTC"))  # ids are copied
    for row in zip(*(cells for _, *cells in fitted), strict=True):
        shown.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    console.print(shown)


def _fitting(columns: list[tuple[str, ...]], less: Sequence[str], width: int) -> list[tuple[str, ...]]:
    """The columns, each its head and its cells, made fit ``width`` as far as that can be."""
    from rich.cells import cell_len

    def needed(some: list[tuple[str, ...]]) -> int:
        return sum(max(map(cell_len, column)) + _GAP for column in some) - _GAP

    if needed(columns) > width:
        columns = [_with_short_times(column) for column in columns]
    for name in less:
        if needed(columns) > width:
            columns = [column for column in columns if column[0] != name]
    return columns


def _with_short_times(column: tuple[str, ...]) -> tuple[str, ...]:
    head, *cells = column
    if not any(_MOMENT.fullmatch(cell) for cell in cells):
        return column
    return (f"{head} UTC", *(_MOMENT.sub(r"\1", cell) for cell in cells))


STYLES = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan", "claimed": "cyan"}


def facts(pairs: Sequence[tuple[str, str]]) -> None:
    """Print names and values in two columns; pairs without a value are left out."""
    shown = [(name, value) for name, value in pairs if value]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        line(f"{name:<{width}}  {value}")


def log_line(entry: LogLine) -> str:
    """A line of a run's log: plain output as it is, records with time and level."""
    clock = datetime.fromtimestamp(entry.time).astimezone().strftime("%H:%M:%S")
    if entry.source != "flow":
        return f"{clock} {entry.level or 'INFO'} [agent] {entry.text}"
    return f"{clock} {entry.level} {entry.text}" if entry.level else entry.text


def ended(run: Run) -> str:
    """How a run ended, in one line."""
    took = f" in {span(run.finished_at - run.created_at)}" if run.finished_at is not None else ""
    reason = f" ({run.reason})" if run.reason not in {None, "completed", "cancelled"} else ""
    detail = f": {run.detail}" if run.detail else ""
    return f"run {run.id} {run.state}{took}{reason}{detail}"


def terminal() -> Console:
    """The terminal that people watch, for lines as they are."""
    from rich.console import Console

    return Console(highlight=False)


@contextmanager
def status(text: str, console: Console | None = None) -> Iterator[None]:
    """A spinner with ``text`` while the block runs, if a person watches stderr (or ``console``)."""
    if console is None and not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.text import Text

    with (console or Console(stderr=True)).status(Text(text)):
        yield
