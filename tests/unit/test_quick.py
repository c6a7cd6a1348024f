"""Which work on files is done in the event loop, and which in a thread."""

import threading
import time

import pytest

from flow_agent import quick, workspace
from flow_agent.quick import Quick

pytestmark = pytest.mark.anyio


def where(check):
    check()
    return threading.current_thread()


async def test_what_was_quick_in_a_thread_needs_none_the_next_time():
    work = Quick()
    threads = [await work.run("copy", where, lambda: True) for _ in range(3)]
    assert [thread is threading.current_thread() for thread in threads] == [False, True, True]
    assert await work.run("other", where, lambda: True) is not threading.current_thread()


async def test_what_is_not_safe_stays_in_a_thread():
    work = Quick()
    for _ in range(2):
        assert await work.run("copy", where, lambda: False) is not threading.current_thread()


async def test_what_became_slow_goes_back_into_a_thread(monkeypatch):
    def slow(check):
        time.sleep(0.02)
        return where(check)

    work = Quick()
    await work.run("copy", where, lambda: True)
    monkeypatch.setattr(quick, "LONGEST", 0.01)
    assert await work.run("copy", slow, lambda: True) is threading.current_thread()
    for _ in range(2):
        assert await work.run("copy", slow, lambda: True) is not threading.current_thread()


async def test_what_fails_is_not_taken_for_quick():
    def fails(check):
        raise PermissionError

    work = Quick()
    with pytest.raises(PermissionError):
        await work.run("copy", fails, lambda: True)
    assert await work.run("copy", where, lambda: True) is not threading.current_thread()


def test_a_small_spool_is_removed_at_once_and_any_other_is_left_whole_or_in_part_for_the_thread(tmp_path, monkeypatch):
    small, large, deep, outside = (workspace.make_spool(tmp_path, name, 1) for name in ("s", "l", "d", "o"))
    (small / "output").write_text("hello")
    (small / "link").symlink_to(outside)
    (large / "output").write_bytes(b"x" * 100)
    (deep / "work" / "file").touch()
    assert workspace.remove_if_small(small)
    assert workspace.remove_if_small(small)
    assert (outside / "work").is_dir()
    monkeypatch.setattr(workspace, "MOST_BYTES", 99)
    assert not workspace.remove_if_small(large)
    assert (large / "output").is_file()
    assert not workspace.remove_if_small(deep)
    workspace.remove(deep)
    assert not small.exists()
    assert not deep.exists()
