"""A short soak: the long one is `make soak`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "bench" / "soak.py"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_while_daemons_keepers_and_zygotes_are_killed_nothing_is_lost_doubled_or_left_over() -> None:
    seed = os.environ.get("FLOW_AGENT_TEST_SEED")
    command = [sys.executable, str(SOAK), "--runs", "800", *(["--seed", seed] if seed else [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    assert re.search(r"^faults +0$", done.stdout, re.MULTILINE)
    assert re.search(r"^done to: \w+ +[1-9]", done.stdout, re.MULTILINE)
