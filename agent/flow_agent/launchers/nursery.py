"""Where attempts wait, parked, before anybody knows for which run: one pool for each environment.

A pool is fed by a zygote. Where that cannot be (another system, an interpreter that will not, threads after
preloading), its keepers and attempts are programs of their own, started ahead of time as well.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import anyio

from flow_agent import events
from flow_agent.archive import runner_archive
from flow_agent.errors import LaunchError
from flow_agent.launchers.attempt import PASSES
from flow_agent.launchers.environments import KEEP, Environment, environment
from flow_agent.launchers.parked import WAIT, Parked
from flow_agent.launchers.pool import Pool
from flow_agent.launchers.warm import KILLED, NoZygote, Zygote

TEND_EVERY = 5.0
"""Seconds between two looks at what is not needed any more."""
MOST = 8
"""Environments that are kept ready at one time; the one that was used longest ago leaves first."""
TRIES = 3
"""Keepers that are tried for one attempt, should one after the other be killed."""
LOG = "zygote.log"


@dataclass(frozen=True, kw_only=True)
class Care:
    """How attempts are got ready.

    ``start`` is ``fork`` or ``fresh``, ``ahead`` the number that waits in an environment in use, ``idle`` the seconds
    after which one that is not used is given up, ``preload`` what zygotes import, ``env`` what every attempt finds in
    its environment, by which the first one is expected.
    """

    start: str = "fork"
    ahead: int = 2
    idle: float = 300.0
    preload: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)


class Nursery:
    """All pools of one launcher, whose folder is ``root``; ``archives`` is where runners for others are kept."""

    def __init__(self, root: Path, archives: Path, care: Care) -> None:
        self._log, self._archives, self._care = root / LOG, archives, care
        self._usual = environment(None, care.env)
        self._pools: dict[Environment, Pool] = {}
        self._leaving: list[subprocess.Popen[bytes]] = []

    async def take(self, wanted: Environment, kind: str) -> Parked:
        """A parked attempt of that environment; ``kind`` is what it gets ready for where it is started only now.

        Raises LaunchError.
        """
        pool = self._pool(wanted)
        try:
            return await self._take(pool, kind)
        finally:
            self._tidy(pool)

    async def _take(self, pool: Pool, kind: str) -> Parked:
        for tries in range(1, TRIES + 1):
            parked = pool.ready() or await self._new(pool, kind)
            try:
                await parked.ready()
            except LaunchError as error:
                self.close(parked)
                if not error.transient or tries == TRIES:
                    raise
            except BaseException:
                self.close(parked)
                raise
            else:
                if not pool.waiting:  # the next one should not have to wait; others come back when they have ended
                    await self._fill(pool, 1)
                return parked
        raise AssertionError  # the last try raised

    async def give_back(self, used: Environment, parked: Parked, *, again: bool) -> None:
        """A keeper whose attempt has ended; ``again``: it parks another one now."""
        pool = self._pools.get(used)
        if pool is None or not again:
            self.close(parked)
        else:
            pool.waiting.append(parked)
        if pool is not None:
            await self._fill(pool, self._care.ahead)

    def close(self, parked: Parked) -> None:
        """Let a keeper go."""
        if (process := parked.close()) is not None:
            self._leaving.append(process)

    async def tend(self) -> None:
        """Get ready what will be needed, and give up what is not needed any more, until cancelled."""
        await self._fill(self._pool(self._usual), self._care.ahead)
        while True:
            await anyio.sleep(TEND_EVERY)
            self._leaving = [process for process in self._leaving if process.poll() is None]
            now = anyio.current_time()
            for pool in list(self._pools.values()):
                if now - pool.used > self._care.idle and pool.environment != self._usual:
                    self._drop(pool)
                    continue
                async with pool.starting:
                    with contextlib.suppress(OSError):  # no room, no descriptor left: as below
                        await self._warm_up(pool)
                self._tidy(pool)
                if now - pool.used > 2 * TEND_EVERY:
                    while len(pool.waiting) > self._care.ahead:
                        self.close(pool.waiting.pop())
                    await self._fill(pool, self._care.ahead)

    def leave(self, parked: Parked) -> None:
        """Leave a keeper that keeps an attempt to a successor."""
        if (process := parked.close()) is not None and process.poll() is None:
            process.returncode = 0  # or Popen would complain, when it is collected, that it was not waited for

    def let_go(self) -> None:
        """End all that waits."""
        pools = list(self._pools.values())
        for parked in [parked for pool in pools for parked in pool.waiting]:
            parked.farewell()
        for pool in pools:
            self._drop(pool)
        with contextlib.suppress(OSError):
            if not self._log.stat().st_size:
                self._log.unlink()
        for process in self._leaving:
            process.wait()  # it has nothing to do but to see that we are gone
        self._leaving.clear()

    def _pool(self, wanted: Environment) -> Pool:
        if (pool := self._pools.get(wanted)) is None:
            unused = [pool for pool in self._pools.values() if pool.environment != self._usual]
            if len(unused) >= MOST:
                self._drop(min(unused, key=lambda pool: pool.used))
            pool = self._pools[wanted] = Pool(wanted)
        pool.used = anyio.current_time()
        return pool

    def _drop(self, pool: Pool) -> None:
        if self._pools.get(pool.environment) is pool:
            del self._pools[pool.environment]
        self._tidy(pool)

    def _tidy(self, pool: Pool) -> None:
        """See that nothing waits in a pool that was dropped, maybe while it was being filled."""
        if self._pools.get(pool.environment) is pool:
            return
        while pool.waiting:
            self.close(pool.waiting.pop())
        if pool.zygote is not None:
            pool.zygote.end()
            pool.zygote = None

    async def _fill(self, pool: Pool, number: int) -> None:
        # Where it cannot be done now, whoever needs one will meet the same, and tell it.
        with contextlib.suppress(LaunchError, OSError):
            while len(pool.waiting) < number and self._pools.get(pool.environment) is pool:
                pool.waiting.append(await self._new(pool, "pickle"))
        self._tidy(pool)

    async def _new(self, pool: Pool, kind: str) -> Parked:
        async with pool.starting:
            for _ in range(TRIES):
                await self._warm_up(pool)
                if pool.zygote is None:
                    break
                try:
                    return pool.zygote.fork()
                except OSError:  # somebody killed it
                    pool.zygote.end()
                    pool.zygote = None
            await self._check(pool)
        return self._start(pool.environment, kind)

    async def _warm_up(self, pool: Pool) -> None:
        """See that there is a zygote that can be used, where there can be one."""
        if pool.zygote is not None and (pool.zygote.worn or pool.zygote.dead):
            pool.zygote.end()
            pool.zygote = None
        if pool.zygote is None and not pool.cold and self._care.start == "fork":
            await self._warm(pool)

    async def _warm(self, pool: Pool) -> None:
        zygote = None
        try:
            zygote = Zygote(
                pool.environment.zygote(self._archive(pool.environment), self._care.preload),
                pool.environment.env,
                self._log,
            )
            problems = await zygote.ready()
        except NoZygote as error:
            if zygote is not None:
                zygote.end()
            pool.cold = not error.passes
            events.no_zygote(str(pool.environment), str(error))
        except BaseException:
            if zygote is not None:
                zygote.end()
            raise
        else:
            pool.zygote = zygote
            if problems:
                events.not_preloaded(str(pool.environment), problems)

    async def _check(self, pool: Pool) -> None:
        """See that an interpreter that is no zygote can run attempts: one that cannot would end in the middle of one.

        Raises LaunchError.
        """
        if pool.checked:
            return
        wanted = pool.environment
        command = wanted.runner(self._archive(wanted), "check")
        try:
            with anyio.fail_after(WAIT):
                done = await anyio.run_process(command, check=False, env=wanted.env, cwd=self._log.parent)
        except TimeoutError:
            raise LaunchError(f"the interpreter {wanted} was not ready after {WAIT:g} s", transient=True) from None
        except OSError as error:
            why = f"the attempt could not be started: {error.strerror}: {error.filename}"
            raise LaunchError(why, transient=error.errno in PASSES) from None
        if done.returncode:
            if self._pools.get(wanted) is pool:  # it may have been mended by the next run
                self._drop(pool)
            said = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
            raise LaunchError(
                f"the interpreter {wanted} cannot run attempts, it ended at its start ({done.returncode}):"
                f" {said[-1 if said[0].startswith('Traceback') else 0][:500]}",
                transient=done.returncode in KILLED,
                hint="name one of Python 3.11 or newer",
            )
        pool.checked = True

    def _archive(self, wanted: Environment) -> Path | None:
        return None if wanted.interpreter is None else self._runner

    @cached_property
    def _runner(self) -> Path:
        return runner_archive(self._archives)

    def _start(self, wanted: Environment, kind: str) -> Parked:
        """A keeper as a program, whose attempts are programs.

        Raises LaunchError.
        """
        ours, theirs = socket.socketpair()
        process = None
        try:
            program = {"argv": wanted.runner(self._archive(wanted), kind), "env": wanted.env}
            with theirs, self._log.open("ab") as said:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", KEEP],
                    env={},
                    stdin=theirs.fileno(),
                    stdout=said,
                    stderr=said,
                    cwd=self._log.parent,
                )
            ours.sendall(json.dumps(program).encode() + b"\n")
        except OSError as error:
            ours.close()
            if process is not None:  # somebody killed it at once
                self._leaving.append(process)
            raise LaunchError(f"the keeper of the attempt could not be started: {error}", transient=True) from error
        return Parked(ours, process)
