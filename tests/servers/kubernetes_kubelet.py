"""The stand-in's node: runs the containers of pods as processes of this machine, and keeps what they write."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from servers.kubernetes_store import Object, Store, now

SCRIPTS = "flow-agent-test/script"
"""Label of pods that do not run, but look as the script of that name says; see ``kubernetes_scripts``."""


class Log:
    """What one container wrote: lines with the time at which they came."""

    def __init__(self) -> None:
        self.lines: list[tuple[float, bytes]] = []
        self.over = False
        self.changed = asyncio.Event()

    def add(self, line: bytes) -> None:
        self.lines.append((time.time(), line))
        self.tell()

    def end(self) -> None:
        self.over = True
        self.tell()

    def tell(self) -> None:
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()


class Kubelet:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.logs: dict[tuple[str, str], Log] = {}
        """By the pod's uid and the container's name."""
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._folders: dict[str, Path] = {}
        self._killed: set[str] = set()
        self._starting, self._over = 0, False
        self.tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def run(self, pod: Object) -> None:
        """The whole life of a pod that runs."""
        uid = pod["metadata"]["uid"]
        folder = self._folders[uid] = Path(tempfile.mkdtemp(prefix="pod-"))
        try:
            places = self._mount(pod, folder)
        except LookupError as missing:
            self.status(pod, phase="Pending", waiting=("CreateContainerConfigError", str(missing)))
            return
        for container in pod["spec"].get("initContainers", []):
            code, message = await self._container(pod, container, places, folder)
            if code or uid in self._killed:
                self.status(pod, phase="Failed", init={container["name"]: (code, "Error", message)})
                return
        (container, *_) = pod["spec"]["containers"]
        code, message = await self._container(pod, container, places, folder, tell=True)
        reason = "Completed" if code == 0 else "StartError" if code == 128 else "Error"
        self.status(pod, phase="Succeeded" if code == 0 else "Failed", terminated=(code, reason, message))

    def _mount(self, pod: Object, folder: Path) -> dict[str, str]:
        """The folders of this machine that the mount paths of the pod mean."""
        namespace = pod["metadata"]["namespace"]
        made = {}
        for volume in pod["spec"].get("volumes", []):
            place = made[volume["name"]] = folder / volume["name"]
            place.mkdir(mode=0o700)
            if "secret" in volume:
                name = volume["secret"]["secretName"]
                secret = self.store.objects.get(("secrets", namespace, name))
                if secret is None:
                    raise LookupError(f'secret "{name}" not found')
                for item in volume["secret"]["items"]:
                    data = base64.b64decode(secret["data"][item["key"]])
                    (place / item["path"]).write_bytes(data)
        containers = [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]
        mounts = [mount for each in containers for mount in each.get("volumeMounts", [])]
        return {mount["mountPath"]: str(made[mount["name"]]) for mount in mounts}

    async def _container(
        self, pod: Object, container: Object, places: dict[str, str], folder: Path, *, tell: bool = False
    ) -> tuple[int, str]:
        """Run one container to its end: its exit code and its termination message."""
        uid = pod["metadata"]["uid"]
        words = folder / f"{container['name']}.words"
        words.touch()
        # Longest first: one path may be the beginning of another.
        means = {**places, container.get("terminationMessagePath", "/dev/termination-log"): str(words)}

        def here(text: str) -> str:
            for path in sorted(means, key=len, reverse=True):
                text = text.replace(path, means[path]) if path != "/flow-agent" else text
            if text == "/flow-agent" or text.startswith("/flow-agent/"):
                text = means.get("/flow-agent", "") + text.removeprefix("/flow-agent")
            return text.replace('"/flow-agent/', f'"{means.get("/flow-agent", "")}/')

        argv = [here(each) for each in [*container.get("command", []), *container.get("args", [])]]
        env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "LANG": "C.UTF-8"}
        env |= {each["name"]: here(each.get("value", "")) for each in container.get("env", [])}
        log = self.logs[uid, container["name"]] = Log()
        if self._over:
            raise asyncio.CancelledError
        self._starting += 1
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=env,
                cwd=folder,
                start_new_session=True,
                limit=1 << 20,
            )
        except OSError as error:
            log.end()
            return 128, f"failed to create containerd task: exec: {argv[0]!r}: {error.strerror}"
        finally:
            self._starting -= 1
        self._processes[uid] = process
        if tell:
            self.status(pod, phase="Running", running=True)
        assert process.stdout is not None
        while line := await process.stdout.readline():
            log.add(line)
        code = await process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        del self._processes[uid]
        log.end()
        return (code if code >= 0 else 128 - code), words.read_text(errors="replace")[:4096]

    def status(
        self,
        pod: Object,
        *,
        phase: str,
        running: bool = False,
        waiting: tuple[str, str] | None = None,
        terminated: tuple[int, str, str] | None = None,
        init: dict[str, tuple[int, str, str]] | None = None,
        **status: Any,
    ) -> None:
        """Tell how the pod is now."""
        metadata = pod["metadata"]
        found = self.store.objects.get(("pods", metadata["namespace"], metadata["name"]))
        if found is None or found["metadata"]["uid"] != metadata["uid"]:
            return
        changed = copy.deepcopy(found)
        state: Object = {}
        if running:
            state = {"running": {"startedAt": now()}}
        elif waiting:
            state = {"waiting": {"reason": waiting[0], "message": waiting[1]}}
        elif terminated:
            state = {"terminated": _terminated(*terminated)}
        changed["status"] = {**(changed.get("status") or {}), "phase": phase, **status}
        if state:
            changed["status"]["containerStatuses"] = [{"name": "flow", "state": state, "ready": running}]
        if init:
            changed["status"]["initContainerStatuses"] = [
                {"name": name, "state": {"terminated": _terminated(*how)}} for name, how in init.items()
            ]
        self.store.save("pods", changed)

    def end(self, pod: Object, grace: float) -> None:
        """Ask a pod to end, kill it after ``grace`` seconds, then remove it."""
        self.spawn(self._end(pod, grace))

    async def _end(self, pod: Object, grace: float) -> None:
        uid = pod["metadata"]["uid"]
        self._killed.add(uid)
        process = self._processes.get(uid)
        if process is not None and grace > 0:
            self._signal(process, signal.SIGTERM, group=False)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), grace)
        if uid in self._processes and process is not None:
            self._signal(process, signal.SIGKILL, group=True)
        deadline = time.monotonic() + 5
        while uid in self._processes and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        metadata = pod["metadata"]
        found = self.store.objects.get(("pods", metadata["namespace"], metadata["name"]))
        if found is not None and found["metadata"]["uid"] == uid:
            self.store.remove("pods", found)
        for key in [key for key in self.logs if key[0] == uid]:
            self.logs.pop(key).end()
        if (folder := self._folders.pop(uid, None)) is not None:
            await _remove(folder)

    @staticmethod
    def _signal(process: asyncio.subprocess.Process, number: int, *, group: bool) -> None:
        with contextlib.suppress(ProcessLookupError):
            if group:
                for pid in [process.pid, *_below(process.pid)]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
            else:
                process.send_signal(number)

    async def close(self) -> None:
        self._over = True
        deadline = time.monotonic() + 5
        while (self._processes or self._starting) and time.monotonic() < deadline:
            for uid, process in self._processes.items():
                self._killed.add(uid)
                self._signal(process, signal.SIGKILL, group=True)
            await asyncio.sleep(0.02)
        for task in list(self.tasks):
            task.cancel()
        for folder in self._folders.values():
            await _remove(folder)


async def _remove(folder: Path) -> None:
    """Remove the folder of a pod; what was killed just now may still be about to write into it."""
    deadline = time.monotonic() + 5
    while folder.exists() and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
        await asyncio.sleep(0.02)


def _below(pid: int) -> list[int]:
    """The processes that ``pid`` has started, and theirs: the container ends as one."""
    found: list[int] = []
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has ended meanwhile
        return found
    for child in children:
        found += [int(child), *_below(int(child))]
    return found


def _terminated(code: int, reason: str, message: str) -> Object:
    return {"exitCode": code, "reason": reason, "message": message, "finishedAt": now(), "startedAt": now()}


def orders_of(store: Store, pod: Object) -> Object:
    """The orders that a pod is handed."""
    (volume,) = [each for each in pod["spec"]["volumes"] if "secret" in each]
    secret = store.objects["secrets", pod["metadata"]["namespace"], volume["secret"]["secretName"]]
    return dict(json.loads(base64.b64decode(secret["data"]["orders"])))
