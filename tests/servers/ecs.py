"""ECS for the tests: moto's server, and a stand-in before it that lets tasks really run and shows what moto cannot.

moto keeps clusters, task definitions, tasks and logs, and checks requests. The stand-in starts the program of a task as
a process of this machine, puts its output into moto's logs, tells how it goes on, and plays faults.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from command import COMMAND
from servers.process import free_port, installed, running

KEYS = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "test-secret-key-of-nobody"}
REGION, GROUP = "eu-west-1", "flows"


@dataclass
class Task:
    """One that was started: its process, and what ECS would say of it."""

    arn: str
    started_by: str
    answer: dict[str, Any]
    process: subprocess.Popen[bytes] | None = None
    status: str = "RUNNING"
    told: dict[str, Any] = field(default_factory=dict)
    container: dict[str, Any] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)

    def end(self, code: int | None, stop_code: str, stopped_reason: str, reason: str | None = None) -> None:
        self.status = "STOPPED"
        self.told.setdefault("stopCode", stop_code)
        self.told.setdefault("stoppedReason", stopped_reason)
        self.told["stoppedAt"] = time.time()
        self.container |= {"lastStatus": "STOPPED"} | ({} if code is None else {"exitCode": code})
        if reason is not None:
            self.container["reason"] = reason
        self.over.set()


@dataclass
class Ecs:
    """The stand-in. ``faults`` are played by the next requests of that action: an error (status, code, message),
    ``{"failures": [...]}``, or ``lost``: it is done, and the answer gets lost. ``script`` is what the next tasks do in
    place of their program. ``calls`` counts requests by action."""

    moto: str
    folder: Path
    port: int = 0
    faults: dict[str, list[Any]] = field(default_factory=dict)
    script: dict[str, Any] | None = None
    calls: dict[str, int] = field(default_factory=dict)
    signer: str = ""
    """The access key of the last request."""
    tasks: dict[str, Task] = field(default_factory=dict)
    tokens: dict[str, bytes] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        return {**KEYS, "AWS_DEFAULT_REGION": REGION, "AWS_EC2_METADATA_DISABLED": "true"}

    def ask(self, action: str, region: str = REGION, **body: Any) -> Any:
        """What moto answers in ``region``; ``action`` as in ``ecs.RunTask``."""
        service, _, name = action.partition(".")
        target = {"ecs": "AmazonEC2ContainerServiceV20141113", "logs": "Logs_20140328"}[service]
        sign = f"AWS4-HMAC-SHA256 Credential={KEYS['AWS_ACCESS_KEY_ID']}/20260101/{region}/{service}/aws4_request"
        request = urllib.request.Request(
            self.moto,
            json.dumps(body).encode(),
            {
                "X-Amz-Target": f"{target}.{name}",
                "Content-Type": "application/x-amz-json-1.1",
                "Authorization": f"{sign}, SignedHeaders=host, Signature=0",
            },
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"{}")

    def subnet(self) -> str:
        """One of the account."""
        sign = f"AWS4-HMAC-SHA256 Credential={KEYS['AWS_ACCESS_KEY_ID']}/20260101/{REGION}/ec2/aws4_request"
        headers = {"Authorization": f"{sign}, SignedHeaders=host, Signature=0"}
        request = urllib.request.Request(self.moto, b"Action=DescribeSubnets&Version=2016-11-15", headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            found = re.search(r"<subnetId>(subnet-\w+)</subnetId>", answer.read().decode())
        assert found is not None
        return found[1]

    def start(self, request: dict[str, Any], answer: dict[str, Any]) -> None:
        """Let the program of the task run."""
        arn = answer["taskArn"]
        definition = self.ask("ecs.DescribeTaskDefinition", taskDefinition=answer["taskDefinitionArn"])
        container = definition["taskDefinition"]["containerDefinitions"][0]
        task = Task(arn, request.get("startedBy", ""), answer, container={"name": container["name"]})
        task.told["startedAt"] = time.time()
        self.tasks[arn] = task
        script, home = self.script, self.folder / arn.rpartition("/")[2]
        if script is not None and "words" not in script:
            task.told |= script.get("told", {})
            if script.get("unstarted"):
                del task.told["startedAt"]
            if "status" in script:
                task.status = script["status"]
            else:
                task.end(
                    script.get("code"), "EssentialContainerExited", "Essential container exited", script.get("reason")
                )
            return
        override = request["overrides"]["containerOverrides"][0]
        env = {each["name"]: each["value"] for each in override.get("environment", ())}
        env |= {each["name"]: self.secrets[each["valueFrom"]] for each in container.get("secrets", ())}
        home.mkdir()
        if script is None:
            command = self._program(definition["taskDefinition"]["containerDefinitions"], override["command"], home)
        else:
            command = ["/bin/sh", "-c", script["words"]]
        task.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": os.environ["PATH"], "FLOW_AGENT_HOME": str(home), **self.env, **env},
            start_new_session=True,
        )
        threading.Thread(target=self._pump, args=(task, container), daemon=True).start()

    def _program(self, containers: list[dict[str, Any]], command: list[str], home: Path) -> list[str]:
        """What the first container runs, once what it depends on has done its work."""
        flow = containers[0]
        if flow.get("entryPoint", ["flow-agent"])[0] != "python3":
            return [COMMAND, *command]
        (mount,) = flow["mountPoints"]
        needed = [each["containerName"] for each in flow["dependsOn"]]
        (bringer,) = [each for each in containers if each["name"] in needed]
        assert bringer["entryPoint"] == ["flow-agent"]
        bring = [COMMAND, *bringer["command"]]
        plain = [f"{sys.base_prefix}/bin/python3", *flow["entryPoint"][1:], *command]  # it knows nothing of us
        words = f"{shlex.join(bring)} && exec {shlex.join(plain)}"
        return ["/bin/sh", "-c", words.replace(f"{mount['containerPath']}/", f"{home}/")]

    def _pump(self, task: Task, container: dict[str, Any]) -> None:
        options = (container.get("logConfiguration") or {}).get("options")
        stream, region = None, (options or {}).get("awslogs-region", REGION)
        if options is not None:
            stream = f"{options['awslogs-stream-prefix']}/{container['name']}/{task.arn.rpartition('/')[2]}"
            with contextlib.suppress(urllib.error.HTTPError):
                self.ask("logs.CreateLogGroup", region, logGroupName=options["awslogs-group"])
            self.ask("logs.CreateLogStream", region, logGroupName=options["awslogs-group"], logStreamName=stream)
        process = task.process
        assert process is not None
        assert process.stdout is not None
        for line in process.stdout:
            if stream is not None:
                text = line.decode(errors="replace").rstrip("\n") or " "
                # As the driver does: a long line comes in pieces.
                parts = [text[at : at + 16_384] for at in range(0, len(text), 16_384)]
                now = int(time.time() * 1000)
                events = [{"timestamp": now, "message": part} for part in parts]
                self.ask(
                    "logs.PutLogEvents",
                    region,
                    logGroupName=options["awslogs-group"],
                    logStreamName=stream,
                    logEvents=events,
                )
        code = process.wait()
        process.stdout.close()
        task.end(code if code >= 0 else 128 - code, "EssentialContainerExited", "Essential container in task exited")

    def stop(self, task: Task, reason: str, kill_after: float = 20.0) -> None:
        """As StopTask: SIGTERM, later SIGKILL."""
        task.told |= {"stopCode": "UserInitiated", "stoppedReason": reason}
        if task.process is None:
            task.end(None, "UserInitiated", reason)
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(task.process.pid, signal.SIGTERM)

        def kill() -> None:
            if not task.over.wait(kill_after):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(task.process.pid, signal.SIGKILL)  # type: ignore[union-attr]  # only tasks with a process are stopped

        threading.Thread(target=kill, daemon=True).start()

    def close(self) -> None:
        for task in self.tasks.values():
            if task.process is not None and task.process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(task.process.pid, signal.SIGKILL)
                task.over.wait(10)


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *arguments: Any) -> None:
        """Nothing is printed."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        ecs, action = self.server.ecs, (self.headers.get("X-Amz-Target") or "sts").rpartition(".")[2]
        with ecs.lock:
            ecs.calls[action] = ecs.calls.get(action, 0) + 1
            ecs.signer = self.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]
            waiting = ecs.faults.get(action)
            fault = waiting.pop(0) if waiting else None
        if isinstance(fault, tuple):
            status, code, message = fault
            self.say(status, json.dumps({"__type": code, "message": message}).encode())
        elif isinstance(fault, dict):
            self.say(200, json.dumps(fault).encode())
        else:
            handle = getattr(self, f"_{action}", None)
            answer = handle(json.loads(body)) if handle is not None else self.forward(body)
            if fault == "lost":
                self.close_connection = True
            elif answer is not None:
                self.say(200, answer)

    def forward(self, body: bytes) -> bytes | None:
        """Moto's own answer; None if that was an error, which has been passed on."""
        names = ("Authorization", "Content-Type", "X-Amz-Target", "X-Amz-Date")
        headers = {name: self.headers[name] for name in names if self.headers.get(name)}
        request = urllib.request.Request(self.server.ecs.moto + self.path, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                self.kind = answer.headers["Content-Type"]
                data: bytes = answer.read()
                return data
        except urllib.error.HTTPError as error:
            self.say(error.code, error.read())
            return None

    kind = "application/x-amz-json-1.1"

    def say(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", self.kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _RunTask(self, asked: dict[str, Any]) -> bytes | None:
        ecs, token = self.server.ecs, asked.get("clientToken", "")
        with ecs.lock:
            if token in ecs.tokens:
                return ecs.tokens[token]
            data = self.forward(json.dumps(asked).encode())
            if data is not None:
                answer = json.loads(data)["tasks"][0]
                ecs.start(asked, answer)
                # Only later is more told, as by ECS.
                data = json.dumps({"tasks": [{**answer, "lastStatus": "PROVISIONING"}], "failures": []}).encode()
                ecs.tokens[token] = data
            return data

    def shown(self, task: Task) -> dict[str, Any]:
        containers = [{**task.container, "taskArn": task.arn, "containerArn": f"{task.arn}/c"}]
        status = {"lastStatus": task.status, "desiredStatus": "STOPPED" if task.over.is_set() else "RUNNING"}
        return {**task.answer, **status, "containers": containers, **task.told}

    def _DescribeTasks(self, asked: dict[str, Any]) -> bytes:
        tasks = self.server.ecs.tasks
        found = [self.shown(tasks[arn]) for arn in asked["tasks"] if arn in tasks]
        missing = [{"arn": arn, "reason": "MISSING"} for arn in asked["tasks"] if arn not in tasks]
        return json.dumps({"tasks": found, "failures": missing}).encode()

    def _ListTasks(self, asked: dict[str, Any]) -> bytes:
        stopped = asked.get("desiredStatus", "RUNNING") == "STOPPED"
        found = [
            task.arn
            for task in self.server.ecs.tasks.values()
            if task.started_by == asked["startedBy"] and task.over.is_set() == stopped
        ]
        return json.dumps({"taskArns": found}).encode()

    def _StopTask(self, asked: dict[str, Any]) -> bytes:
        task = self.server.ecs.tasks[asked["task"]]
        self.server.ecs.stop(task, asked.get("reason", ""))
        return json.dumps({"task": self.shown(task)}).encode()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    ecs: Ecs

    def handle_error(self, *arguments: Any) -> None:
        """A client that went away is part of the tests."""


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    log = tmp_path_factory.mktemp("moto") / "moto.log"
    with running([installed("moto_server"), "-H", "127.0.0.1", "-p", str(port)], port, log) as url:
        yield url


@pytest.fixture
def ecs(moto_server: str, tmp_path: Path) -> Iterator[Ecs]:
    """With an empty account that has the cluster ``flows``."""
    urllib.request.urlopen(urllib.request.Request(f"{moto_server}/moto-api/reset", b""), timeout=30).close()
    stand_in = Ecs(moto_server, tmp_path)
    stand_in.ask("ecs.CreateCluster", clusterName="flows")
    server = Server(("127.0.0.1", 0), Answers)
    server.ecs, stand_in.port = stand_in, server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    with server:
        thread.start()
        try:
            yield stand_in
        finally:
            stand_in.close()
            server.shutdown()
            thread.join()
