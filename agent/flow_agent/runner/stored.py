"""Reads a pickled flow: ours, a function; or what Prefect 1 stored, raw or in its envelope of JSON.

The digest of the bytes was checked before; loading them runs what their author wrote.
"""

from __future__ import annotations

import io
import json
import pickle
import sys
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"


class Mismatch(Exception):
    """Another Python wrote the pickle."""


def envelope(data: bytes) -> tuple[bytes, Mapping[str, str]]:
    """The pickle in ``data``, and the versions of what wrote it (of Python, cloudpickle, prefect), where it says so."""
    if not data.lstrip().startswith(b"{"):
        return data, {}
    try:
        table = json.loads(data)
        return b64decode(table["flow"], validate=True), {str(k): str(v) for k, v in table["versions"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return data, {}


def minor(python: str | None) -> str | None:
    """The minor version in ``3.11.7``."""
    return None if python is None else ".".join(python.split(".")[:2])


def load(path: str, python: str | None = None) -> Any:
    """What is pickled in the file ``path``; ``python`` is the minor version that wrote it, if it is known.

    Raises Mismatch: another one wrote it. Whatever unpickling raises, with a note of versions that differ.
    """
    with open(path, "rb") as file:
        first = file.read(64)
        file.seek(0)
        if first.lstrip()[:1] != b"{":
            _check(python)
            return pickle.load(file)
        data, versions = envelope(file.read())
    _check(python or minor(versions.get("python")))
    try:
        return pickle.load(io.BytesIO(data))
    except Exception as error:
        if differing := _differing(versions):
            error.add_note(f"the flow was pickled with {differing}")
        raise


def _check(python: str | None) -> None:
    if python not in (None, HERE):
        raise Mismatch(
            f"the flow was pickled by Python {python}, this is Python {HERE} ({sys.executable}); a pickle runs only on"
            " the minor version that wrote it: register the flow again from this one, or store it as a script"
        )


def _differing(versions: Mapping[str, str]) -> str:
    """The packages whose version is another one here."""
    from importlib.metadata import PackageNotFoundError, version  # 20 ms that most attempts need not wait for

    found = []
    for name, theirs in versions.items():
        if name == "python":
            continue
        try:
            here = version(name)
        except PackageNotFoundError:
            here = "not installed"
        if here != theirs:
            found.append(f"{name} {theirs} (here: {here})")
    return ", ".join(found)
