"""The text of the Dockerfile that puts flows into an image, and before them what the author wishes."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence

INSIDE = "/opt/flow-agent"
"""Where flows, and what loads them, lie in the image."""


def default_base() -> str:
    """An image with the Python that runs here: pickles run on the minor version that wrote them."""
    return f"python:{sys.version_info[0]}.{sys.version_info[1]}-slim"


def dockerfile(
    base: str,
    *,
    variables: Mapping[str, str],
    dependencies: Sequence[str],
    files: Mapping[str, str],
    commands: Sequence[str],
) -> str:
    """The whole text. ``base`` is an image; ``files`` are folders of the context, and those of the image that get what
    they hold.

    What changes with each registration comes last, so that the layers before it are built once.
    """
    lines = [f"FROM {base}"]
    lines += [f"ENV {name}={_quoted(value)}" for name, value in variables.items()]
    if dependencies:
        # No shell: what pip gets is what the author wrote, and an image may have none.
        pip = ["python3", "-m", "pip", "install", "--no-cache-dir", "--disable-pip-version-check", *dependencies]
        lines.append(f"RUN {json.dumps(pip)}")
    lines += [f"COPY {json.dumps([source, _escaped(place)])}" for source, place in files.items()]
    lines += commands
    lines.append(f"COPY {json.dumps(['image/', f'{INSIDE}/'])}")
    return "\n".join(lines) + "\n"


def _quoted(value: str) -> str:
    """``value`` as a word in double quotes that nothing is put into."""
    return '"' + re.sub(r'(["$\\])', r"\\\1", value) + '"'


def _escaped(place: str) -> str:
    """``place`` as it is: an engine looks for variables and quotes in it even where it stands in JSON."""
    return re.sub(r"""(["'$\\])""", r"\\\1", place)
