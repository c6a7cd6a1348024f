"""The settings in their groups: every one with its kind, its bounds, its default and its meaning."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flow_agent.model import Json
from flow_agent.settings.kinds import Labels, Option, Pairs, Seconds, Words, cores, relation

_SECRET_NAME = re.compile(r"[A-Z][A-Z0-9_]*")


class Group(BaseModel):
    """Settings that belong together: a table of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AgentSettings(Group):
    """Who this agent is and what it takes."""

    name: Annotated[str, Option(("--name",), "NAME")] = Field(
        default_factory=socket.gethostname,
        min_length=1,
        max_length=100,
        description="Name of this agent, one live agent per name and home; default: the hostname.",
    )
    labels: Annotated[Labels, Option(("-l", "--label"), "LABEL")] = Field(
        default=(), description="Labels of this agent; it takes a run when it has every label of the run."
    )
    limit: Annotated[int, Option(("--limit",), "N")] = Field(
        default_factory=cores,
        ge=1,
        le=10_000,
        description="Runs at the same time; default: the cores that this process may use.",
    )
    launchers: Annotated[Words, Option(("--launcher",), "NAME")] = Field(
        default=("process", "docker"),
        min_length=1,
        description="Launchers that this agent offers, as far as they can be served here; the first one serves runs"
        " that ask for none.",
    )
    hostname_label: Annotated[bool, Option(("--hostname-label/--no-hostname-label",))] = Field(
        default=True, description="Whether the hostname is a label too; flows in Local storage ask for it."
    )
    only_labelled: Annotated[bool, Option(("--only-labelled/--any-labels",))] = Field(
        default=False, description="Whether runs without labels are left to other agents."
    )
    poll: Annotated[Seconds, Option(("--poll",), "SECONDS")] = Field(
        default=5.0,
        description="Seconds between two looks at an idle queue, give or take a fifth; only the safety net,"
        " since a submit wakes the agent.",
    )
    env: Annotated[Pairs, Option(("--env",), "NAME=VALUE")] = Field(
        default={}, repr=False, description="Environment variables of every attempt."
    )


class LeaseSettings(Group):
    """How long a claim holds without a sign of life."""

    claimed: Seconds = Field(default=30.0, description="Seconds that a claim holds before user code starts.")
    running: Seconds = Field(
        default=120.0,
        description="Seconds that a claim holds once user code runs; after a crash of the agent's machine its runs"
        " wait this long for another agent.",
    )
    heartbeat: Seconds = Field(default=10.0, description="Seconds between two signs of life of an agent.")


class StopSettings(Group):
    """How attempts are ended."""

    grace: Annotated[Seconds, Option(("--grace",), "SECONDS")] = Field(
        default=10.0, description="Seconds between asking an attempt to end (SIGTERM) and killing it."
    )


class FetchSettings(Group):
    """How patiently a flow is fetched from its storage."""

    tries: Annotated[int, Option(metavar="N")] = Field(
        default=5, ge=1, le=100, description="Tries of one fetch while the storage fails in a way that may pass."
    )
    seconds: Seconds = Field(default=60.0, description="Seconds that all tries of one fetch may take together.")
    release_for: Seconds = Field(
        default=600.0, description="Seconds that a run goes back to the queue for another fetch before it fails."
    )


class CacheSettings(Group):
    """What fetched flows are kept on this machine."""

    limit: Annotated[int, Option(metavar="BYTES")] = Field(
        default=10_000_000_000,
        ge=0,
        description="Bytes of fetched flows kept in the home's cache, the least used leave first; 0 keeps none.",
    )


class ResultSettings(Group):
    """How patiently a result is written to its store."""

    seconds: Seconds = Field(
        default=600.0,
        description="Seconds for which a result that cannot be written is tried again before its run fails.",
    )


class SecretsSettings(Group):
    """Where secrets are looked for, and, in the file only, secrets themselves."""

    model_config = ConfigDict(
        frozen=True,
        extra="allow",
        json_schema_extra={
            "additionalProperties": False,
            "patternProperties": {f"^{_SECRET_NAME.pattern}$": {"type": ["string", "object"]}},
        },
    )

    dir: Annotated[Path | None, Option(("--secrets-dir",), "FOLDER")] = Field(
        default=None, description="Folder with one file for each secret, as Kubernetes mounts them."
    )
    environment_allow: Annotated[Words, Option(metavar="PATTERN")] = Field(
        default=(), description="Patterns of the agent's variables that may be served as secrets; default: any."
    )
    hosts: Annotated[Words, Option(metavar="HOST")] = Field(
        default=(),
        description="Git hosts of your own that default tokens (GITHUB_ACCESS_TOKEN and its like) may be sent to.",
    )
    providers: Annotated[Words, Option(("--secrets-provider",), "URL")] = Field(
        default=(),
        description="Further places to look in, in order: `aws:`, `gcp:`, `azure:` or `vault:` with what each needs.",
    )

    @model_validator(mode="after")
    def _values(self) -> SecretsSettings:
        for name, value in (self.model_extra or {}).items():
            if not _SECRET_NAME.fullmatch(name):
                raise relation(
                    f"secrets.{name} is no setting, and no name of a secret, which has capital letters",
                    "its settings are dir, environment_allow, hosts and providers",
                )
            if not isinstance(value, str | dict):
                raise relation(f"secrets.{name} is neither text nor a table", "write it in quotes")
        return self

    @property
    def table(self) -> Mapping[str, Json]:
        """The secrets that stand in the settings file."""
        return dict(self.model_extra or {})

    def __repr__(self) -> str:
        return f"SecretsSettings(dir={self.dir!r}, providers={self.providers!r})"

    __str__ = __repr__


class ReportSettings(Group):
    """How the ends of attempts reach the queue."""

    seconds: Seconds = Field(
        default=60.0,
        description="Seconds after a second signal, beyond stop.grace, for reporting how attempts ended; what is not"
        " reported by then is found by the next agent of this name.",
    )


class ProcessSettings(Group):
    """How attempts are started as processes of this machine."""

    start: Literal["fork", "fresh"] = Field(
        default="fork",
        description="How an attempt begins: 'fork' copies a warm interpreter, 'fresh' starts a new one for each.",
    )
    preload: Annotated[Words, Option(("--preload",), "MODULE")] = Field(
        default=(), description="Modules that warm interpreters import once, so that no attempt has to."
    )
    ahead: Annotated[int, Option(metavar="N")] = Field(
        default=2, ge=0, le=1_000, description="Attempts that wait ready in each interpreter in use."
    )
    idle: Seconds = Field(
        default=300.0, description="Seconds after which an interpreter that no run asked for is given up."
    )


class OutputSettings(Group):
    """What an attempt may write."""

    limit: Annotated[int, Option(metavar="BYTES")] = Field(
        default=1_000_000_000,
        ge=1_000,
        description="Bytes of output kept of one attempt, at least 1000; the rest is counted only.",
    )


class SQLiteSettings(Group):
    """The SQLite queue."""

    synchronous: Literal["full", "normal"] = Field(
        default="full",
        description="How a commit reaches the disk: 'full' survives a power cut, 'normal' may lose the last commits.",
    )


class ServerSettings(Group):
    """The HTTP queue that `flow-agent server` offers."""

    listen: Annotated[str, Option(("--listen",), "ADDRESS")] = Field(
        default="127.0.0.1:8642", description="HOST:PORT at which `flow-agent server` answers."
    )
    access: Literal["tokens", "open"] = Field(
        default="tokens",
        description="Who may ask the server: those with a token, or, on a loopback address only, everybody.",
    )
    tokens: Annotated[Path | None, Option(metavar="FILE")] = Field(
        default=None,
        description="File of the server's hashed tokens; without one it is server/tokens.json in the home.",
    )
    certificate: Annotated[Path | None, Option(metavar="FILE")] = Field(
        default=None, description="Certificate of the server with its chain, in PEM format; without one it speaks HTTP."
    )
    key: Annotated[Path | None, Option(metavar="FILE")] = Field(
        default=None, description="Private key of that certificate, if it stands in a file of its own."
    )
    body: Annotated[int, Option(metavar="BYTES")] = Field(
        default=16_000_000, ge=100_000, description="Bytes of a request to the server at most, also once unpacked."
    )
    seconds: Seconds = Field(
        default=30.0,
        description="Seconds that a client of the server may take to send a request, or to take an answer.",
    )
    connections: Annotated[int, Option(metavar="N")] = Field(
        default=1_000, ge=1, le=100_000, description="Connections of clients to the server at a time."
    )


class ProbesSettings(Group):
    """What others may ask a running agent."""

    listen: Annotated[str, Option(("--probes",), "ADDRESS")] = Field(
        default="",
        description="HOST:PORT at which `/livez`, `/readyz`, `/metrics` and `/waiting` are answered by HTTP; default:"
        " nowhere. Anybody who reaches it may ask.",
    )


class LogSettings(Group):
    """The agent's own log, on stderr."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Lowest level shown.")
    format: Literal["auto", "json", "pretty"] = Field(
        default="auto", description="How it looks; 'auto' is pretty on a terminal, JSON elsewhere."
    )
