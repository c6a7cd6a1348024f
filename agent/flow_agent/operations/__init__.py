"""What the command line and the Python client do with an open queue, once."""

from flow_agent.operations.doctor import examine
from flow_agent.operations.opening import open_queue, shown_url
from flow_agent.operations.pruning import parse_age, prune
from flow_agent.operations.results import is_pickled, no_json, python_text, read_result, recover_result
from flow_agent.operations.submitting import MOST_AT_ONCE, due_time, parse_time, register, retry_run, submit_runs
from flow_agent.operations.views import agent_json, attempt_json, iso, registration_json, run_json
from flow_agent.operations.watching import cancel_run, follow_logs, wait_run

__all__ = [
    "MOST_AT_ONCE",
    "agent_json",
    "attempt_json",
    "cancel_run",
    "due_time",
    "examine",
    "follow_logs",
    "is_pickled",
    "iso",
    "no_json",
    "open_queue",
    "parse_age",
    "parse_time",
    "prune",
    "python_text",
    "read_result",
    "recover_result",
    "register",
    "registration_json",
    "retry_run",
    "run_json",
    "shown_url",
    "submit_runs",
    "wait_run",
]
