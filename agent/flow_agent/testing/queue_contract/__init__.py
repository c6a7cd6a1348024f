"""What every queue must do: ``ports.Queue``, sentence by sentence.

Inherit ``QueueContract`` in a test class and give it three fixtures: ``clock`` (a ``ManualClock``), ``queue`` (open,
empty, with that clock and the default leases) and ``open_again`` (called without arguments: an async context
manager that opens the same queue once more).
"""

from __future__ import annotations

import pytest

from flow_agent.testing.queue_contract.claiming import Claiming
from flow_agent.testing.queue_contract.ending import Ending
from flow_agent.testing.queue_contract.limiting import Limiting
from flow_agent.testing.queue_contract.losing import Losing
from flow_agent.testing.queue_contract.pruning import Past
from flow_agent.testing.queue_contract.reporting import Agents, Logging
from flow_agent.testing.queue_contract.submitting import Registrations, Submitting
from flow_agent.testing.queue_contract.waking import Waking


class QueueContract(Registrations, Submitting, Claiming, Ending, Losing, Limiting, Logging, Agents, Past, Waking):
    """All of it."""

    pytestmark = pytest.mark.anyio
