"""The text of a Dockerfile: what the author wishes, and then the flows."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence

OURS = ".flow-agent"
"""The folder of the build context that holds what we put there; an author's own folder of that name is left out."""
INSIDE = "/opt/flow-agent"
"""Where flows, and what loads them, lie in the image."""


def default_base() -> str:
    """An image with the Python that runs here: pickles run on the minor version that wrote them."""
    return f"python:{sys.version_info[0]}.{sys.version_info[1]}-slim"


def dockerfile(
    begin: str,
    *,
    variables: Mapping[str, str],
    dependencies: Sequence[str],
    files: Mapping[str, str],
    commands: Sequence[str],
) -> str:
    """The whole text. ``begin`` is the author's Dockerfile, or a ``FROM``; ``files`` are names in the context, and
    places in the image.

    What changes with each registration comes last, so that the layers before it are built once.
    """
    lines = [begin.rstrip("\n")]
    escape = escape_of(begin)
    lines += [f"ENV {name}={_quoted(value, escape)}" for name, value in variables.items()]
    if dependencies:
        # No shell: what pip gets is what the author wrote, and an image may have none.
        pip = ["python3", "-m", "pip", "install", "--no-cache-dir", "--disable-pip-version-check", *dependencies]
        lines.append(f"RUN {json.dumps(pip)}")
    lines += [f"COPY {json.dumps([source, place])}" for source, place in files.items()]
    lines += commands
    lines.append(f"COPY {json.dumps([f'{OURS}/image/', f'{INSIDE}/'])}")
    return "\n".join(lines) + "\n"


def escape_of(text: str) -> str:
    """The character that a Dockerfile uses as escape: its first lines may name another one."""
    for line in text.splitlines():
        directive = re.fullmatch(r"\s*#\s*(\w+)\s*=\s*(\S+)\s*", line)
        if directive is None:
            break
        if directive[1].lower() == "escape" and directive[2] in {"\\", "`"}:
            return directive[2]
    return "\\"


def _quoted(value: str, escape: str) -> str:
    """``value`` as a word in double quotes that nothing is put into."""
    return '"' + re.sub(rf'(["$]|{re.escape(escape)})', lambda found: escape + found[0], value) + '"'
