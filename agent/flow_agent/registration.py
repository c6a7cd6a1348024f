"""Makes registrations of flows, and checks parameters against them."""

from __future__ import annotations

import difflib
import inspect
import json
import sys
from collections.abc import Iterable, Mapping, Sequence

from flow_agent.asked import PARAMETER_BYTES, check_size
from flow_agent.errors import ParametersInvalid, RegistrationError
from flow_agent.flow import Flow
from flow_agent.labels import checked
from flow_agent.model import Json, Parameter, Registration
from flow_agent.storages.base import Storage, Stored

"""The most that a run's parameters may take as JSON."""


__all__ = ["PARAMETER_BYTES", "build_registrations", "check_parameters", "described", "discard", "parameters_of"]

_PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


def build_registrations(flows: Iterable[Flow], *, labels: Iterable[str] = ()) -> list[Registration]:
    """Store ``flows`` and describe each; ``labels`` are added to those that a flow has anyway. Blocks.

    ``version`` and ``created_at`` are left to the queue.

    Raises RegistrationError: two flows have one name, or a flow cannot be stored. InvalidInput: a label is none. What
    was stored of the others by then is removed.
    """
    wanted = list(flows)
    added = checked(labels)
    _refuse_equal_names(wanted)
    stored: dict[str, Stored] = {}
    try:
        for storage, its_flows in _by_storage(wanted):
            stored |= storage.store(its_flows)
        return [described(flow, stored[flow.name], added) for flow in wanted]
    except BaseException:
        for flow in wanted:
            if flow.name in stored:
                flow.storage.discard(stored[flow.name])
        raise


def discard(registration: Registration, storage: Storage) -> None:
    """Remove what was stored for a registration that the queue has never seen, if its storage can. Blocks."""
    storage.discard(Stored(kind=registration.kind, location=registration.location, digest=registration.digest))


def _refuse_equal_names(flows: Sequence[Flow]) -> None:
    seen: dict[str, Flow] = {}
    for flow in flows:
        if (other := seen.setdefault(flow.name, flow)) is not flow:
            raise RegistrationError(
                f"two flows are named {flow.name!r}: {_called(other)} and {_called(flow)}",
                hint="give one of them another name",
            )


def _called(flow: Flow) -> str:
    return f"{getattr(flow.function, '__name__', 'one without a function')} ({flow.file or 'not in a file'})"


def _by_storage(flows: Sequence[Flow]) -> list[tuple[Storage, list[Flow]]]:
    found: dict[int, tuple[Storage, list[Flow]]] = {}
    for flow in flows:
        found.setdefault(id(flow.storage), (flow.storage, []))[1].append(flow)
    return list(found.values())


def described(flow: Flow, stored: Stored, added: frozenset[str]) -> Registration:
    """The registration of ``flow``, which lies where ``stored`` says; ``added`` are further labels.

    Raises InvalidInput: a label is none.
    """
    storage: Storage = flow.storage
    run_config, result = flow.run_config, flow.result or storage.result
    labels = {*flow.labels, *getattr(run_config, "labels", ()), *storage.labels, *added}
    return Registration(
        flow=flow.name,
        kind=stored.kind,
        storage=storage.describe(),
        location=stored.location,
        digest=stored.digest,
        size=stored.size,
        # A pickle in an image is one too.
        python=f"{sys.version_info[0]}.{sys.version_info[1]}"
        if stored.kind == "pickle" or stored.cloudpickle
        else None,
        cloudpickle=stored.cloudpickle,
        # Elsewhere there is no such program.
        interpreter=sys.executable or None if storage.same_machine or storage.of_interpreter else None,
        labels=tuple(sorted(checked(labels))),
        launcher=getattr(run_config, "launcher", None) or storage.launcher,
        run_config=run_config.describe() if run_config is not None else {},
        result=result.describe() if result is not None else None,
        parameters=parameters_of(flow),
        pinned=stored.digest is not None,
        secrets=flow.declared_secrets,
        retries=flow.retries,
        retry_delay=flow.retry_delay,
        timeout=flow.timeout,
    )


def parameters_of(flow: Flow) -> tuple[Parameter, ...]:
    """The parameters of the flow's function, in their order; none for a flow without a function."""
    if flow.function is None:
        return ()
    found = []
    for parameter in inspect.signature(flow.function).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            continue  # a run gives parameters by name only
        required = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        found.append(
            Parameter(
                name=parameter.name,
                kind="any" if parameter.kind is parameter.VAR_KEYWORD else "named",
                required=required,
                default=None if parameter.default is parameter.empty else _default(parameter.default),
                annotation=_annotation(parameter.annotation),
            )
        )
    return tuple(found)


def _default(value: object) -> Json:
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return repr(value)[:200]


def _annotation(annotation: object) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def check_parameters(registration: Registration, parameters: Mapping[str, Json]) -> None:
    """Whether a run may have ``parameters``.

    Raises ParametersInvalid: they do not fit the signature as it was registered. Where ``registration.pinned`` is
    off, the flow may have changed since, and this is only a warning. InvalidInput: they are no JSON, or more than
    PARAMETER_BYTES of it, which no run can have.
    """
    check_size(registration.flow, parameters)
    known = {parameter.name for parameter in registration.parameters if parameter.kind == "named"}
    required = [parameter.name for parameter in registration.parameters if parameter.required]
    anything = any(parameter.kind == "any" for parameter in registration.parameters)
    unknown = [] if anything else sorted(parameters.keys() - known)
    missing = [name for name in required if name not in parameters]
    what = f"flow {registration.flow!r}"
    takes = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        raise ParametersInvalid(
            f"{what} has no parameter {_listed(unknown)}; {takes}", hint=f"did you mean {near[0]!r}?" if near else None
        )
    if missing:
        raise ParametersInvalid(f"{what} needs the parameter {_listed(missing)}, which was not given; {takes}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
