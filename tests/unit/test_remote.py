"""What an attempt that prepares itself elsewhere is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flow_agent import plugins
from flow_agent.errors import LaunchError
from flow_agent.launchers.kubernetes_job import Wishes, job
from flow_agent.model import Claim, Registration, Run, State
from flow_agent.prepare import Means, remote_spec
from flow_agent.resolver import Resolver
from flow_agent.run_configs import KubernetesRun, Secret

pytestmark = pytest.mark.anyio


class Table:
    where = "the test"

    def __init__(self, **values: str) -> None:
        self._values = values

    async def get(self, name: str) -> str | None:
        return self._values.get(name)


def claim(storage: dict[str, Any], run_config: KubernetesRun, **changes: Any) -> Claim:
    given: dict[str, Any] = {"kind": "script", "location": {}, "secrets": run_config.secrets, **changes}
    registration = Registration(flow="f", storage=storage, run_config=run_config.describe(), **given)
    run = Run(id="01abc", flow="f", version=1, state=State.CLAIMED, launcher="kubernetes", parameters={"a": 1})
    return Claim(run=run, registration=registration, number=1, attempt=1, lease=30)


def means(**secrets: str) -> Means:
    return Means(
        storage=lambda r: plugins.load("storages", r.storage["type"]).from_description(r.storage),
        secrets=Resolver((Table(**secrets),)),
        env={"EVERY": "run"},
        environment={"AGENTS": "own"},
    )


async def silent(level: str, text: str) -> None:
    assert level == "WARNING"


async def test_declared_secrets_are_handed_over_and_the_agents_environment_is_not():
    run = KubernetesRun(env={"PASSWORD": Secret("DB"), "PLAIN": "p"}, image="mine:1")
    spec, revision = await remote_spec(
        claim({"type": "S3", "bucket": "b"}, run), deadline=0, means=means(DB="planted", OTHER="not"), tell=silent
    )
    assert (spec.secrets, spec.redacted, revision) == ({"DB": "planted"}, ("planted",), None)
    assert spec.env == {"EVERY": "run"}
    assert spec.image == "mine:1"
    assert spec.registration is not None
    assert "planted" not in str(job(spec, Wishes(), namespace="n", nonce="x"))


async def test_what_lies_on_another_machine_is_refused():
    with pytest.raises(LaunchError, match="Local storage, on the machine that registered it"):
        await remote_spec(claim({"type": "Local"}, KubernetesRun()), deadline=0, means=means(), tell=silent)


async def test_the_image_that_a_flow_lies_in_is_taken_and_its_registrys_secret_stays_with_the_agent(tmp_path: Path):
    storage = {"type": "Docker", "registry_secret": "REG", "secrets": ["REG"]}
    location = {
        "image": "reg/f@sha256:1",
        "name": "reg/f:1",
        "pushed": True,
        "host": "h",
        "digest": "sha256:1",
        "inside": {"kind": "pickle", "path": "/flows/f"},
    }
    found = claim(
        storage, KubernetesRun(image="other:1"), location=location, digest="1", kind="image", secrets=("REG",)
    )
    spec, revision = await remote_spec(found, deadline=0, means=means(REG="creds"), tell=silent)
    assert (spec.image, revision) == ("reg/f@sha256:1", "reg/f@sha256:1")
    assert (spec.registry, spec.secrets) == ({"REG": "creds"}, {})
    assert spec.registration is not None
    assert spec.registration.secrets == ()
