"""The ways to run flow-agent that are measured, and what each must reach on two cores. A new one is one more line."""

from __future__ import annotations

from dataclasses import dataclass

from figures import Budget, median, quantile


@dataclass(frozen=True)
class Configuration:
    """Arguments of ``peer_flow_agent.py``, and budgets: milliseconds, runs a second; None asks nothing."""

    name: str
    arguments: tuple[str, ...]
    """The run config of the flows as Python, or ``None``; then options of ``flow-agent start``."""
    p50: float | None = None
    p99: float | None = None
    rate: float | None = None

    def latency_budgets(self, first_lines: list[float]) -> list[Budget]:
        """What is asked of these times to the first line, in seconds."""
        shares = ((0.5, "p50", self.p50), (0.99, "p99", self.p99))
        return [
            Budget(f"{self.name}: first line, {name}", quantile(first_lines, share) * 1000, limit, "ms")
            for share, name, limit in shares
            if limit is not None
        ]

    def rate_budgets(self, rates: list[float]) -> list[Budget]:
        """What is asked of the rates of all rounds."""
        if self.rate is None:
            return []
        return [Budget(f"{self.name}: runs", median(rates), self.rate, "a second", least=True)]


DEFAULT = Configuration("flow-agent", ("None",), p50=4, p99=10, rate=400)
FRESH = Configuration("flow-agent, fresh interpreters", ("None", "--process-start", "fresh"), p50=5)
LIMITS = [
    Configuration("flow-agent, limit 1", ("None", "--limit", "1"), p50=4, p99=10),
    Configuration("flow-agent, limit 2", ("None", "--limit", "2"), p50=4, p99=10, rate=400),
    Configuration("flow-agent, limit 4", ("None", "--limit", "4"), p50=4, p99=10),
    Configuration("flow-agent, limit 8", ("None", "--limit", "8"), p50=4, p99=10),
]
BESIDE_PEERS = [DEFAULT, LIMITS[0], FRESH]
ALONE = [*LIMITS, FRESH]
