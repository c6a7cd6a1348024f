"""Small parts that touch the machine: names, plugins, secrets of the environment, folders, digests."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flow_agent import identity, plugins, workspace
from flow_agent.errors import AgentRunning, InvalidInput, VerificationError
from flow_agent.model import Reason, Registration
from flow_agent.ports import Fetched
from flow_agent.verify import verify


def test_a_name_is_held_by_one_live_agent(tmp_path: Path) -> None:
    with identity.held(tmp_path, "a") as lasting, identity.held(tmp_path, "b") as other:
        assert lasting != other
        with (
            pytest.raises(AgentRunning, match=rf"named 'a' already works in .* \(pid {os.getpid()}\)"),
            identity.held(tmp_path, "a"),
        ):
            pass


def test_a_successor_has_the_id_of_its_predecessor_also_after_a_kill(tmp_path: Path) -> None:
    script = (
        "import os, sys, signal, pathlib; from flow_agent import identity\n"
        "with identity.held(pathlib.Path(sys.argv[1]), 'a') as lasting:\n"
        "    print(lasting, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False)
    with identity.held(tmp_path, "a") as lasting:
        assert lasting == killed.stdout.strip()


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "x" * 101, "a\nb"])
def test_a_name_that_could_leave_the_home_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="is not a name"):
        identity.checked_name(name)


def test_an_unknown_plugin_lists_what_is_there() -> None:
    with pytest.raises(InvalidInput, match="no launcher is called 'rocket'; installed: docker, "):
        plugins.load("launchers", "rocket")


def test_the_installed_names_of_a_group_are_known() -> None:
    assert plugins.names("queues") == ["http", "https", "memory", "postgresql", "sqlite"]


def test_a_spool_is_private_and_removed_whatever_the_flow_did_to_it(tmp_path: Path) -> None:
    folder = workspace.make_spool(tmp_path / "spool", "r1", 1)
    assert folder.stat().st_mode & 0o777 == 0o700
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    locked = folder / "work" / "locked"
    locked.mkdir()
    (locked / "file").touch()
    (locked / "link").symlink_to(outside)
    locked.chmod(0o500)
    workspace.remove(folder)
    workspace.remove(folder)
    assert not folder.exists()
    assert (outside / "kept").exists()


def registration(digest: str | None, kind: str = "pickle") -> Registration:
    return Registration(flow="f", kind=kind, storage={"type": "Local"}, location={}, digest=digest)


def test_a_pickle_with_other_bytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "flow.pickle").write_bytes(b"payload")
    fetched = Fetched(payload={"kind": "pickle", "path": "flow.pickle"}, revision="whatever", digest="whatever")
    verify(registration(hashlib.sha256(b"payload").hexdigest()), fetched, tmp_path)
    with pytest.raises(VerificationError, match="it was not loaded") as caught:
        verify(registration(hashlib.sha256(b"other").hexdigest()), fetched, tmp_path)
    assert caught.value.reason is Reason.DIGEST_MISMATCH
    with pytest.raises(VerificationError, match="without a digest"):
        verify(registration(None), fetched, tmp_path)


def test_a_pinned_script_needs_its_revision_and_another_follows_its_source(tmp_path: Path) -> None:
    fetched = Fetched(payload={"kind": "script", "root": ".", "path": "f.py"}, revision="r", digest="abc")
    verify(registration("abc", "script"), fetched, tmp_path)
    verify(registration(None, "script"), fetched, tmp_path)
    with pytest.raises(VerificationError):
        verify(registration("def", "script"), fetched, tmp_path)
