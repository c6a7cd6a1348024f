"""What does an idle agent cost?

CPU time and memory of an agent with all its processes over 30 s, after 5 s of rest and one run.
Budget: under 0.5 % of a core, at most 60 MB (PSS, so that what processes share is counted once).
"""

from __future__ import annotations

import time

import harness
import psutil

from flow_agent.client import submit

REST, SECONDS = 5.0, 30.0
FLOW = """
from flow_agent import flow

@flow(name="nothing")
def nothing():
    return None
"""


def cpu(processes: list[psutil.Process]) -> float:
    """Seconds of CPU time that the processes have taken, user and system."""
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


def main() -> None:
    harness.title("What does an idle agent cost?")
    with harness.new_home(FLOW) as home, harness.agent(home) as agent:
        submit("nothing").result(timeout=30)
        time.sleep(REST)
        root = psutil.Process(agent.pid)
        processes = [root, *root.children(recursive=True)]
        before, began = cpu(processes), time.monotonic()
        time.sleep(SECONDS)
        share = (cpu(processes) - before) / (time.monotonic() - began)
        memory = sum(process.memory_full_info().pss for process in processes) / 1e6
    harness.table(
        ["what", "found", "budget"],
        [
            ["CPU, % of a core", f"{share * 100:.2f}", "0.5"],
            ["memory, MB (PSS)", f"{memory:.1f}", "60"],
            ["processes", f"{len(processes)}", ""],
        ],
    )


if __name__ == "__main__":
    main()
