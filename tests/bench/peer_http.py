"""Driver for flow-agent behind its server: as ``peer_flow_agent.py``, but agent and client know only the server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import harness
from peer_flow_agent import FLOWS, Ours
from serving import serve


@contextmanager
def server(home: Path) -> Iterator[None]:
    """A server in front of the home's queue, which this process and its children use by HTTP meanwhile."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"127.0.0.1:{port}"
    token = harness.flow_agent("tokens", "create", "bench", "--scope", "admin").strip()
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen([harness.COMMAND, "server", "--listen", address], stderr=log)
    os.environ |= {"FLOW_AGENT_QUEUE": f"http://{address}", "FLOW_AGENT_QUEUE_TOKEN": token}
    try:
        harness.wait_for(lambda: _answers(port), 20)
        yield
    finally:
        del os.environ["FLOW_AGENT_QUEUE"], os.environ["FLOW_AGENT_QUEUE_TOKEN"]
        process.terminate()
        process.wait(20)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def opened(run_config: str, options: list[str]) -> Iterator[Ours]:
    with (
        harness.new_home(FLOWS.format(run_config=run_config)) as home,
        server(home),
        harness.agent(home, *options),
    ):
        yield Ours()


if __name__ == "__main__":
    serve(opened(sys.argv[1], sys.argv[2:]))
