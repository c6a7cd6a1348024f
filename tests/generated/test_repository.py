"""Rules of the repository: what may stand at the top, how long a module may be, what no file may contain."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]

TOP_LEVEL = {
    *("pyproject.toml", "agent", "tests", "deploy", "helm", "README.md"),
    *("Makefile", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "docs"),
}
"""Beside dot-files, all that may stand there."""

LINES = 300
LONGER: dict[str, str] = {
    "agent/flow_agent/model.py": "all values that travel; plain fields and what they mean, which are read side by side",
    "agent/flow_agent/ports.py": "all contracts; mostly specification, and what one promises another relies on",
    "agent/flow_agent/run_configs.py": "all that authors may say of how runs start: declarations, checked elsewhere",
}
"""Modules over LINES, each with the reason why it is not two."""

# Written in two parts, so that this file does not contain them.
FORBIDDEN = {
    "a host of a package registry": r"py" + r"pi\.org|python" + r"hosted|registry\.np" + r"mjs|deb\.de" + r"bian\.org",
    "a path of somebody's machine": r"(?<![\w.~}$])/(?:ho" + r"me|Us" + r"ers|wo" + r"rk|ro" + r"ot)/(?!app\b)\w",
    "something left for later": r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b|Not" + r"ImplementedError",
    "a test that is left out": r"mark\.(?:ski" + r"p|xfa" + r"il)\b",
}
ALLOWED: dict[str, str] = {}
"""Lines that may stay, by file: the text that they contain."""


def git(*arguments: str) -> list[str]:
    # In a container the folder may belong to somebody else; these commands only read.
    command = ["git", "-c", "safe.directory=*", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """The files of the repository: those that git knows and those that are new and not ignored."""
    if not (ROOT / ".git").exists():  # an unpacked source archive
        return [path for path in ROOT.rglob("*") if path.is_file() and ".venv" not in str(path)]
    names = git("ls-files", "--cached", "--others", "--exclude-standard")
    return sorted({ROOT / name for name in names if (ROOT / name).is_file()})


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_top_level_holds_only_what_convention_expects(tracked):
    found = {name(path).partition("/")[0] for path in tracked}

    assert {entry for entry in found if not entry.startswith(".")} <= TOP_LEVEL


def test_agent_is_a_folder_and_no_package(tracked):
    """With ``agent/__init__.py`` every module could be imported twice, under two names."""
    assert ROOT / "agent" / "__init__.py" not in tracked
    importing = re.compile(r"^\s*(?:from|import) agent(?:\.|\s)", flags=re.MULTILINE)

    assert [name(path) for path in tracked if path.suffix == ".py" and importing.search(path.read_text())] == []


def test_every_module_is_short_or_says_why_not(tracked):
    modules = [path for path in tracked if path.suffix == ".py" and name(path).startswith("agent/")]
    long = {name(path) for path in modules if len(path.read_text().splitlines()) > LINES}

    assert long == set(LONGER)


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_contains(what, tracked):
    pattern = re.compile(FORBIDDEN[what])
    found = []
    for path in tracked:
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue
        found += [
            f"{name(path)}:{number}: {line.strip()}"
            for number, line in enumerate(lines, 1)
            if pattern.search(line) and ALLOWED.get(name(path), "\0") not in line
        ]

    assert found == []


def test_nobody_is_told_to_install_the_project_of_another(tracked):
    """``flow-agent`` on the package index is not ours."""
    telling = re.compile(r"(?:pip3?|uv|pipx)\s+(?:tool\s+)?(?:install|add)\s+(?:-\S+\s+)*['\"]?flow-agent(?!-daemon)\b")
    pages = [path for path in tracked if path.suffix in {".md", ".py", ".toml", ".sh"}]

    assert [name(path) for path in pages if telling.search(path.read_text())] == []


def requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [Requirement(text) for text in [*project["dependencies"], *extras["test"], *extras["lint"]]]


def test_checks_and_tests_run_with_exact_versions_of_all_that_the_package_asks_for():
    lines = (ROOT / ".ci/constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    versions = {canonicalize_name(package): version for package, version in pins.items()}

    wanting = [str(r) for r in requirements() if versions.get(canonicalize_name(r.name), "0") not in r.specifier]
    assert wanting == []


def test_scripts_can_be_run(tracked):
    scripts = [path for path in tracked if path.suffix != ".md" and path.read_bytes().startswith(b"#!")]

    assert [name(path) for path in scripts if not path.stat().st_mode & 0o111] == []
