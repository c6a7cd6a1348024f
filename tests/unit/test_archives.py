"""Archives that are damaged, or made to hurt: refused, within little memory and time, whatever is wrong with them."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flow_agent.storages import archives, payload


def nothing() -> None:
    """Nobody ends it."""


def packed(*members: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def unpacked(data: bytes, below: str | None = None) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        archive, target = Path(folder, "archive"), Path(folder, "target")
        archive.write_bytes(data)
        target.mkdir()
        archives.unpack(archive, target, nothing, below=below)
        return {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}


GOOD = packed(("top/flow.py", b"x = 1\n"), ("top/lib/helper.py", b"y = 2\n" * 300))


def with_size(size: int) -> bytes:
    """An archive whose first member says that it has ``size`` bytes, in an extended header."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("top/flow.py")
        info.pax_headers = {"size": str(size)}
        archive.addfile(info)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        GOOD[:700],
        GOOD[:1200],
        gzip.compress(GOOD),
        packed(("a", b"1"), ("a", b"2")),
        packed(("a", b"1"), ("a/b", b"2")),
        packed(("a/b", b"1"), ("a", b"2")),
        packed(("x" * 300, b"1")),
        packed(("/".join(["y" * 200] * 30), b"1")),
        with_size(-512),
        with_size(10**30),
        b"",
    ],
    ids=["cut", "cut between", "gz", "twice", "below", "above", "long", "deep", "negative", "huge", "empty"],
)
def test_what_is_wrong_is_refused(data: bytes) -> None:
    with pytest.raises(payload.Refused):
        unpacked(data)


@pytest.mark.parametrize("cut", [20, 100, -1, -4, -8])
def test_a_cut_archive_of_a_host_is_refused(cut: int) -> None:
    with pytest.raises(payload.Refused):
        unpacked(gzip.compress(GOOD)[:cut], below="")


def test_a_damaged_archive_of_a_host_is_refused() -> None:
    data = bytearray(gzip.compress(GOOD))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(payload.Refused):
        unpacked(bytes(data), below="")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_whatever_is_damaged_it_is_read_or_refused(changes: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for place, byte in changes:
        data[place % 1600] = byte
    with contextlib.suppress(payload.Refused):
        assert len(unpacked(bytes(data))) <= 2


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_would_fill_the_memory_is_refused(kind: bytes, tmp_path: Path) -> None:
    """Three gigabytes of one header are three megabytes in gzip; it is read into memory before it means anything."""
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, 3 << 30
    with gzip.open(tmp_path / "bomb.tar.gz", "wb", compresslevel=1) as file:
        file.write(info.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(600):  # more than the limit of memory below
            file.write(bytes(1 << 20))
    (tmp_path / "target").mkdir()
    program = (
        "import sys; from pathlib import Path; from flow_agent.storages import archives, payload\n"
        "try: archives.unpack(Path(sys.argv[1]), Path(sys.argv[2]), lambda: None, below='')\n"
        "except payload.Refused as refused: print('refused:', refused)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "bomb.tar.gz"), str(tmp_path / "target")],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20)),
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.stdout.startswith("refused: "), done.stderr
    shutil.rmtree(tmp_path / "target")
