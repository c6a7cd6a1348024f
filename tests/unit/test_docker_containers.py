"""What an agent lets a container have, how one is made and undone, and what its end means."""

from __future__ import annotations

from typing import Any

import pytest

from flow_agent.errors import LaunchError
from flow_agent.launchers.container import refuse
from flow_agent.model import LaunchSpec


def spec(**container: Any) -> LaunchSpec:
    return LaunchSpec(
        run_id="run1",
        flow="f",
        claim=1,
        attempt=1,
        folder="/x/run1-1",
        payload={"kind": "pickle", "path": "payload/flow.pickle"},
        parameters={},
        deadline=0.0,
        grace=1.0,
        container=container,
    )


# What is allowed


@pytest.mark.parametrize("entry", ["volumes:/srv/share", "volumes:/srv/share/", "volumes://srv/share"])
def test_a_folder_that_is_allowed_is_allowed_alone(entry: str) -> None:
    for source in ("/srv/share", "/srv/share/", "//srv/./share"):
        refuse(spec(volumes=[f"{source}:/data"]), [entry])
    # A run that has written to the folder may have made `root` a link to the root of the machine.
    for source in ("/srv/share/root", "/srv/share/root/etc", "/srv/shared", "/srv", "/"):
        with pytest.raises(LaunchError, match="which reaches into the machine"):
            refuse(spec(volumes=[f"{source}:/data"]), [entry])


def test_the_root_folder_allows_nothing_below_it() -> None:
    with pytest.raises(LaunchError):
        refuse(spec(volumes=["/etc:/data"]), ["volumes:/"])
