"""The images of the tests' engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from flow_agent.engine.client import Engine
from servers.docker_engine import DockerEngine
from servers.docker_image import older_python

PATH = "PATH=/usr/local/bin:/usr/bin:/bin"


def names(engine: Engine) -> set[str]:
    """All names of images in the engine; what has none is for the next build, as after any `docker build`."""
    return {name for image in engine.sdk.images() for name in image["RepoTags"] or () if name != "<none>:<none>"}


def everything(engine: Engine) -> set[str]:
    """The ids of all images in the engine, also of those without a name and of those that others are made of."""
    return {image["Id"] for image in engine.sdk.images(all=True)}


@contextmanager
def with_older_python(engine: Engine) -> Iterator[tuple[str, str]]:
    """An image whose Python is truly too old, and the version of that."""
    if (found := older_python()) is None:
        pytest.skip("this machine has no Python before 3.11")
    engine.sdk.import_image_from_data(found[1], repository="older-python", tag="1", changes=[f"ENV {PATH}"])
    yield "older-python:1", found[0]
    engine.sdk.remove_image("older-python:1", force=True)


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
