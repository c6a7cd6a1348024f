"""The only place that decides whether what was fetched may be loaded. Nothing is loaded to decide it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from flow_agent.errors import VerificationError
from flow_agent.model import Registration
from flow_agent.ports import Fetched

SMALL = 65_536
"""Bytes of a file that is read at once."""


def digest_of(path: Path) -> str:
    """SHA-256 (hex) of a file, read in pieces."""
    with path.open("rb") as file:
        begin = file.read(SMALL)
        if len(begin) < SMALL:  # what is beyond it takes a buffer four times as large
            return hashlib.sha256(begin).hexdigest()
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(registration: Registration, fetched: Fetched, folder: Path) -> None:
    """Check the payload below ``folder`` against its registration.

    A pickle must have the digest it was registered with. A pinned script must have the digest that its storage
    worked out while it was written; one that follows its source has none.

    Raises VerificationError (``digest_mismatch``).
    """
    if registration.kind == "pickle":
        found = digest_of(folder / fetched.payload["path"])
        if registration.digest is None:
            raise VerificationError(
                f"flow {registration.flow!r} version {registration.version} is a pickle without a digest",
                hint="register it again",
            )
    elif registration.digest is not None:
        found = fetched.digest
    else:
        return
    if found != registration.digest:
        place = registration.location.get("key") or registration.location.get("path")
        raise VerificationError(
            f"flow {registration.flow!r} version {registration.version}: fetched {found[:12]},"
            f" registered was {registration.digest[:12]} (SHA-256, storage {registration.storage.get('type')},"
            f" location {place}); it was not loaded",
            hint="register the flow again if it was changed on purpose",
        )
