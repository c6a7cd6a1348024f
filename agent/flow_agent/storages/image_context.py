"""The build context of an image, as one archive: our files, the author's, and the folder of his Dockerfile."""

from __future__ import annotations

import io
import stat
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO

from flow_agent.storages.dockerfile import OURS

Walk = Callable[[Path, list[str]], Iterable[str]]
"""What of a folder is not left out by patterns, as paths relative to it."""

DOCKERFILE = f"{OURS}/Dockerfile"


def write(
    file: IO[bytes],
    *,
    dockerfile: str,
    image: Path,
    files: Mapping[str, Path],
    context: Path | None,
    patterns: list[str],
    walk: Walk,
) -> None:
    """Write the archive to ``file``.

    ``dockerfile`` is the text that is built; ``image`` is a folder of ours, which lies at ``OURS/image``; ``files`` are
    the author's by their names in the context; ``context`` is the folder that his Dockerfile copies from. Of his
    folders what ``patterns`` name is left out.

    Raises OSError: one cannot be read. FileNotFoundError: one is not there.
    """
    with tarfile.open(fileobj=file, mode="w") as archive:
        if context is not None:
            kept = [path for path in walk(context, patterns) if path.partition("/")[0] != OURS]
            _folder(archive, context, "", kept)
        for name, source in files.items():
            if source.is_dir():
                _entry(archive, source, name, follow=True)
                _folder(archive, source, f"{name}/", walk(source, patterns))
            else:
                _entry(archive, source, name, follow=True)
        _text(archive, DOCKERFILE, dockerfile)
        _ours(archive, image)


def patterns_of(file: Path | None) -> list[str]:
    """The patterns in a file such as ``.dockerignore``; none without one.

    Raises OSError: it cannot be read.
    """
    if file is None:
        return []
    lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
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


def _ours(archive: tarfile.TarFile, image: Path) -> None:
    """What everybody in the image may read, whoever its user is."""
    for source in [image, *sorted(image.rglob("*"))]:
        info = tarfile.TarInfo(f"{OURS}/image/{source.relative_to(image).as_posix()}".removesuffix("/."))
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
