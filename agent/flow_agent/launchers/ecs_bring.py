"""flow-agent for images of tasks that lack it."""

from __future__ import annotations

from typing import Any

from flow_agent.launchers.handed import program

ENTRY = ("flow-agent",)
BRINGER, VOLUME, PLACE = "flow-agent", "flow-agent", "/flow-agent"
"""The container that brings flow-agent to images without it, and where they find it."""
PROGRAM = f"{PLACE}/program"
BRINGING = 64
"""MiB of memory that bringing it takes."""
BROUGHT = ("python3", "-c", program(PROGRAM))


def bring(made: dict[str, Any], image: str) -> None:
    """Have a container of ``image``, which has it, put flow-agent where the first one of the task definition ``made``
    finds it, before that begins."""
    flow = made["containerDefinitions"][0]
    if int(flow.get("memory", 0)) > int(made["memory"]) - BRINGING:  # both have to fit in, though never at a time
        flow["memoryReservation"] = int(flow.pop("memory")) - BRINGING
    made["volumes"] = [*(made.get("volumes") or ()), {"name": VOLUME}]
    mount = {"sourceVolume": VOLUME, "containerPath": PLACE}
    flow["entryPoint"] = list(BROUGHT)
    flow["mountPoints"] = [*(flow.get("mountPoints") or ()), {**mount, "readOnly": True}]
    flow["dependsOn"] = [*(flow.get("dependsOn") or ()), {"containerName": BRINGER, "condition": "SUCCESS"}]
    bringer = {
        "name": BRINGER,
        "image": image,
        "essential": False,
        "memoryReservation": BRINGING,
        "user": "0",  # to whom the volume belongs; what it writes all may read
        "entryPoint": list(ENTRY),
        "command": ["inside", "--install", PROGRAM],
        "environment": [{"name": "FLOW_AGENT_HOME", "value": f"{PLACE}/home"}],
        "mountPoints": [mount],
    }
    if "logConfiguration" in flow:
        bringer["logConfiguration"] = flow["logConfiguration"]
    made["containerDefinitions"].append(bringer)
