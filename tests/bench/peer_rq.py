"""Driver for RQ: ``peer_rq.py WORKERS``, run by the environment of the peers.

A Redis of its own on a socket in a folder of its own, which keeps nothing on the disk; workers as RQ's documentation
advises them for speed: the module with the jobs is imported before they fork.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import peer_rq_jobs
from figures import rate
from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, Worker
from rq.job import Job, JobStatus
from serving import PYTHON, serve, wait_until

SERVER = str(Path(sys.executable).with_name("redis-server"))


class Rq:
    """A queue with idle workers behind it."""

    def __init__(self, redis: Redis) -> None:
        self._redis, self._queue = redis, Queue(connection=redis)
        self.version = f"RQ {version('rq')}, Redis {redis.info('server')['redis_version']}, {PYTHON}"

    def first_line(self) -> tuple[float, float]:
        called = peer_rq_jobs.first_line()
        job = self._queue.enqueue(peer_rq_jobs.first_line)
        result = job.latest_result(timeout=30)
        if result is None or result.type != result.Type.SUCCESSFUL:
            raise RuntimeError(f"the job ended as {result and result.type}")
        return result.return_value - _seconds(job.created_at), result.return_value - called

    def rate(self, jobs: int) -> float:
        # One transaction: they are all there at once.
        given = self._queue.enqueue_many([Queue.prepare_data(peer_rq_jobs.nothing) for _ in range(jobs)])
        registry = self._queue.finished_job_registry
        last = {job.id for job in given}
        wait_until(lambda: last <= set(registry.get_job_ids()) or self._queue.failed_job_registry.count, 120, 0.1)
        ended = [job for job in Job.fetch_many(list(last), connection=self._redis) if job is not None]
        well = [job for job in ended if job.get_status(refresh=False) == JobStatus.FINISHED]
        if len(well) != jobs:
            raise RuntimeError(f"{len(well)} of {jobs} jobs ended well")
        return rate([_seconds(job.started_at) for job in well], [_seconds(job.ended_at) for job in well])


def _seconds(moment: datetime | None) -> float:
    assert moment is not None
    return moment.timestamp()


@contextmanager
def opened(workers: int) -> Iterator[Rq]:
    with tempfile.TemporaryDirectory(prefix="flow-agent-bench-") as folder, ExitStack() as stack:
        socket = f"{folder}/redis.sock"
        options = ["--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no", "--dir", folder]
        stack.enter_context(_program(SERVER, *options))
        redis = stack.enter_context(Redis(unix_socket_path=socket))
        wait_until(lambda: _answers(redis), 20)
        for _ in range(workers):
            stack.enter_context(_program(sys.executable, __file__, "work", socket))
        wait_until(lambda: len([w for w in Worker.all(connection=redis) if w.get_state() == "idle"]) == workers, 20)
        yield Rq(redis)


def _answers(redis: Redis) -> bool:
    try:
        return bool(redis.ping())
    except RedisError:
        return False


@contextmanager
def _program(*command: str) -> Iterator[None]:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def work(socket: str) -> None:
    """One worker: forks for each job, and ends with SIGTERM."""
    with Redis(unix_socket_path=socket) as redis:
        Worker([Queue(connection=redis)], connection=redis).work(logging_level="WARNING")


if __name__ == "__main__":
    if sys.argv[1] == "work":
        work(sys.argv[2])
    else:
        serve(opened(int(sys.argv[1])))
