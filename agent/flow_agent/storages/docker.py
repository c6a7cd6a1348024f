"""Flows in images of Docker."""
# ruff: noqa: PLC0415 - see storages.base; a flow file imports this module in the attempt too

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flow_agent.checks import secret_name
from flow_agent.container_options import image_name as an_image
from flow_agent.storages import image_options
from flow_agent.storages.base import Storage, Stored

if TYPE_CHECKING:
    from flow_agent.flow import Described, Flow
    from flow_agent.model import Json, Registration
    from flow_agent.ports import Fetched, SecretResolver

_Path = str | os.PathLike[str]


class Docker(Storage):
    """Builds an image that holds the flows, and pushes it to ``registry_url``; without one it stays in the engine.

    The image is made from ``base_image`` (``python:3.X-slim`` of the Python that registers, unless given), or from
    the file ``dockerfile``, whose context is the current folder, less what the file ``dockerignore`` names. It gets
    ``env_vars``, then ``python_dependencies`` by pip, then ``files`` (paths of this machine and absolute ones in the
    image), then ``extra_dockerfile_commands``, then the flows. ``build_kwargs`` are further arguments of the build.
    It is called ``registry_url/image_name:image_tag``; left out, those are the flows' names as a slug, and the time.

    The base image is pulled, unless ``local_image`` says that it is here. Each flow is loaded in a container of the
    image before it is pushed, unless ``ignore_healthchecks``. ``base_url`` and ``tls_config`` (True, or a table with
    ``ca_cert``, ``client_cert``, ``client_key``) name the engine that builds; else ``DOCKER_HOST`` and its like do.
    ``registry_secret`` names a secret with the registry's credentials, as JSON with ``username`` and ``password``;
    without it those of ``docker login`` are used.

    With ``stored_as_script`` the flow is loaded from source code: from ``path`` in the image, where your files or
    image have it, or else from the file that defines it, which comes along; so does ``root``, a folder that holds
    that file. Runs use the image by its digest; with ``pin=False`` they use what its name means when they start.
    The other arguments are those of ``Storage``.

    Raises TypeError, ValueError: the arguments do not fit each other.
    """

    launcher = "docker"

    def __init__(  # noqa: PLR0917 - the order of the older system
        self,
        registry_url: str | None = None,
        base_image: str | None = None,
        dockerfile: _Path | None = None,
        dockerignore: _Path | None = None,
        python_dependencies: Sequence[str] | None = None,
        image_name: str | None = None,
        image_tag: str | None = None,
        env_vars: Mapping[str, str] | None = None,
        files: Mapping[str, str] | None = None,
        *,
        local_image: bool = False,
        ignore_healthchecks: bool = False,
        base_url: str | None = None,
        tls_config: bool | Mapping[str, Any] = False,
        build_kwargs: Mapping[str, Any] | None = None,
        path: str | None = None,
        root: _Path | None = None,
        stored_as_script: bool = False,
        extra_dockerfile_commands: Sequence[str] | None = None,
        registry_secret: str | None = None,
        pin: bool = True,
        labels: Iterable[str] | None = None,
        add_default_labels: bool = True,
        secrets: Iterable[str] | None = None,
        result: Described | None = None,
    ) -> None:
        super().__init__(
            labels=labels,
            add_default_labels=add_default_labels,
            secrets=secrets,
            result=result,
            stored_as_script=image_options.flag(stored_as_script, "stored_as_script"),
            pin=image_options.flag(pin, "pin"),
        )
        if base_image is not None and dockerfile is not None:
            raise ValueError("Docker: base_image and dockerfile are both given, expected one of them")
        self.registry_url = image_options.registry(registry_url)
        self.base_image = an_image(image_options.text(base_image, "base_image"), what="Docker: base_image")
        self.dockerfile = image_options.here(dockerfile, "dockerfile")
        self.dockerignore = image_options.here(dockerignore, "dockerignore")
        self.python_dependencies = image_options.listed(python_dependencies, "python_dependencies")
        self.image_name = image_options.name(image_name)
        self.image_tag = image_options.tag(image_tag)
        self.env_vars = image_options.variables(env_vars)
        self.files = image_options.files(files)
        self.local_image = image_options.flag(local_image, "local_image")
        self.ignore_healthchecks = image_options.flag(ignore_healthchecks, "ignore_healthchecks")
        self.base_url = image_options.text(base_url, "base_url")
        self.tls_config = image_options.tls(tls_config)
        self.build_kwargs = image_options.building(build_kwargs)
        self.extra_dockerfile_commands = image_options.listed(extra_dockerfile_commands, "extra_dockerfile_commands")
        self.registry_secret = secret_name(registry_secret, what="Docker: registry_secret")
        if self.registry_secret is not None:  # for the launcher; flows do not get it
            self.secrets = tuple(dict.fromkeys([*self.secrets, self.registry_secret]))
        self.path = image_options.inside(path, "path")
        self.root = image_options.here(root, "root")
        if (path or root) and not stored_as_script:
            given = "path" if path else "root"
            raise ValueError(f"Docker: {given} is for scripts, but stored_as_script is off; add stored_as_script=True")
        if "target" in self.build_kwargs and dockerfile is None:
            raise ValueError("Docker: build_kwargs has target, which is a stage of a dockerfile, and none is given")
        if path and root:
            raise ValueError(
                "Docker: path is a file that the image has already, and root a folder of this machine that comes along;"
                " expected one of them"
            )

    def options(self) -> dict[str, Json]:
        """See :meth:`Storage.options`; what is needed to build stays behind."""
        return {
            "registry_url": self.registry_url,
            "image_name": self.image_name,
            "image_tag": self.image_tag,
            "stored_as_script": self.stored_as_script,
            "registry_secret": self.registry_secret,
            "base_url": self.base_url,
            "tls_config": self.tls_config,
            "pin": self.pin,
        }

    def store(self, flows: Sequence[Flow]) -> dict[str, Stored]:
        """See :meth:`Storage.store`: one image for all of ``flows``."""
        from flow_agent.storages import image_build

        return image_build.store(self, flows)

    def discard(self, stored: Stored) -> None:
        """See :meth:`Storage.discard`: an image of this engine is removed; what was pushed stays in its registry."""
        from flow_agent.storages import image_build

        image_build.discard(self, stored)

    async def fetch(
        self,
        registration: Registration,
        into: Path,  # noqa: ARG002 - the port's signature; the engine that runs the image pulls it
        secrets: SecretResolver,  # noqa: ARG002 - as above
        known: str | None = None,  # noqa: ARG002 - as above
    ) -> Fetched:
        """See :meth:`flow_agent.ports.Storage.fetch`: names the image, and where the flow lies in it."""
        from flow_agent.ports import Fetched
        from flow_agent.storages.payload import digest_of_text

        location = registration.location
        pinned = registration.digest is not None
        image = location["image"] if pinned else location["name"]
        # What is not pinned may have moved since it was pulled; what was not pushed is in no registry.
        pull = "never" if not location["pushed"] else "missing" if pinned else "always"
        payload = {**location["inside"], "image": image, "pull": pull, "host": location["host"]}
        digest = location["digest"].partition(":")[2] if pinned else digest_of_text(image)
        return Fetched(payload=payload, revision=image, digest=digest)
