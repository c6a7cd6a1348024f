"""The environments with other frameworks that ``make frameworks`` builds."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from command import Cli, unless_all_is_required

FOLDER = Path(os.environ.get("FLOW_AGENT_TEST_FRAMEWORKS") or Path(__file__).parents[1] / ".venv-frameworks")


def program(framework: str, name: str = "flow-agent") -> str:
    """A program of the environment ``prefect1`` or ``prefect3``; without it the test is left out."""
    if not (FOLDER / ".ready").exists():
        unless_all_is_required("Prefect is not installed for the tests: `make frameworks`")
    return str(FOLDER / framework / "bin" / name)


def python(framework: str, text: str, folder: Path, env: Mapping[str, str] | None = None) -> str:
    """What the Python program ``text`` prints in that environment."""
    done = subprocess.run(
        [program(framework, "python"), "-c", text],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def command(cli: Cli, framework: str) -> Cli:
    """``cli`` with the ``flow-agent`` of that environment."""
    cli.command = program(framework)
    # Their packages warn of each other.
    cli.env = {**cli.env, "PYTHONWARNINGS": "default", "HOME": str(cli.folder)}
    return cli
