"""A short chaos test: the long one is `make chaos`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

CHAOS = Path(__file__).parents[1] / "bench" / "chaos.py"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_while_agents_database_and_server_are_killed_and_frozen_nothing_is_lost_or_doubled(
    record_property: Callable[[str, object], None],
) -> None:
    seed = os.environ.get("FLOW_AGENT_TEST_SEED")
    command = [sys.executable, str(CHAOS), "--minutes", "2", *(["--seed", seed] if seed else [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580, check=False)
    print(done.stdout, done.stderr)
    record_property("chaos", " ".join(re.findall(r"^--seed .*$", done.stdout, re.MULTILINE)))
    assert done.returncode == 0
    assert re.search(r"^faults +0$", done.stdout, re.MULTILINE)
    assert re.search(r"^done: [\w ]+ +[1-9]", done.stdout, re.MULTILINE)
