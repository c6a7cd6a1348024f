"""The runner as one file, for images and interpreters without this flow-agent: author's side, runner, cloudpickle."""

from __future__ import annotations

import hashlib
import uuid
import zipfile
from pathlib import Path

import flow_agent
from flow_agent.home import make_private

MAIN = """import sys
if sys.version_info < (3, 11):
    if sys.argv[1] == "container":
        sys.stdout.write('{"old": "%d.%d.%d"}\\n' % tuple(sys.version_info[:3]))
    sys.exit("this is Python %d.%d, expected 3.11 or newer" % sys.version_info[:2])
if sys.argv[1] == "container":
    from flow_agent.launchers.contained import main
    sys.exit(main())
elif sys.argv[1] == "zygote":
    from flow_agent.launchers.zygote import main
    main(*sys.argv[2:])
elif sys.argv[1] == "image":
    from flow_agent.runner.image import main
    sys.exit(main(sys.argv[2:]))
else:
    from flow_agent.runner.main import main
    if sys.argv[1] != "check":
        sys.exit(main(sys.argv[1]))
"""
PARTS = (
    "__init__.py",
    "version.py",
    "flow.py",
    "current.py",
    "checks.py",
    "run_configs.py",
    "container_options.py",
    "environments.py",
    "home.py",
    "redact.py",
    *(f"launchers/{name}.py" for name in ("__init__", "attempt", "cgroup", "evidence", "journal", "keep", "keeper")),
    *(f"launchers/{name}.py" for name in ("contained", "lines", "linux", "record", "room", "zygote")),
)
FOLDERS = ("runner", "results", "storages")


def runner_archive(folder: Path) -> Path:
    """The archive, made in ``folder`` unless it is there; its name tells its content.

    Raises OSError: it cannot be written.
    """
    files = _files()
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


def _files() -> dict[str, bytes]:
    import cloudpickle  # noqa: PLC0415 - only where another interpreter is asked for

    ours, theirs = Path(flow_agent.__file__).parent, Path(cloudpickle.__file__).parent
    found = {"__main__.py": MAIN.encode()}
    found |= {f"flow_agent/{name}": (ours / name).read_bytes() for name in PARTS}
    for folder in FOLDERS:
        found |= {
            f"flow_agent/{folder}/{path.name}": path.read_bytes() for path in sorted((ours / folder).glob("*.py"))
        }
    found |= {f"cloudpickle/{path.name}": path.read_bytes() for path in sorted(theirs.glob("*.py"))}
    return found
