"""Options, variables, file, table and schema are views of one class: a setting is in all of them or in none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, get_args, get_origin

import click
import pytest

from flow_agent.cli.server import server
from flow_agent.cli.start import start
from flow_agent.settings import Leaf, Settings, leaves, load, schema, settings_table

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- settings: begin -->", "<!-- settings: end -->"
LEAVES = {".".join(leaf.path): leaf for leaf in leaves()}
OPTIONS = {each.name: each for each in [*server.params, *start.params] if isinstance(each, click.Option)}
OF_START = {each.name for each in start.params}
OPTIONAL = [path for path, leaf in LEAVES.items() if not leaf.option.secret]


@pytest.fixture(autouse=True)
def home(own_home) -> Path:
    return own_home


def sample(leaf: Leaf) -> tuple[str, object]:
    """A value that is not the default, as text and as the settings will hold it."""
    kind = leaf.field.annotation
    match ".".join(leaf.path):
        case "home":
            return "/srv/flows", Path("/srv/flows")
        case "lease.heartbeat":
            return "9", 9.0
        case "fetch.release_for":
            return "601", 601.0
    if kind is bool:
        return ("false", False) if leaf.field.default else ("true", True)
    if get_origin(kind) is Literal:
        other = next(value for value in get_args(kind) if value != leaf.field.default)
        return other, other
    if get_origin(kind) is tuple:
        return "x", ("x",)
    if get_origin(kind) is dict:
        return "A=1", {"A": "1"}
    if kind in (int, float):
        base = leaf.field.default if isinstance(leaf.field.default, int | float) else 3
        return str(int(base) + 1), kind(int(base) + 1)
    if Path in get_args(kind):
        return "/srv/some", Path("/srv/some")
    return "x:y", "x:y"


def held(settings: Settings, leaf: Leaf) -> object:
    value: object = settings
    for part in leaf.path:
        value = getattr(value, part)
    return value


@pytest.mark.parametrize("path", LEAVES)
def test_a_setting_says_what_it_means_without_its_name(path):
    description = LEAVES[path].field.description or ""

    assert description[:1].isupper()
    assert description.endswith(".")


@pytest.mark.parametrize("path", LEAVES)
def test_a_setting_is_set_by_its_variable(path, monkeypatch):
    leaf = LEAVES[path]
    text, value = sample(leaf)
    assert held(load(), leaf) != value

    monkeypatch.setenv(leaf.variable, text)

    assert held(load(), leaf) == value


@pytest.mark.parametrize("path", [path for path in LEAVES if path != "home"])
def test_a_setting_is_set_by_the_file(path, home):
    leaf = LEAVES[path]
    text, value = sample(leaf)
    written = "{A = '1'}" if isinstance(value, dict) else json.dumps(value, default=str)
    table = f"[{leaf.path[0]}]\n" if len(leaf.path) > 1 else ""
    (home / "flow-agent.toml").write_text(f"{table}{leaf.path[-1]} = {written}\n")

    assert held(load(), leaf) == value, text


@pytest.mark.parametrize("path", OPTIONAL)
def test_a_setting_is_set_by_its_option(path, monkeypatch):
    leaf = LEAVES[path]
    text, value = sample(leaf)
    seen: list[Settings] = []
    monkeypatch.setattr("flow_agent.cli.start._start", lambda settings, _: _keep(seen, settings))
    monkeypatch.setattr("flow_agent.cli.server._serve", lambda settings: _keep(seen, settings))
    option = OPTIONS["__".join(leaf.path)]
    words = [option.opts[-1], text] if not option.is_flag else [option.opts[0] if value else option.secondary_opts[0]]

    (server if path.startswith("server.") else start).main(words, standalone_mode=False)

    assert held(seen[0], leaf) == value


async def _keep(seen: list[Settings], settings: Settings) -> int:
    seen.append(settings)
    return 0


def test_start_has_an_option_for_each_setting_and_no_other():
    own = {"until_empty", "config", "help"}

    of_agents = [path for path in OPTIONAL if not path.startswith("server.")]
    assert OF_START - own == {path.replace(".", "__") for path in of_agents}
    assert set(OPTIONS) - own == {path.replace(".", "__") for path in OPTIONAL}


def test_the_help_of_an_option_names_its_variable_and_its_default():
    for leaf in (LEAVES[path] for path in OPTIONAL):
        text = OPTIONS["__".join(leaf.path)].help or ""
        assert f"[env {leaf.variable}" in text
        assert leaf.default == "" or f"default {leaf.default}]" in text


def test_the_table_has_a_row_for_each_setting():
    rows = settings_table().splitlines()[2:]

    assert [row.split("`")[1] for row in rows] == list(LEAVES)
    assert all(row.count(" | ") == 4 for row in rows)


def test_the_schema_knows_each_setting_and_forbids_others():
    found = schema()

    def properties(node: dict) -> dict:
        return found["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node

    named = set()
    for name, node in found["properties"].items():
        group = properties(node)
        if "properties" in group:
            assert group["additionalProperties"] is False
            named |= {f"{name}.{key}" for key in group["properties"]}
        else:
            named.add(name)
    assert named == set(LEAVES)
    assert found["additionalProperties"] is False


def pages() -> list[Path]:
    return [page for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if BEGIN in page.read_text()]


def test_a_table_of_settings_in_the_pages_is_the_generated_one():
    for page in pages():
        shown = page.read_text().partition(BEGIN)[2].partition(END)[0].strip()
        assert shown == settings_table().strip(), f"{page.name}: put the output of settings_table() between the markers"
