"""The runner as one file, for images and interpreters without this flow-agent: author's side, runner, cloudpickle."""

from __future__ import annotations

import hashlib
import importlib.util
import marshal
import uuid
import zipfile
from collections.abc import Mapping
from pathlib import Path

import flow_agent
from flow_agent.home import make_private
from flow_agent.runner.first import ORDER

MAIN = f"""{ORDER}
if sys.version_info < (3, 11):
    sys.exit("this is Python %d.%d, expected 3.11 or newer" % sys.version_info[:2])
if sys.argv[1] == "zygote":
    from flow_agent.launchers.zygote import main
    sys.path[:] = theirs
    main(*sys.argv[2:])
elif sys.argv[1] == "image":
    from flow_agent.runner.image import main
    sys.exit(main(sys.argv[2:], theirs))
else:
    from flow_agent.runner.main import main
    if sys.argv[1] != "check":
        sys.exit(main(sys.argv[1], theirs))
"""
PARTS = (
    "__init__.py",
    "version.py",
    "flow.py",
    "current.py",
    "checks.py",
    "run_configs.py",
    "container_options.py",
    "host_options.py",
    "ecs_options.py",
    "kubernetes_options.py",
    "environments.py",
    "home.py",
    "redact.py",
    *(f"launchers/{name}.py" for name in ("__init__", "attempt", "cgroup", "evidence", "journal", "keep", "keeper")),
    *(f"launchers/{name}.py" for name in ("contained", "lines", "linux", "record", "room", "zygote")),
)
FOLDERS = ("runner", "results", "storages")
COMPILED = (
    *("cloudpickle/", "flow_agent/launchers/", "flow_agent/runner/"),
    *(f"flow_agent/{name}" for name in PARTS if "/" not in name),
)
"""What an attempt needs at its start; what stores flows and results it does not."""


def runner_archive(folder: Path, compiled_for: str | None = None) -> Path:
    """The archive, made in ``folder`` unless it is there; its name tells its content.

    ``compiled_for`` is the path at which it will be found: then it holds bytecode too, for interpreters of our own
    minor version. Compiling takes such an interpreter ten times as long as its own start.

    Raises OSError: it cannot be written.
    """
    files = _files()
    if compiled_for is not None:
        files |= _compiled(files, compiled_for)
    digest = hashlib.sha256(b"".join(name.encode() + data for name, data in files.items())).hexdigest()
    path = folder / f"runner-{digest[:16]}.pyz"
    if path.exists():
        return path
    make_private(folder)
    staged = folder / f"{path.name}.{uuid.uuid4().hex}.tmp"  # two attempts may make it at one time
    with zipfile.ZipFile(staged, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            # The same content is the same file, whenever it is packed: a layer of an image is then shared.
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    staged.replace(path)
    return path


def _compiled(files: Mapping[str, bytes], place: str) -> dict[str, bytes]:
    """The bytecode of ``files``; interpreters of other versions see that it is not theirs, and take the source."""
    flags = (0b01).to_bytes(4, "little")  # belongs to a source by its hash, which nobody needs to check
    return {
        f"{name}c": importlib.util.MAGIC_NUMBER
        + flags
        + importlib.util.source_hash(source)
        + marshal.dumps(compile(source, f"{place}/{name}", "exec", dont_inherit=True))
        for name, source in files.items()
        if name.startswith(COMPILED)
    }


def _files() -> dict[str, bytes]:
    import cloudpickle  # noqa: PLC0415 - 50 ms that agents without other interpreters save

    ours, theirs = Path(flow_agent.__file__).parent, Path(cloudpickle.__file__).parent
    found = {"__main__.py": MAIN.encode()}
    found |= {f"flow_agent/{name}": (ours / name).read_bytes() for name in PARTS}
    for folder in FOLDERS:
        found |= {
            f"flow_agent/{folder}/{path.name}": path.read_bytes() for path in sorted((ours / folder).glob("*.py"))
        }
    found |= {f"cloudpickle/{path.name}": path.read_bytes() for path in sorted(theirs.glob("*.py"))}
    return found
