"""From a launch spec to a container, in the words of the engine's API; and what an agent does not let a run have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flow_agent import container_options as options
from flow_agent.engine.client import Engine
from flow_agent.engine.errors import told
from flow_agent.errors import EngineError, LaunchError
from flow_agent.host_options import host_config
from flow_agent.launchers.luggage import RUN, RUNNER
from flow_agent.model import Json, LaunchSpec, Reason
from flow_agent.runner.first import ORDER

PLACE = options.PLACE
"""Where the volume with runner and folder lies in the container."""
FOLDER = f"{PLACE}/{RUN}"
BEGIN = f"""{ORDER}
import json
if sys.version_info < (3, 11):
    sys.stdout.write(json.dumps({{"old": "%d.%d.%d" % tuple(sys.version_info[:3])}}) + "\\n")
    sys.exit(3)
def line():
    found = b""
    while not found.endswith(b"\\n"):
        found += os.read(0, 1) or sys.exit(4)
    return found
try:
    for name, size in json.loads(line()):
        if size < 0:
            os.mkdir("{PLACE}/" + name)
            continue
        with open("{PLACE}/" + name, "wb") as file:
            while size:
                data = os.read(0, min(size, 65536)) or sys.exit(4)
                size -= file.write(data)
except OSError as error:
    print(json.dumps({{"denied": str(error)}}))
    sys.exit(4)
sys.path.insert(0, "{PLACE}/{RUNNER}")
from flow_agent.launchers.contained import main
sys.exit(main(["{PLACE}/{RUNNER}"] + theirs))
"""
"""What the interpreter of an image is given, whichever that is: it takes the luggage from its standard input, as far as
it comes that way, and goes on as the keeper."""
_OF_SDK = "expected arguments of create_host_config of the Docker SDK; a size is bytes, or text as '64m'"
OWN_NETWORKS = frozenset({"bridge", "default", "none"})
"""Networks that give a container no more than it has anyway."""
UNBOUNDED = "1000000g"
"""What the engine may keep of a container's output: ``output.limit`` bounds it, and to drop some would be a loss."""

AGENT, HOME, REF = "flow-agent.agent", "flow-agent.home", "flow-agent.ref"
RUN_ID, CLAIM, ATTEMPT, FLOW = "flow-agent.run", "flow-agent.claim", "flow-agent.attempt", "flow-agent.flow"


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Whose containers they are: an agent's name, and its id, which is that of its home too."""

    agent: str
    home: str

    @property
    def labels(self) -> dict[str, str]:
        """By which its containers are found."""
        return {AGENT: self.agent, HOME: self.home}


def name_of(spec: LaunchSpec) -> str:
    """What the container of an attempt is called."""
    return f"flow-{spec.run_id}-{spec.attempt}"


def labels_of(spec: LaunchSpec, owner: Owner, ref: str) -> dict[str, str]:
    """What is written on it."""
    return {
        **owner.labels,
        REF: ref,
        RUN_ID: spec.run_id,
        CLAIM: str(spec.claim),
        ATTEMPT: str(spec.attempt),
        FLOW: spec.flow,
    }


def config(
    spec: LaunchSpec, owner: Owner, ref: str, *, image: str, program: str, engine: Engine, network: str = ""
) -> dict[str, Any]:
    """The container of ``spec``: nothing secret stands in it, since everybody who may ask the engine can read it.

    ``network`` is the one for runs that name none (empty: the engine's own default).
    """
    asked = spec.container
    further = asked.get("host_config", {})
    networks = asked.get("networks") or ([network] if network and "network_mode" not in further else [])
    what = f"the host_config of flow {spec.flow!r} cannot be"
    try:
        host = told(what, engine.address.shown, lambda: engine.sdk.create_host_config(**further))
    except (TypeError, ValueError) as error:
        raise LaunchError(f"{what}: {error}", hint=_OF_SDK) from None
    except EngineError as error:
        blamed = [f"{name} is {value!r}" for name, value in further.items() if f"({value})" in str(error)]
        raise LaunchError("; ".join([str(error), *blamed]), hint=_OF_SDK) from None
    host |= _limits(asked)
    if networks:
        host["NetworkMode"] = networks[0]
    if asked.get("volumes"):
        host["Binds"] = [*(host.get("Binds") or []), *asked["volumes"]]
    ports = [options.published(port) for port in asked.get("ports", ())]
    if ports:
        host["PortBindings"] = {private: [where for at, where in ports if at == private] for private, _ in ports}
    if asked.get("read_only"):
        host["ReadonlyRootfs"] = True
        host["Tmpfs"] = {"/tmp": "mode=1777", **(host.get("Tmpfs") or {})}  # noqa: S108 - of the container
    labels = labels_of(spec, owner, ref)
    # A volume without a name goes with its container; by the labels it is found where somebody left it behind.
    ours = {"Type": "volume", "Target": PLACE, "VolumeOptions": {"Labels": labels}}
    host["Mounts"] = [*(host.get("Mounts") or []), ours]
    host |= {
        "AutoRemove": False,
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {
            "Type": "json-file",
            # Each is said, or the engine's own defaults come in.
            "Config": {"max-size": UNBOUNDED, "max-file": "1", "compress": "false"},
        },
    }
    return {
        "Image": image,
        "Entrypoint": [program],
        "Cmd": ["-c", BEGIN],
        "Labels": labels,
        "ExposedPorts": {private: {} for private, _ in ports},
        "OpenStdin": True,
        "StdinOnce": False,
        "Tty": False,
        "Healthcheck": {"Test": ["NONE"]},
        "StopSignal": "SIGTERM",
        "HostConfig": host,
        **({"User": asked["user"]} if asked.get("user") else {}),
    }


def further_networks(spec: LaunchSpec) -> list[str]:
    """Those beyond the first, which an engine wants one by one."""
    return list(spec.container.get("networks") or ())[1:]


def _limits(asked: Mapping[str, Json]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if (memory := asked.get("memory")) is not None:
        found |= {"Memory": memory, "MemorySwap": memory}  # swap beside it would be no limit
    if (cpus := asked.get("cpus")) is not None:
        found["NanoCpus"] = int(cpus * 1e9)
    if (gpus := asked.get("gpus")) is not None:
        count = -1 if gpus == "all" else int(gpus)
        found["DeviceRequests"] = [{"Driver": "", "Count": count, "Capabilities": [["gpu"]]}]
    return found


def orders(spec: LaunchSpec, lives: float) -> dict[str, Any]:
    """What the keeper in the container is told, secrets too; ``lives``: seconds that it may go on without a word."""
    payload = spec.payload
    script = payload["kind"] == "script"
    return {
        "name": "container",
        "folder": FOLDER,
        "kind": "pickle" if payload["kind"] == "pickle" else "other",
        "lives": lives,
        "grace": spec.grace,
        "timeout": spec.timeout,
        "output_limit": spec.output_limit,
        "redacted": list(spec.redacted),
        "go": {
            "run": {"id": spec.run_id, "attempt": spec.attempt, "flow": spec.flow},
            "folder": FOLDER,
            "payload": dict(payload),
            "parameters": dict(spec.parameters),
            "secrets": dict(spec.secrets),
            "python": spec.python,
            "env": dict(spec.env),
            "cwd": f"{FOLDER}/{payload['root']}" if script and not payload["root"].startswith("/") else None,
            "limits": {"memory_limit": None, "cpu_time_limit": None, "nice": None},
        },
    }


def refuse(spec: LaunchSpec, allowed: Sequence[str]) -> None:
    """See that the agent lets the run have what it asks for; closed unless ``allowed`` names it.

    An entry is a name (``volumes``), or a name with one value (``volumes:/data``, ``host_config:shm_size``). A folder
    is allowed alone and not with what lies below it: there an earlier run may have made a link to anywhere, which the
    engine follows.

    Raises LaunchError: ``not_allowed``.
    """
    for name, value in _wishes(spec.container):
        if not any(covers(entry, name, value) for entry in allowed):
            shown = f"{name}:{value}" if value else name
            raise LaunchError(
                f"flow {spec.flow!r} asks for {shown}, which reaches into the machine of this agent, and its setting"
                f" docker.allow does not name that",
                hint=_way_out(name, shown),
                reason=Reason.NOT_ALLOWED,
            )


def _way_out(name: str, shown: str) -> str:
    """What may be added to the setting, the least of it first."""
    least = f"whoever runs the agent may add {shown!r} to docker.allow"
    if name == "volumes":
        return f"{least}; 'volumes' would allow every folder, which gives all flows the whole machine"
    if name == "host_config":
        return (
            f"{least}, if that does not give flows the whole machine, as privileged, binds, devices and others do;"
            " 'host_config' would allow all of them"
        )
    return least if shown == name else f"{least}, or {name!r} for all of its kind"


def checked(spec: LaunchSpec) -> None:
    """See that what is asked for can be: registrations may have been written by another program than ours.

    Raises LaunchError.
    """
    asked = spec.container
    try:
        options.ports(asked.get("ports"))
        options.volumes(asked.get("volumes"))
        host_config(asked.get("host_config"), [name for name, value in asked.items() if value])
        options.gpus(asked.get("gpus"))
        options.cpus(asked.get("cpus"))
        options.user(asked.get("user"))
        options.pull_policy(asked.get("pull_policy", "missing"))
        options.networks(asked.get("networks"))
        if asked.get("memory") is not None:
            options.in_bytes(asked["memory"], what="DockerRun: memory")
    except (TypeError, ValueError) as error:
        raise LaunchError(f"the run config of flow {spec.flow!r} cannot be: {error}") from None


def _wishes(asked: Mapping[str, Json]) -> list[tuple[str, str]]:
    sources = [volume.partition(":")[0] for volume in asked.get("volumes", ())]
    found = [("volumes", options.cleaned(source) if source.startswith("/") else source) for source in sources]
    found += [("ports", str(port)) for port in asked.get("ports", ())]
    for network in asked.get("networks", ()):
        if network == "host" or network.startswith(("container:", "ns:")):
            found.append(("host_network", network))
        elif network not in OWN_NETWORKS:
            found.append(("networks", network))
    if asked.get("gpus") is not None:
        found.append(("gpus", ""))
    found += [("host_config", name) for name in asked.get("host_config", {})]
    return found


def covers(entry: str, name: str, value: str) -> bool:
    """Whether ``entry`` of a list of what is allowed covers ``name`` with ``value``."""
    kind, _, only = entry.partition(":")
    if name == "volumes" and only.startswith("/"):
        only = options.cleaned(only)
    return kind == name and (not only or only == value)
