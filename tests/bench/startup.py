"""How long do `import flow_agent` and `flow-agent --help` take over the bare interpreter?

Twenty starts of each, one after the other, beside as many of `python -c pass`.
Budgets: 30 ms for the import, 150 ms for the help, both over the bare interpreter's p50.
"""

from __future__ import annotations

import sys

import harness

ROUNDS = 20


def main() -> None:
    harness.title("How long do `import flow_agent` and `flow-agent --help` take over the bare interpreter?")
    bare = harness.quantile(harness.bare_start(ROUNDS), 0.5)
    rows: list[list[object]] = [["python -c pass", bare * 1000, 0.0, ""]]
    for what, command, budget in (
        ("import flow_agent", [sys.executable, "-c", "import flow_agent"], 30),
        ("flow-agent --help", [harness.COMMAND, "--help"], 150),
    ):
        found = harness.times(lambda command=command: harness.program(*command), ROUNDS)
        p50 = harness.quantile(found, 0.5)
        rows.append([what, p50 * 1000, (p50 - bare) * 1000, f"{budget} ms"])
    harness.table(["what", "p50 ms", "over bare ms", "budget"], rows)


if __name__ == "__main__":
    main()
