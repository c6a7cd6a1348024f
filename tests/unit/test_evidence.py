"""Why an attempt was killed is told from what the kernel counts, and only as far as it counts."""

from __future__ import annotations

import os
import signal

import pytest

from flow_agent.launchers import cgroup, evidence
from flow_agent.launchers.evidence import Evidence

NO_LIMITS = {"memory_limit": None, "cpu_time_limit": None, "nice": None}

OLDER = "30 24 0:26 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n"
OTHERS = "29 24 0:25 / /sys/fs/cgroup/cpu rw,relatime shared:8 - cgroup cgroup rw,cpu,cpuacct\n"
BESIDE = "31 24 0:27 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n"
NEWER = "32 24 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"


@pytest.mark.parametrize(
    ("own", "mounts", "folder"),
    [
        ("0::/\n", NEWER, "/sys/fs/cgroup"),
        ("0::/user.slice/a:b\n", NEWER, "/sys/fs/cgroup/user.slice/a:b"),
        ("9:name=systemd:/x\n5:memory:/one/two\n0::/x\n", OTHERS + OLDER + BESIDE, "/sys/fs/cgroup/memory/one/two"),
        ("5:cpu,memory:/\n", OTHERS + OLDER, "/sys/fs/cgroup/memory"),
        ("5:memory:/docker/abc\n", OLDER.replace(" / ", " /docker/abc "), "/sys/fs/cgroup/memory"),
        ("5:memory:/docker/abc/d\n", OLDER.replace(" / ", " /docker/abc "), "/sys/fs/cgroup/memory/d"),
        ("5:memory:/docker/abcd\n", OLDER.replace(" / ", " /docker/abc "), None),
        ("0::/../other\n", NEWER.replace(" / ", " /here "), None),
        ("5:memory:/\n", OTHERS, None),
        ("", NEWER, None),
    ],
)
def test_our_memory_cgroup_is_found_where_it_is_mounted(own: str, mounts: str, folder: str | None) -> None:
    assert cgroup.memory_folder(own, mounts) == folder


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the kernel counts from now on: the last of these."""
    counts = [7]
    monkeypatch.setattr(cgroup, "oom_kills", lambda: counts[-1])
    monkeypatch.setattr(evidence, "COUNT_EVERY", 0.0)
    return counts


def killed(evidence: Evidence, number: int = signal.SIGKILL) -> str | None:
    evidence.ended(os.getpid(), number)
    return evidence.memory


def test_what_was_killed_when_the_kernel_killed_something_ran_out_of_memory(counts: list[int]) -> None:
    seen = Evidence(NO_LIMITS)
    counts.append(8)
    assert "because memory ran out" in str(killed(seen))


def test_what_takes_a_while_to_die_may_have_been_counted_before(counts: list[int]) -> None:
    seen = Evidence(NO_LIMITS)
    counts.append(8)
    seen.lives()
    assert "because memory ran out" in str(killed(seen))


def test_what_outlived_a_kill_of_the_kernel_for_long_was_killed_by_somebody_else(counts: list[int]) -> None:
    seen = Evidence(NO_LIMITS)
    counts.append(8)
    seen.lives()
    seen.lives()
    assert killed(seen) is None
    assert "of its memory cgroup" in str(seen.hint()) or "of this machine" in str(seen.hint())


def test_another_signal_is_not_the_kernels_for_want_of_memory(counts: list[int]) -> None:
    seen = Evidence(NO_LIMITS)
    counts.append(8)
    assert killed(seen, signal.SIGTERM) is None


def test_nothing_is_hinted_at_where_nothing_was_killed(counts: list[int]) -> None:
    seen = Evidence(NO_LIMITS)
    assert counts == [7]
    assert killed(seen) is None
    assert seen.hint() is None
