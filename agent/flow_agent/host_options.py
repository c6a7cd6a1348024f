"""The arguments of the Docker SDK's ``create_host_config`` that may be asked for, checked where they are written down.
Standard library only."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from flow_agent.container_options import target

KNOWN = frozenset(
    {"binds", "blkio_weight", "blkio_weight_device", "cap_add", "cap_drop", "cgroup_parent", "cgroupns"}
    | {"cpu_count", "cpu_percent", "cpu_period", "cpu_quota", "cpu_rt_period", "cpu_rt_runtime", "cpu_shares"}
    | {"cpuset_cpus", "cpuset_mems", "device_cgroup_rules", "device_read_bps", "device_read_iops", "device_requests"}
    | {"device_write_bps", "device_write_iops", "devices", "dns", "dns_opt", "dns_search", "extra_hosts"}
    | {"group_add", "init", "init_path", "ipc_mode", "isolation", "kernel_memory", "links", "lxc_conf", "mem_limit"}
    | {"mem_reservation", "mem_swappiness", "memswap_limit", "mounts", "nano_cpus", "network_mode"}
    | {"oom_kill_disable", "oom_score_adj", "pid_mode", "pids_limit", "port_bindings", "privileged"}
    | {"publish_all_ports", "read_only", "runtime", "security_opt", "shm_size", "storage_opt", "sysctls", "tmpfs"}
    | {"ulimits", "userns_mode", "uts_mode", "volume_driver", "volumes_from"}
)
"""What may be asked for."""
_OURS = {
    "auto_remove": "containers are removed when all is told of them; an agent's --keep-containers keeps them",
    "restart_policy": "the flow's own retries start it again",
    "log_config": "the agent reads what the engine keeps of the output, which output.limit bounds",
}
"""What the launcher decides, and the way out."""
_TWICE = {
    "mem_limit": "memory",
    "memswap_limit": "memory",
    "nano_cpus": "cpus",
    "cpu_quota": "cpus",
    "cpu_period": "cpus",
    "network_mode": "networks",
    "port_bindings": "ports",
    "read_only": "read_only",
    "device_requests": "gpus",
}
"""What an option of its own says too."""


def host_config(value: Mapping[str, Any] | None, beside: Collection[str] = ()) -> dict[str, Any]:
    """``value``: arguments of ``create_host_config`` of the Docker SDK, JSON-ready; ``beside`` are the other options
    that are given.

    Raises TypeError, ValueError: it is no table of them, cannot be kept as JSON, or says what is decided elsewhere.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) and name.isidentifier() for name in value):
        raise TypeError(
            "DockerRun: host_config is no dict of the arguments of the Docker SDK's create_host_config,"
            " such as {'shm_size': '1g'}"
        )
    for name in value:
        if name in _OURS:
            raise ValueError(f"DockerRun: host_config has {name!r}, which the agent decides: {_OURS[name]}")
        if name not in KNOWN:
            raise ValueError(
                f"DockerRun: host_config has {name!r}, which is no argument of the Docker SDK's create_host_config"
            )
        if _TWICE.get(name) in beside:
            raise ValueError(f"DockerRun: host_config has {name!r} beside {_TWICE[name]}, expected one of them")
    try:
        found = dict(json.loads(json.dumps(dict(value), allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"DockerRun: host_config cannot be kept as JSON: {error}") from None
    for name, place in _targets(found):
        target(place, what=f"DockerRun: host_config, {name}: what is mounted")
    return found


def _targets(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Where in the container it mounts something, in all forms that the SDK takes."""
    binds = config.get("binds")
    if isinstance(binds, Mapping):
        places = [bind.get("bind") if isinstance(bind, Mapping) else bind for bind in binds.values()]
    else:
        places = [[*str(bind).split(":"), ""][1] for bind in binds or ()]
    yield from (("binds", str(place)) for place in places if place)
    for mount in config.get("mounts") or ():
        if isinstance(mount, Mapping):  # an engine does not tell small letters from large ones
            yield from (("mounts", str(place)) for key, place in mount.items() if str(key).lower() == "target")
    tmpfs = config.get("tmpfs") or ()
    yield from (("tmpfs", str(each).partition(":")[0]) for each in ([tmpfs] if isinstance(tmpfs, str) else tmpfs))
