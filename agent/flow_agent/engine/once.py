"""A container that runs one command and is gone. Blocks."""

from __future__ import annotations

import contextlib
from functools import partial

from flow_agent.engine.client import Engine
from flow_agent.engine.progress import Progress
from flow_agent.errors import EngineError

GONE_WITHIN = 30.0
"""Seconds for the removal of a container."""


def prepare(engine: Engine, image: str, command: list[str]) -> str:
    """A container of ``image`` that will run ``command`` and remove itself then; gives its id.

    Raises EngineError.
    """
    sdk = engine.sdk

    def make() -> str:
        host = sdk.create_host_config(auto_remove=True)
        return str(
            sdk.create_container(
                image,
                entrypoint=command[:1],
                command=command[1:],
                host_config=host,
                labels={"flow-agent.check": image},
                healthcheck={"test": ["NONE"]},
            )["Id"]
        )

    return engine.ask(f"looking into the image {image}", make)


def run(engine: Engine, container: str, progress: Progress) -> str:
    """Start what ``prepare`` made: all that it writes until it ends.

    Raises EngineError: it cannot be started.
    """
    from docker.utils.socket import frames_iter  # noqa: PLC0415 - only where an image is looked into

    sdk = engine.sdk

    def follow() -> str:
        # Attached before it starts, since it may have removed itself before anybody asks what it wrote.
        socket = sdk.attach_socket(container, {"stdout": 1, "stderr": 1, "stream": 1})
        try:
            sdk.start(container)
            output = []
            for _, chunk in frames_iter(socket, tty=False):
                progress.goes_on()
                output.append(chunk)
            return b"".join(output).decode(errors="replace")
        finally:
            socket._response.close()

    return engine.ask("looking into the image", follow)


def gone(engine: Engine, container: str) -> None:
    """See that ``container`` is gone, whatever it does: until then its image is in use.

    Raises EngineError.
    """
    with contextlib.suppress(EngineError):  # it is gone, or being removed
        engine.ask("removing the container", lambda: engine.sdk.remove_container(container, force=True, v=True))
    try:
        wait = partial(engine.sdk.wait, container, timeout=GONE_WITHIN, condition="removed")
        engine.ask("removing the container", wait)
    except EngineError as error:
        if not error.missing:
            raise
