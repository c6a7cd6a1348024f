"""A base image for the tests, made of the Python that runs them: images cannot be pulled everywhere, and a pickle needs
its own minor version."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

IMAGE = "python-for-tests:1"
LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "ensurepip", "tkinter", "turtledemo", "site-packages"}
LEFT_OUT |= {"dist-packages", "pydoc_data", "EXTERNALLY-MANAGED"}
MINOR = f"python{sys.version_info[0]}.{sys.version_info[1]}"
OLD = f"""#!/usr/local/bin/{MINOR}
import sys
sys.version_info = (3, 8, 18, "final", 0)
exec(sys.argv[2])
"""
"""Stands in for a Python that is too old: it says that it is, to whatever it runs."""


def python_image(path: Path) -> Path:
    """The file system of the image as an archive at ``path``; made once."""
    if path.exists():
        return path
    staged = path.with_suffix(f".{os.getpid()}")
    with tarfile.open(staged, "w") as archive:
        _add_python(archive)
    staged.replace(path)
    return path


def archive_of(files: dict[str, tuple[str, int]]) -> bytes:
    """An archive of ``files``: content and mode by path."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, (text, mode) in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text.encode()), mode
            archive.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


def older_python() -> tuple[str, bytes] | None:
    """The version of a Python before 3.11, if this machine has one, and the file system of an image with it: what only
    says of itself that it is old may understand what an old one does not."""
    beside = Path(sys.base_prefix).resolve().parent.glob("3.*/bin/python3.*")  # as version managers put them
    usual = (shutil.which(f"python3.{minor}") for minor in range(6, 11))
    for program in sorted({str(path) for path in (*beside, *usual) if path}):
        if not re.fullmatch(r"python3\.([6-9]|10)", Path(program).name):
            continue
        ask = "import platform, sysconfig as s; print(platform.python_version(), s.get_path('stdlib'))"
        done = subprocess.run([program, "-I", "-c", ask], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            version, library = done.stdout.split()
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as archive:
                _add_python(archive, Path(program).resolve(), Path(library))
            return version, buffer.getvalue()
    return None


def _add_python(archive: tarfile.TarFile, program: Path | None = None, library: Path | None = None) -> None:
    program = program or Path(sys.base_prefix, "bin", MINOR).resolve()
    library = library or Path(sysconfig.get_path("stdlib"))
    minor = library.name
    for folder in ("tmp", "dev", "proc", "sys", "etc", "home/app"):
        member = tarfile.TarInfo(folder)
        member.type, member.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
        member.uid = member.gid = 1000 if folder == "home/app" else 0
        archive.addfile(member)
    for name, text in {
        "etc/passwd": "root:x:0:0:root:/:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n",
        "etc/group": "root:x:0:\napp:x:1000:\n",
    }.items():
        member = tarfile.TarInfo(name)
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text.encode()))
    _add(archive, program, f"usr/local/bin/{minor}")
    for alias in ("python3", "python"):
        member = tarfile.TarInfo(f"usr/local/bin/{alias}")
        member.type, member.linkname = tarfile.SYMTYPE, minor
        archive.addfile(member)
    archive.add(library, f"usr/local/lib/{minor}", filter=_plain)
    for needed in _libraries([program, *(library / "lib-dynload").glob("*.so")]):
        # Beside where it is asked for: the loader looks for others below the usual folders.
        _add(archive, needed, needed.lstrip("/") if needed.startswith("/lib") else f"usr/lib/{Path(needed).name}")


def _add(archive: tarfile.TarFile, source: str | Path, name: str) -> None:
    member = archive.gettarinfo(str(Path(source).resolve()), name)
    member.uid = member.gid = 0
    with open(Path(source).resolve(), "rb") as file:
        archive.addfile(member, file)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if LEFT_OUT.intersection(member.name.split("/")) or "/config-" in member.name:
        return None
    member.uid = member.gid = 0
    member.mode |= 0o555 if member.isdir() else 0o444
    return member


def _libraries(programs: list[Path]) -> list[str]:
    said = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=False).stdout
    return sorted({found[1] for found in re.finditer(r"(?:=> )?(/\S+) \(0x", said)} - {""})
