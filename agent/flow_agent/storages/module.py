"""Flows in installed packages."""
# ruff: noqa: PLC0415 - see storages.base; a flow file imports this module in the attempt too

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flow_agent.storages.base import Storage, Stored

if TYPE_CHECKING:
    from flow_agent.flow import Described, Flow
    from flow_agent.model import Json, Registration
    from flow_agent.ports import Fetched, SecretResolver

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*(:[^\W\d]\w*(\.[^\W\d]\w*)*)?")


class Module(Storage):
    """The flow lies in a module that is installed where it runs: ``package.module``, or ``package.module:attribute``.

    The module's flow of the registered name is taken; an attribute may be that flow, or a function without parameters
    that makes it. It runs in the interpreter that registered it, where that is on the agent's machine, else in the
    agent's own. The other arguments are those of ``Storage``.

    Raises TypeError, ValueError: that is no name of a module.
    """

    of_interpreter = True

    def __init__(
        self,
        module: str,
        *,
        stored_as_script: bool = True,
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
            stored_as_script=stored_as_script,
        )
        if not isinstance(module, str):
            raise TypeError(f"Module: module is {module!r}, expected the name of one as text")
        if not _NAME.fullmatch(module):
            raise ValueError(f"Module: module is {module!r}, expected 'package.module' or 'package.module:attribute'")
        self.module = module

    def options(self) -> dict[str, Json]:
        """See :meth:`Storage.options`."""
        return {"module": self.module}

    def store(self, flows: Sequence[Flow]) -> dict[str, Stored]:
        """See :meth:`Storage.store`: nothing is stored; the module must be there."""
        import sys
        from importlib.util import find_spec

        from flow_agent.errors import RegistrationError

        name = self.module.partition(":")[0]
        try:
            there = name in sys.modules or find_spec(name) is not None
        except (ImportError, ValueError):
            there = False
        if not there:
            raise RegistrationError(
                f"{self!r}: there is no module {name} in {sys.executable}",
                hint="install the package into the environment that registers it",
            )
        location: dict[str, Json] = {"module": self.module, "host": socket.gethostname()}
        return {flow.name: Stored(kind="module", location={**location, "source": flow.file}) for flow in flows}

    async def fetch(
        self,
        registration: Registration,
        into: Path,  # noqa: ARG002 - the port's signature; there is nothing to fetch
        secrets: SecretResolver,  # noqa: ARG002 - as above
        known: str | None = None,  # noqa: ARG002 - as above
    ) -> Fetched:
        """See :meth:`flow_agent.ports.Storage.fetch`: what is there is found when the attempt imports it."""
        from flow_agent.ports import Fetched
        from flow_agent.storages.payload import digest_of_text

        module, _, attribute = self.module.partition(":")
        return Fetched(
            payload={"kind": "module", "module": module, "attribute": attribute or None, "flow": registration.flow},
            revision=self.module,
            digest=digest_of_text(self.module),
        )
