"""The contexts of builds, each as one archive: the author's folder with his Dockerfile, and what we put into images."""

from __future__ import annotations

import io
import stat
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO

Walk = Callable[[Path, list[str]], Iterable[str]]
"""What of a folder is not left out by patterns, as paths relative to it."""

DOCKERFILE = "Dockerfile.flow-agent"
"""The name of the text that is built; an author's file of that name is left out."""
IGNORED = ".dockerignore"


def ours(  # noqa: PLR0917 - what one context holds
    file: IO[bytes],
    dockerfile: str,
    image: Path,
    files: Mapping[str, Path],
    patterns: list[str],
    walk: Walk,
) -> None:
    """Write to ``file`` the text ``dockerfile``, and ``image``, a folder of ours with the flows.

    ``files`` are the author's by their names in the context; of his folders what ``patterns`` name is left out.

    Raises OSError: one cannot be read.
    """
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, source in files.items():
            _entry(archive, source, name, follow=True)
            if source.is_dir():
                _folder(archive, source, f"{name}/", walk(source, patterns))
        _text(archive, DOCKERFILE, dockerfile)
        _open_to_all(archive, image)


def theirs(file: IO[bytes], dockerfile: str, folder: Path, patterns: list[str], walk: Walk) -> None:
    """Write to ``file`` the author's text ``dockerfile`` and ``folder``, without what ``patterns`` name.

    Raises OSError: something cannot be read.
    """
    with tarfile.open(fileobj=file, mode="w") as archive:
        left_out = {DOCKERFILE, IGNORED}
        _folder(archive, folder, "", (path for path in walk(folder, patterns) if path not in left_out))
        _text(archive, DOCKERFILE, dockerfile)
        # The engine takes these two away once it has read them: else `COPY .` would copy them.
        _text(archive, IGNORED, f"{DOCKERFILE}\n{IGNORED}\n")


def patterns_of(text: str) -> list[str]:
    """The patterns in the text of a ``.dockerignore``."""
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _folder(archive: tarfile.TarFile, root: Path, prefix: str, paths: Iterable[str]) -> None:
    for path in sorted(paths):
        _entry(archive, root / path, f"{prefix}{path}", follow=False)


def _entry(archive: tarfile.TarFile, source: Path, name: str, *, follow: bool) -> None:
    """One file, folder or link, with nobody's name on it; what is neither (sockets, pipes) is nothing to build from."""
    status = source.stat() if follow else source.lstat()
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = stat.S_IMODE(status.st_mode), int(status.st_mtime)
    if stat.S_ISLNK(status.st_mode):
        info.type, info.linkname = tarfile.SYMTYPE, str(source.readlink())
        archive.addfile(info)
    elif stat.S_ISDIR(status.st_mode):
        info.type = tarfile.DIRTYPE
        archive.addfile(info)
    elif stat.S_ISREG(status.st_mode):
        with source.open("rb") as opened:
            info.size = status.st_size
            archive.addfile(info, opened)


def _open_to_all(archive: tarfile.TarFile, image: Path) -> None:
    """What everybody in the image may read, whoever its user is."""
    for source in [image, *sorted(image.rglob("*"))]:
        info = tarfile.TarInfo(f"image/{source.relative_to(image).as_posix()}".removesuffix("/."))
        if source.is_symlink():
            info.type, info.linkname = tarfile.SYMTYPE, str(source.readlink())
            archive.addfile(info)
        elif source.is_dir():
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(info)
        else:
            info.mode = 0o755 if source.stat().st_mode & stat.S_IXUSR else 0o644
            info.size = source.stat().st_size
            with source.open("rb") as opened:
                archive.addfile(info, opened)


def _text(archive: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode()
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    archive.addfile(info, io.BytesIO(data))
