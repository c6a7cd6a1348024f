"""Runs the examples of a Markdown page, so that what the page shows is what happens.

The blocks of one page run in order in one fresh folder with an empty home:

- ```` ```console ````: each line that begins with ``$ `` is a command for bash (``> `` goes on with it); the lines
  below it are what it must print, stdout and stderr together. ``...`` stands for any text, alone on a line for any
  lines; spaces stand for spaces or tabs, as many as there are. What `submit --wait` says of a run that takes long
  (``waiting: ...``) does not count. A variable that a command sets is there for those that follow, on the whole page.
- ```` ```python ````: a program that must end well.
- ``<!-- example: file=hello.py -->`` before a block: the block is the content of that file, and is not run.
- ``<!-- example: exit=1 -->`` before a console block: its last command ends with that exit code.

Blocks of other languages are only text.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[\w-]*)[ ]*$")
MARKER = re.compile(r"^ *<!-- example: (?P<words>.*) -->$")
KEEPING = "set -a; trap 'export -p > ../variables' EXIT; [ ! -e ../variables ] || . ../variables\n"
"""Before each command, so that a variable that one sets is there for those that follow."""

WAITING = re.compile(r"^waiting: .*\n(?:hint: .*\n)?", flags=re.MULTILINE)
SECONDS = 60
"""The longest that one command may take."""


class ExampleError(AssertionError):
    """An example does not do what its page shows; the message names page and line."""


@dataclass(frozen=True)
class Block:
    """One fenced block: ``line`` is where its text begins, counted from 1."""

    language: str
    text: str
    line: int
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Command:
    """One command of a console block and what it prints."""

    text: str
    output: str
    line: int


def blocks(markdown: str) -> Iterator[Block]:
    """The fenced blocks of a page in order, each with the options of the marker before it."""
    options: dict[str, str] = {}
    lines = iter(enumerate(markdown.splitlines(), 1))
    for number, line in lines:
        if marker := MARKER.match(line):
            options = dict(word.split("=", 1) for word in shlex.split(marker["words"]))
        elif opening := FENCE.match(line):
            indent, text = len(opening["indent"]), []
            for _, inner in lines:
                if inner.strip() == opening["fence"]:
                    break
                text.append(inner[indent:] if inner[:indent].isspace() else inner)
            yield Block(opening["language"], "".join(f"{inner}\n" for inner in text), number + 1, options)
            options = {}
        elif line.strip():
            options = {}


def commands(block: Block) -> Iterator[Command]:
    """The commands of a console block with the output shown under each."""
    found: list[tuple[int, list[str], list[str]]] = []
    for number, line in enumerate(block.text.splitlines(), block.line):
        if line.startswith("$ "):
            found.append((number, [line[2:]], []))
        elif not found:
            raise ExampleError(f"line {number}: a console block begins with a command, '$ ...', not with {line!r}")
        elif line.startswith("> ") and not found[-1][2]:
            found[-1][1].append(line[2:])
        else:
            found[-1][2].append(line)
    for number, text, output in found:
        yield Command("\n".join(text), "\n".join(output).rstrip(), number)


def fits(shown: str, printed: str) -> bool:
    """Whether ``printed`` is what is ``shown``: how wide a gap is, and white space at the ends, does not count."""
    pattern = ""
    for line in shown.rstrip().splitlines():
        if line.strip() == "...":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*?".join(_literally(part.rstrip(" ")) for part in line.rstrip().split("...")) + "\n"
    text = "".join(f"{line.rstrip()}\n" for line in printed.rstrip().splitlines())
    # A part loses the spaces before a wildcard, so those that were printed there are the wildcard's.
    return re.fullmatch(pattern, text) is not None


def _literally(part: str) -> str:
    """A pattern for ``part`` itself. Columns are aligned on a terminal, and apart by a tab in a pipe."""
    return r"[ \t]+".join(re.escape(word) for word in re.split(r"[ \t]+", part))


class Sandbox:
    """A folder with an empty home, where the installed command stands first on PATH."""

    def __init__(self, folder: Path, variables: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        home = folder / "home"
        self.work = folder / "work"
        home.mkdir()
        self.work.mkdir()
        kept = {name: os.environ[name] for name in ("LANG", "TZ", "TMPDIR") if name in os.environ}
        path = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
        self.environment = {
            **kept,
            "HOME": str(home),
            "FLOW_AGENT_HOME": str(home / ".flow-agent"),
            "PATH": os.pathsep.join(path),
            "COLUMNS": "120",
            "NO_COLOR": "1",
            "TERM": "dumb",
            # A page shows what a reader sees on a terminal.
            "FLOW_AGENT_LOG__FORMAT": "pretty",
            **(variables or {}),
        }

    def run(self, command: list[str]) -> tuple[int, str]:
        """Exit code of ``command``, and all that it printed."""
        done = subprocess.run(
            command,
            cwd=self.work,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        return done.returncode, done.stdout

    def close(self) -> None:
        """End what an example left running, as an agent in the background of a page that failed half-way."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("FLOW_AGENT_HOME") == self.environment["FLOW_AGENT_HOME"]:
                    process.kill()

    def perform(self, block: Block) -> None:
        """Write the block's file, or run it and compare.

        Raises ExampleError: it printed something else than the page shows, or ended with another exit code.
        """
        if name := block.options.get("file"):
            path = self.work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        elif block.language == "python":
            path = self.work / f"block_{block.line}.py"
            path.write_text(block.text)
            code, printed = self.run([sys.executable, str(path)])
            if code:
                raise ExampleError(f"line {block.line}: the program ended with exit code {code}:\n{printed}")
        elif block.language == "console":
            self._console(block)

    def _console(self, block: Block) -> None:
        found = list(commands(block))
        for command in found:
            expected = int(block.options.get("exit", 0)) if command is found[-1] else 0
            code, printed = self.run(["bash", "-c", KEEPING + command.text])
            if code != expected:
                raise ExampleError(
                    f"line {command.line}: $ {command.text}\n"
                    f"ended with exit code {code}, expected {expected}:\n{printed}"
                )
            if not fits(command.output, WAITING.sub("", printed)):
                raise ExampleError(
                    f"line {command.line}: $ {command.text}\nshown:\n{command.output}\nprinted:\n{printed}"
                )


def perform(page: Path, folder: Path, variables: Mapping[str, str] | None = None) -> int:
    """Run the examples of ``page`` in the empty ``folder``; the number of blocks that did something.

    ``variables`` stand in the environment of each.
    """
    done = 0
    with contextlib.closing(Sandbox(folder, variables)) as sandbox:
        for block in blocks(page.read_text()):
            if block.language in {"console", "python"} or "file" in block.options:
                try:
                    sandbox.perform(block)
                except ExampleError as error:
                    raise ExampleError(f"{page.name}, {error}") from None
                done += 1
    return done
