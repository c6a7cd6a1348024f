"""The images of the tests' engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flow_agent.engine.client import Engine
from servers.docker_engine import DockerEngine


def names(engine: Engine) -> set[str]:
    """All names of images in the engine; what has none is for the next build, as after any `docker build`."""
    return {name for image in engine.sdk.images() for name in image["RepoTags"] or () if name != "<none>:<none>"}


@contextmanager
def without_further_images(server: DockerEngine) -> Iterator[Engine]:
    """A connection to the engine; images that get a name meanwhile are removed."""
    engine = server.connect()
    before = names(engine)
    try:
        yield engine
    finally:
        for name in names(engine) - before:
            engine.sdk.remove_image(name, force=True)
        engine.close()
