"""What the chaos test does to its machines, and what it takes for a fault of theirs."""

from __future__ import annotations

import random
import sys
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "bench"))

import chaos_world


def test_each_kind_is_done_once_before_any_is_done_again_also_one_that_cannot_be_done_at_first(monkeypatch):
    world = object.__new__(chaos_world.World)
    world.remember(random.Random(1))
    refused = iter([False])
    for name in ("_on_agent", "_freeze", "_kill", "_kill_database", "_kill_server", "_on_proxy", "_keepers"):
        monkeypatch.setattr(world, name, lambda *_, **__: True, raising=False)
    monkeypatch.setattr(world, "_freeze_database", lambda: next(refused, True))
    world.agents, world.server, world.proxies = [], None, []
    monkeypatch.setattr(world, "_chance", _First())
    for _ in range(len(chaos_world.KINDS) + 1):
        world.strike()
    assert world.done == Counter(dict.fromkeys(chaos_world.KINDS, 1))


class _First(random.Random):
    """Chooses nobody, where there is nobody."""

    def choice(self, among):
        return among[0] if among else None


def test_a_machine_that_ends_by_itself_is_a_fault_and_begins_again_and_one_that_chaos_ends_is_none(
    monkeypatch, tmp_path
):
    monkeypatch.setattr(chaos_world, "COMMAND", sys.executable)
    once = f"import os, time; os.path.exists({str(tmp_path / 'told')!r}) and os._exit(3); time.sleep(60)"
    machine = chaos_world.Machine(tmp_path, "direct", "sqlite:none", "-c", once)
    try:
        machine.kill()
        machine.drain()
        assert machine.revived() is None
        (tmp_path / "told").touch()
        machine.kill()
        machine.process.wait(30)
        (tmp_path / "told").unlink()
        assert machine.revived() == "direct ended by itself with 3"
        assert machine.revived() is None
    finally:
        machine.process.kill()
        machine.process.wait()
