#!/usr/bin/env python3
"""Makes from ``flow-agent/values.yaml`` what else tells of the chart's values, so that all of it says the same.

    helm/generate.py            writes them
    helm/generate.py --check    only says which are out of date, and exits 1 if some are

``flow-agent/values.schema.json``, the table in ``flow-agent/README.md``, and, with the program ``helm``, the plain
manifests ``deploy/kubernetes.yaml``. The part of the schema below ``config`` comes from the class of the settings.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flow_agent.settings import schema as settings_schema

ROOT = Path(__file__).parents[1]
CHART = ROOT / "helm" / "flow-agent"
SCHEMA, README, MANIFESTS = CHART / "values.schema.json", CHART / "README.md", ROOT / "deploy" / "kubernetes.yaml"
BEGIN, END = "<!-- values: begin -->", "<!-- values: end -->"

OF_HELM = ("helm.sh/chart:", "app.kubernetes.io/managed-by:", "helm.sh/resource-policy:", "# Source:")
"""Lines that would not be true of manifests that nobody installs by Helm."""
HEAD = """\
# Server, agent and their access to Jobs without Helm, made from the chart by helm/generate.py: change that instead.
#
#   kubectl create namespace flow-agent
#   FLOW_AGENT_SERVER__TOKENS=tokens.json flow-agent tokens create agents --scope agent >token
#   kubectl -n flow-agent create secret generic flow-agent-queue --from-file=tokens.json --from-file=token
#   kubectl apply -f deploy/kubernetes.yaml
"""
PLAIN = ("server.enabled=true", "server.tokensSecret=flow-agent-queue", "existingSecret=flow-agent-queue")
"""Values of the plain manifests."""


@dataclass(frozen=True)
class Value:
    """One documented value: its path, what it means, its default, and its schema."""

    path: tuple[str, ...]
    meaning: str
    default: Any
    schema: Mapping[str, Any]

    @property
    def needed(self) -> bool:
        """Whether something must stand there: Helm takes away what is set to null, and templates want a number, say."""
        may_be_empty = isinstance(self.default, str | list | dict) and not {"minLength", "enum"} & set(self.schema)
        return not may_be_empty or self.path == ("config",)


def documented(text: str) -> Iterator[Value]:
    """The values that ``text`` documents, in order.

    Raises ValueError: a key stands there without a word of what it means.
    """
    defaults = yaml.safe_load(text)
    path: list[str] = []
    meaning, extra = "", "{}"
    inside: int | None = None  # the indent of the documented value whose own keys we pass by
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            meaning, inside = stripped[5:], None
        elif stripped.startswith("# @schema "):
            extra = stripped[10:]
        elif match := re.match(r"( *)([A-Za-z]\w*):(.*)$", line):
            indent = len(match[1])
            if inside is not None and indent > inside:
                continue
            inside = None
            del path[indent // 2 :]
            path.append(match[2])
            if meaning:
                default = defaults
                for part in path:
                    default = default[part]
                yield Value(tuple(path), meaning, default, _schema(default, meaning, json.loads(extra)))
                meaning, extra, inside = "", "{}", indent
            elif match[3].strip():
                raise ValueError(f"{'.'.join(path)} has no line `# -- ...` that says what it means")


def _schema(default: Any, meaning: str, extra: dict[str, Any]) -> dict[str, Any]:
    if extra.pop("$settings", False):
        return {"description": meaning, **_settings()}
    # bool is an int too, so it goes first.
    kinds = ((bool, "boolean"), (int, "integer"), (str, "string"), (list, "array"), (dict, "object"))
    kind = next(name for python, name in kinds if isinstance(default, python))
    return {"type": kind, "description": meaning, **extra}


def _settings() -> dict[str, Any]:
    """The schema of the settings file, as the drafts that each Helm knows have it, and with what the file cannot set
    but the chart can. Neither a secret nor a token may stand in a ConfigMap."""
    found = settings_schema()
    definitions = found.pop("$defs", {})
    plain: dict[str, Any] = _plain(found, definitions)
    plain["properties"].pop("queue_token")
    plain["properties"]["secrets"].pop("patternProperties")
    return plain


def _plain(node: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(node, list):
        return [_plain(each, definitions) for each in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        beside = {key: value for key, value in node.items() if key != "$ref"}
        return _plain({**definitions[node["$ref"].rpartition("/")[2]], **beside}, definitions)
    left_out = {"title", "default", "format"}
    plain = {}
    for key, value in node.items():
        if key == "properties":
            plain[key] = {name: _plain(each, definitions) for name, each in value.items()}
        elif key not in left_out:
            plain[key] = _plain(value, definitions)
    return plain


def schema(values: list[Value]) -> str:
    """The text of values.schema.json."""
    root: dict[str, Any] = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart flow-agent",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            # Helm gives it to charts that are part of another one.
            "global": {"type": "object", "description": "Values of all charts of a release; nothing of it is used."}
        },
    }
    for value in values:
        node = root
        for part in value.path[:-1]:
            empty = {"type": "object", "additionalProperties": False, "properties": {}}
            _need(node, part)
            node = node["properties"].setdefault(part, empty)
        node["properties"][value.path[-1]] = value.schema
        if value.needed:
            _need(node, value.path[-1])
    return json.dumps(root, indent=1) + "\n"


def _need(node: dict[str, Any], name: str) -> None:
    needed = node.setdefault("required", [])
    if name not in needed:
        needed.append(name)


def table(values: list[Value]) -> str:
    """The values as a Markdown table."""
    rows = ["| value | default | meaning |", "| --- | --- | --- |"]
    for value in values:
        name = ".".join(value.path)
        default = "see `values.yaml`" if name == "config" else f"`{json.dumps(value.default)}`"
        meaning = value.meaning.replace("|", "\\|")
        rows.append(f"| `{name}` | {default} | {meaning} |")
    return "\n".join(rows) + "\n"


def readme(values: list[Value]) -> str:
    """The text of the README with the table in its place."""
    before, _, rest = README.read_text("utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n{table(values)}{END}{rest.partition(END)[2]}"


def program() -> str | None:
    """The program ``helm``: the variable HELM, that of the tests' servers, or one of this machine."""
    beside = ROOT / ".venv-servers" / "helm4" / "helm"
    return os.environ.get("HELM") or (str(beside) if beside.exists() else shutil.which("helm"))


def manifests(helm: str) -> str:
    """The text of the plain manifests, the same for each version of Helm."""
    sets = [word for value in PLAIN for word in ("--set", value)]
    command = [helm, "template", "flow-agent", str(CHART), "--namespace", "flow-agent", "--no-hooks", *sets]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = (line for line in done.stdout.splitlines() if line.strip() and not line.strip().startswith(OF_HELM))
    documents = "\n".join(lines).split("\n---\n")
    kept = [document.removeprefix("---\n") for document in documents if yaml.safe_load(document)]
    # An object whose annotations were all Helm's has none left.
    clean = (re.sub(r"^ *annotations:\n(?= {0,2}\w|\Z)", "", text, flags=re.MULTILINE) for text in kept)
    return HEAD + "".join(f"---\n{text}\n" for text in sorted(clean, key=_place))


def _place(document: str) -> tuple[int, str, str, str]:
    """First what others need; Helm 3 and 4 have orders of their own."""
    found = yaml.safe_load(document)
    first = ["ServiceAccount", "ConfigMap", "PersistentVolumeClaim", "Role", "RoleBinding", "Service"]
    kind, metadata = found["kind"], found["metadata"]
    return first.index(kind) if kind in first else len(first), kind, metadata["name"], metadata.get("namespace", "")


def of_values() -> dict[Path, str]:
    """What schema and README should hold."""
    values = list(documented((CHART / "values.yaml").read_text("utf-8")))
    return {SCHEMA: schema(values), README: readme(values)}


def main(arguments: list[str]) -> int:
    """Write, or only look."""
    stale = False

    def settle(path: Path, text: str) -> None:
        nonlocal stale
        if path.exists() and path.read_text("utf-8") == text:
            return
        stale = True
        print(path.relative_to(ROOT))
        if "--check" not in arguments:
            path.write_text(text, "utf-8")

    for path, text in of_values().items():
        settle(path, text)
    # After the schema, by which Helm checks the values.
    if (helm := program()) is not None:
        settle(MANIFESTS, manifests(helm))
    else:
        print("generate.py: there is no helm, so deploy/kubernetes.yaml was left as it is", file=sys.stderr)
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
