"""Where settings come from: options, variables, the file; and what a mistake in one of them is told as."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from flow_agent.errors import SettingsError
from flow_agent.home import home as default_home
from flow_agent.model import Json
from flow_agent.settings.kinds import absolute
from flow_agent.settings.model import PREFIX, Settings, file_data
from flow_agent.settings.views import Leaf, leaves

CONFIG_VARIABLE = "FLOW_AGENT_CONFIG"
IGNORED = ("FLOW_AGENT_RUN_", "FLOW_AGENT_TEST_")
"""Variables that are no mistake: an attempt gets the first, and a flow may call this program; the second are for the
tests of this program."""
FILE_NAME = "flow-agent.toml"


def load(options: Mapping[str, Json] | None = None, *, config: str | os.PathLike[str] | None = None) -> Settings:
    """The settings from ``options`` (nested as in the file), variables and the file.

    The file is ``config``, else ``FLOW_AGENT_CONFIG``, else ``flow-agent.toml`` in the home if there is one.

    Raises SettingsError: a name is no setting, a value does not fit, the file is missing or no TOML.
    """
    options = options or {}
    _check_variables()
    path = _file_path(options, config)
    data = _read(path) if path else {}
    token = file_data.set(data)
    try:
        return Settings(**options)
    except ValidationError as error:
        raise _explained(error.errors()[0], options, path, data) from None
    finally:
        file_data.reset(token)


def _check_variables() -> None:
    known = {leaf.variable for leaf in leaves()} | {CONFIG_VARIABLE}
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX) and name not in known and not name.startswith(IGNORED):
            raise SettingsError(f"environment variable {name} is no setting", hint=_nearest(name.upper(), known, "__"))


def _nearest(name: str, known: set[str], separator: str) -> str:
    """A hint that names what was probably meant; a setting named without its group counts as near."""

    def likeness(candidate: str) -> float:
        bare = candidate.removeprefix(PREFIX).rpartition(separator)[2]
        ratios = [(name, candidate), (name.removeprefix(PREFIX).rpartition(separator)[2], bare)]
        return max(difflib.SequenceMatcher(None, one, other).ratio() for one, other in ratios)

    if members := sorted(other for other in known if other.startswith(name + separator)):
        return f"name one setting of that group, as {members[0]}"
    best = max(sorted(known), key=likeness)
    if likeness(best) >= 0.75:
        return f"did you mean {best}?"
    return "`flow-agent start --help` lists the settings with their variables"


def _file_path(options: Mapping[str, Json], config: str | os.PathLike[str] | None) -> Path | None:
    if named := config or os.environ.get(CONFIG_VARIABLE):
        path = Path(named).expanduser()
        if not path.is_file():
            where = "--config" if config else CONFIG_VARIABLE
            raise SettingsError(f"{where} names the settings file {path}, and there is no such file")
        return path
    path = absolute(Path(options.get("home") or default_home())) / FILE_NAME
    return path if path.is_file() else None


def _read(path: Path) -> dict[str, Json]:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"settings file {path} is no TOML: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {path} cannot be read: {error}") from error
    if "home" in data:
        raise SettingsError(
            f"settings file {path} sets home, which it cannot: flow files look for the home without reading it",
            hint="set FLOW_AGENT_HOME, or give --home",
        )
    return data


def _explained(error: ErrorDetails, options: Mapping[str, Json], path: Path | None, data: Json) -> SettingsError:
    """One sentence for a person: what pydantic found, and where the value came from."""
    if error["type"] == "relation":
        return SettingsError(error["msg"], hint=error["ctx"]["hint"])
    loc = tuple(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = {".".join(leaf.path) for leaf in leaves()} | {leaf.path[0] for leaf in leaves()}
        return SettingsError(
            f"settings file {path}: {'.'.join(loc)} is no setting", hint=_nearest(".".join(loc), known, ".")
        )
    leaf = next((leaf for leaf in leaves() if loc[: len(leaf.path)] == leaf.path), None)
    if leaf is None:
        return SettingsError(f"settings file {path}: {'.'.join(loc)} is not a table of settings")
    message = error["msg"][:1].lower() + error["msg"][1:]
    # A URL or a variable may hold a password.
    given = "" if leaf.path in {("queue",), ("queue_token",), ("agent", "env")} else f" is {error['input']!r}"
    return SettingsError(
        f"{_origin(leaf, options, path, data)}{given}: {message}",
        hint=(leaf.field.description or "").partition(";")[0].rstrip("."),
    )


def _origin(leaf: Leaf, options: Mapping[str, Json], path: Path | None, data: Json) -> str:
    if _has(options, leaf.path):
        return f"option {leaf.option.names[-1].partition('/')[0]}"
    if os.environ.get(leaf.variable):
        return f"environment variable {leaf.variable}"
    if _has(data, leaf.path):
        return f"settings file {path}, {'.'.join(leaf.path)}"
    return f"setting {'.'.join(leaf.path)}"


def _has(data: Json, path: tuple[str, ...]) -> bool:
    for part in path:
        if not isinstance(data, Mapping) or part not in data:
            return False
        data = data[part]
    return True
