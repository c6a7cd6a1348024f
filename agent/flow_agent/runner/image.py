"""Looks, inside an image, whether the flows in it can be loaded. Standard library only.

``python3 /opt/flow-agent/runner.pyz image`` loads each flow of the manifest in a process of its own, as an attempt
does, and prints a line of JSON for each; then one that says that it came to its end.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import traceback
from typing import Any

MANIFEST = "flows.json"
WITHIN = 120.0
"""Seconds for loading one flow."""
MARK = "flow-agent-image: "
"""Begins our lines: what a flow prints while it is loaded stands among them."""


def main(arguments: list[str], path: list[str]) -> int:
    """Check all flows, or the one whose number is given; the exit code. ``path`` is as in the runner's ``main``."""
    folder = os.path.dirname(os.path.abspath(sys.argv[0]))
    with open(os.path.join(folder, MANIFEST), encoding="utf-8") as file:
        manifest = json.load(file)
    if arguments:
        each = manifest["flows"][int(arguments[0])]
        _load_ahead(path)
        _say({"flow": each["flow"], **_loaded(each, manifest["python"])})
        return 0
    for number in range(len(manifest["flows"])):
        # Each in a process of its own: modules of one flow are not found by another, and one that ends it ends itself.
        if error := _apart(number):
            _say({"flow": manifest["flows"][number]["flow"], "error": error})
    _say({"done": True})
    return 0


def _load_ahead(path: list[str]) -> None:
    """Import what is needed from here on, as the attempt does before it looks where its flow looks."""
    import pathlib  # noqa: F401

    import flow_agent.runner.load
    import flow_agent.runner.stored  # noqa: F401

    sys.path[:] = path


def _say(what: dict[str, Any]) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(1, f"\n{MARK}{json.dumps(what)}\n".encode())


def _apart(number: int) -> str | None:
    """Check one flow in a process of its own; what is wrong, if that did not come to its end."""
    try:
        code = subprocess.run(
            [sys.executable, sys.argv[0], "image", str(number)], check=False, timeout=WITHIN
        ).returncode
    except subprocess.TimeoutExpired:
        return f"loading it took longer than {WITHIN:.0f} s; what runs when a file is loaded must end"
    if not code:
        return None
    return f"loading it was ended by signal {-code}" if code < 0 else f"loading it ended with exit code {code}"


def _loaded(each: dict[str, Any], python: str) -> dict[str, Any]:
    """Nothing if the flow is there, else what is wrong."""
    from flow_agent.runner.load import NoSuchFlow
    from flow_agent.runner.stored import Mismatch

    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    try:
        _load(each, python)
    except Mismatch:
        return {"error": f"the image has Python {here}, and a pickle runs only on the Python that wrote it, {python}"}
    except NoSuchFlow as error:
        return {"error": str(error.args[0])}
    except ModuleNotFoundError as error:
        return {"error": str(error), "missing": error.name, "traceback": traceback.format_exc()}
    except BaseException as error:  # whatever loading raises
        return {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    return {}


def _load(each: dict[str, Any], python: str) -> None:
    from pathlib import Path

    from flow_agent.runner.load import find_flow, load_script
    from flow_agent.runner.stored import load

    if each["kind"] == "script":
        find_flow(load_script(Path(each["root"]), each["path"]), each["flow"], f"{each['root']}/{each['path']}")
        return
    with open(each["path"], "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != each["digest"]:
        raise ValueError(f"{each['path']} is not what was put there; something in the image changes it")
    load(each["path"], python)
