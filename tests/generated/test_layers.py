"""The layers of ``[tool.importlinter]`` are kept, and the light modules stay light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_every_module_imports_only_what_its_layer_may():
    done = run(str(Path(sys.executable).with_name("lint-imports")), "--no-cache")

    assert done.returncode == 0, done.stdout + done.stderr


AUTHORS_SIDE = ["flow_agent", "flow_agent.flow", "flow_agent.run_configs", "flow_agent.storages", "flow_agent.home"]


@pytest.mark.parametrize("module", AUTHORS_SIDE)
def test_what_a_flow_file_imports_brings_no_package_of_others(module):
    program = f"import sys; before = set(sys.modules); import {module}; print(*sorted(set(sys.modules) - before))"

    done = run(sys.executable, "-c", program)

    assert done.returncode == 0, done.stderr
    found = {name.partition(".")[0] for name in done.stdout.split()}
    assert found - set(sys.stdlib_module_names) == {"flow_agent"}
