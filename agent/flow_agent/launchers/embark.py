"""From a launch spec to a container in which the attempt is parked: its image, its making, its luggage, its orders."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread

from flow_agent.engine import containers, images
from flow_agent.engine.client import Engine
from flow_agent.errors import EngineError, LaunchError
from flow_agent.launchers import container, luggage
from flow_agent.launchers.container import REF, Owner
from flow_agent.launchers.pulls import Pulls
from flow_agent.model import LaunchSpec

PROGRAMS = ("python3", "python")
"""What an interpreter may be called in an image, the first that there is."""
BEGIN_WITHIN = 60.0
"""Seconds until the keeper must have said that the attempt is parked."""
COPY_WITHIN = 3600.0
"""Seconds that a large payload may take into its container."""
UNDO_WITHIN = 20.0
"""Seconds for removing a container that came to nothing."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """The settings below ``docker`` that are about making containers."""

    image: str = ""
    allow: tuple[str, ...] = ()
    network: str = ""
    pull_within: float = 1800.0

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Wishes:
        """Those in ``options``."""
        return cls(**{name: options[name] for name in cls.__dataclass_fields__ if name in options})


class Embark:
    """Makes the containers of one agent."""

    def __init__(self, engine: Engine, archive: Path, owner: Owner, wishes: Wishes, tasks: anyio.abc.TaskGroup) -> None:
        self._engine, self._archive, self._owner, self._wishes = engine, archive, owner, wishes
        self._pulls = Pulls(engine, tasks, wishes.pull_within)
        self.unsure: set[str] = set()
        """Refs of which something may be left on the engine, or may yet be made there."""
        self._copied: set[str] = set()
        """Images whose user may not write where the luggage goes."""
        self._programs: dict[str, str] = {}
        """What the interpreter was called the last time, by the name of the image."""

    async def embark(self, spec: LaunchSpec, ref: str) -> str:
        """The id of a container in which the attempt of ``spec`` is parked.

        Raises LaunchError: nothing is left behind. SecretNotFound: the registry's secret holds no credentials.
        """
        container.checked(spec)
        container.refuse(spec, self._wishes.allow)
        image = spec.image or self._wishes.image or _image_of(spec)
        try:
            with _in_our_words():
                return await self._with_program(spec, ref, image)
        except containers.Ended as ended:
            why = ended.said.strip().splitlines()
            raise LaunchError(
                f"a container of the image {image} ended before it could start the attempt"
                + (f": {why[-1]}" if why else "; perhaps it has too little memory, or its python3 is none"),
                hint=f"expected Python 3.11 or newer as python3 on the image's PATH; try `docker run --rm"
                f" --entrypoint python3 {image} --version`",
            ) from None

    async def _with_program(self, spec: LaunchSpec, ref: str, image: str) -> str:
        """Try what the interpreter may be called."""
        known = self._programs.get(image)  # the first to try, and no more: what is called so may be another image now
        for program in sorted(PROGRAMS, key=lambda program: program != known):
            made = await self._with_image(spec, ref, image, program)
            async with self._undone(made, ref):
                try:
                    await self._begin(spec, made, image)
                    self._programs[image] = program
                    return made
                except EngineError as error:
                    if not containers.lacks_program(error):
                        raise
                await self._remove(made, ref)
        raise LaunchError(
            f"the image {image} has no Python: there is neither {' nor '.join(PROGRAMS)} on its PATH",
            hint="expected an image with Python 3.11 or newer, such as python:3.12-slim",
        )

    # The container

    async def _with_image(self, spec: LaunchSpec, ref: str, image: str, program: str) -> str:
        """The id of a container that was made; its image is pulled if that is wanted."""
        policy = spec.container.get("pull_policy", "missing")
        if policy == "always":
            await self._pulls.pull(spec, image)
        try:
            return await self._make(spec, ref, image, program)
        except EngineError as error:
            if not error.missing:
                raise
            if (host := spec.payload.get("host")) and policy == "never":
                raise LaunchError(
                    f"the engine at {self._engine.address.shown} has no image {image}; it was built on {host}, and"
                    " pushed to no registry",
                    hint="register the flow with Docker(registry_url=...), or give it and the agents of that engine a"
                    " label of their own",
                ) from error
            if policy != "missing":
                raise LaunchError(
                    f"the engine at {self._engine.address.shown} has no image {image}, and pull_policy is {policy!r}",
                    hint="build or pull it there, or let pull_policy be 'missing'",
                ) from error

        async def there() -> bool:
            found = await self._engine.call(f"looking for {image}", partial(images.there, self._engine, image))
            return found is not None

        await self._pulls.pull(spec, image, there)  # another run may have pulled it meanwhile
        return await self._make(spec, ref, image, program)

    async def _make(self, spec: LaunchSpec, ref: str, image: str, program: str) -> str:
        name = container.name_of(spec)
        try:
            return await self._made(name, spec, ref, image, program)
        except EngineError as error:
            if not containers.is_taken(error):
                raise
            await self._remove_earlier(name, error)
        return await self._made(name, spec, ref, image, program)

    async def _made(self, name: str, spec: LaunchSpec, ref: str, image: str, program: str) -> str:
        def make() -> str:
            config = container.config(
                spec, self._owner, ref, image=image, program=program, engine=self._engine, network=self._wishes.network
            )
            return containers.create(self._engine, name, config, container.further_networks(spec))

        try:
            return await self._engine.call(f"making the container {name}", make, lane=self._engine.starts)
        except LaunchError:
            raise
        except BaseException as error:
            if not isinstance(error, EngineError) or error.status is None:  # no answer, or cut off: it may be there
                await self._remove_unseen(ref)
            raise

    async def _remove_earlier(self, name: str, error: EngineError) -> None:
        """Remove the container of an earlier claim of the same attempt, which that never let go.

        Raises EngineError: it is none of ours.
        """
        found = await self._engine.call("looking", partial(containers.look, self._engine, name))
        if found is not None and container.RUN_ID not in (found["Config"].get("Labels") or {}):
            raise error
        if found is not None:  # by its id: a silent engine may do it when another has that name
            await self._engine.call("removing", partial(containers.remove, self._engine, found["Id"]))

    # What goes into it

    async def _begin(self, spec: LaunchSpec, made: str, image: str) -> None:
        """Start the container, and give it its luggage and its orders; what it may not take by itself is copied."""
        goods = None
        if image not in self._copied and not spec.container.get("user"):
            goods = await anyio.to_thread.run_sync(luggage.said, self._archive, Path(spec.folder))
        if goods is not None:
            answer = await self._start(spec, made, goods)
            if "denied" not in answer:
                _check(answer, image)
                return
            self._copied.add(image)  # its user may not write there

        def copy() -> None:
            pieces = luggage.packed(self._archive, Path(spec.folder))
            containers.copy_into(self._engine, made, container.PLACE, pieces)

        await self._engine.call("copying into the container", copy, seconds=COPY_WITHIN, lane=self._engine.copies)
        _check(await self._start(spec, made, luggage.NOTHING), image)

    async def _start(self, spec: LaunchSpec, made: str, goods: bytes) -> dict[str, Any]:
        """What the keeper says first."""
        orders = container.orders(spec, spec.deadline - time.monotonic())
        data = goods + json.dumps({"orders": orders}).encode() + b"\n"
        said = await self._engine.call(
            "starting the container",
            lambda: containers.begin(self._engine, made, data, BEGIN_WITHIN),
            seconds=BEGIN_WITHIN * 2,
            lane=self._engine.starts,
        )
        try:
            return dict(json.loads(said))
        except (ValueError, TypeError):
            return {"failed": f"its first word was {said[:200].decode(errors='replace')!r}"}

    @asynccontextmanager
    async def _undone(self, made: str, ref: str) -> AsyncIterator[None]:
        """Remove the container if the block does not come to its end."""
        try:
            yield
        except BaseException:
            await self._remove(made, ref)
            raise

    async def _remove(self, made: str, ref: str) -> None:
        """Remove the container ``made`` of ``ref``, or remember that it is left."""
        self.unsure.add(ref)
        with anyio.move_on_after(UNDO_WITHIN, shield=True), contextlib.suppress(EngineError):
            await self._engine.call("removing", partial(containers.remove, self._engine, made))
            self.unsure.discard(ref)

    async def _remove_unseen(self, ref: str) -> None:
        """Remove what there is of ``ref``; more of it may come, as the engine may not have begun yet."""
        self.unsure.add(ref)
        with anyio.move_on_after(UNDO_WITHIN, shield=True), contextlib.suppress(EngineError):
            labels = {**self._owner.labels, REF: ref}
            for each in await self._engine.call("listing", partial(containers.listed, self._engine, labels)):
                await self._engine.call("removing", partial(containers.remove, self._engine, each["Id"]))


def _check(answer: Mapping[str, Any], image: str) -> None:
    """See that the attempt is parked.

    Raises LaunchError: it is not, and why.
    """
    if "hello" in answer:
        return
    if "old" in answer:
        raise LaunchError(
            f"the image {image} has Python {answer['old']}, expected 3.11 or newer",
            hint="use a newer image, such as python:3.12-slim",
        )
    why = answer.get("failed") or answer.get("denied") or "it said something else than that it has"
    raise LaunchError(f"the attempt could not be started in a container of the image {image}: {why}")


def _image_of(spec: LaunchSpec) -> str:
    """The official image of the Python that the flow's pickle needs, or that the agent has."""
    return f"python:{spec.python or f'{sys.version_info[0]}.{sys.version_info[1]}'}-slim"


@contextlib.contextmanager
def _in_our_words() -> Iterator[None]:
    """Errors of the engine as those of a launch."""
    try:
        yield
    except EngineError as error:
        raise LaunchError(str(error), transient=containers.can_pass(error), hint=error.hint) from error
