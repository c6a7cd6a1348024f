"""The settings as one class, and how they must fit each other; the groups are in ``groups``."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from flow_agent.home import home as default_home
from flow_agent.model import Json
from flow_agent.ports import Leases
from flow_agent.settings.containers import DockerSettings, ECSSettings, KubernetesSettings
from flow_agent.settings.groups import (
    AgentSettings,
    CacheSettings,
    FetchSettings,
    LeaseSettings,
    LogSettings,
    OutputSettings,
    ProbesSettings,
    ProcessSettings,
    ReportSettings,
    ResultSettings,
    SecretsSettings,
    ServerSettings,
    SQLiteSettings,
    StopSettings,
)
from flow_agent.settings.kinds import Option, absolute, relation

PREFIX = "FLOW_AGENT_"

file_data: ContextVar[Mapping[str, Json] | None] = ContextVar("file_data", default=None)
"""What the settings file holds while ``sources.load`` makes the settings."""


class Settings(BaseSettings):
    """All settings of flow-agent."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        # Lists are comma-separated in variables, and a whole group as JSON is more than anybody can read.
        enable_decoding=False,
        validate_default=False,
    )

    home: Annotated[Path, AfterValidator(absolute), Option(("--home",), "FOLDER")] = Field(
        default_factory=default_home,
        description="Folder of everything local: queue, flows, results, spools; default: ~/.flow-agent.",
    )
    queue: Annotated[str, Option(("--queue",), "URL")] = Field(
        default_factory=lambda data: f"sqlite:{data.get('home', default_home())}/queue.db",
        min_length=1,
        repr=False,
        description="URL of the queue (sqlite:, postgresql:, https:, http:); default: queue.db in the home.",
    )
    queue_token: Annotated[str, Option(secret=True)] = Field(
        default="",
        repr=False,
        description="Token for a queue behind a server; no option, since others can read those.",
    )
    queue_token_file: Annotated[Path | None, Option(metavar="FILE")] = Field(
        default=None, description="File with the token for a queue behind a server; read again when it is refused."
    )
    queue_ca: Annotated[Path | None, Option(metavar="FILE")] = Field(
        default=None, description="File or folder of the authorities that the server of the queue is checked by."
    )
    agent: AgentSettings = Field(default_factory=AgentSettings)
    lease: LeaseSettings = LeaseSettings()
    stop: StopSettings = StopSettings()
    fetch: FetchSettings = FetchSettings()
    cache: CacheSettings = CacheSettings()
    result: ResultSettings = ResultSettings()
    secrets: SecretsSettings = Field(default=SecretsSettings(), repr=False)
    report: ReportSettings = ReportSettings()
    process: ProcessSettings = ProcessSettings()
    docker: DockerSettings = DockerSettings()
    kubernetes: KubernetesSettings = KubernetesSettings()
    ecs: ECSSettings = ECSSettings()
    output: OutputSettings = OutputSettings()
    server: ServerSettings = ServerSettings()
    probes: ProbesSettings = ProbesSettings()
    sqlite: SQLiteSettings = SQLiteSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _relations(self) -> Settings:
        lease, grace = self.lease, self.stop.grace
        if lease.claimed <= 2 * lease.heartbeat:
            raise relation(
                f"lease.claimed is {lease.claimed:g} s, expected more than twice lease.heartbeat"
                f" ({lease.heartbeat:g} s), so that one late sign of life loses nothing",
                "raise lease.claimed or lower lease.heartbeat",
            )
        if lease.running <= grace + 2 * lease.heartbeat:
            raise relation(
                f"lease.running is {lease.running:g} s, expected more than stop.grace ({grace:g} s) and twice"
                f" lease.heartbeat ({lease.heartbeat:g} s) together, so that an attempt can end within its lease",
                "raise lease.running, or lower stop.grace or lease.heartbeat",
            )
        if self.fetch.seconds > self.fetch.release_for:
            raise relation(
                f"fetch.seconds is {self.fetch.seconds:g} s, expected at most fetch.release_for"
                f" ({self.fetch.release_for:g} s), which spans several fetches",
                "raise fetch.release_for or lower fetch.seconds",
            )
        return self

    def queue_arguments(self) -> dict[str, Any]:
        """What an opener of queues (``ports.OpenQueue``) is given beside the URL."""
        leases = Leases(claimed=self.lease.claimed, running=self.lease.running)
        options: dict[str, Json] = {}
        if self.queue.startswith("sqlite:"):
            options = {"synchronous": self.sqlite.synchronous}
        elif self.queue.startswith(("http:", "https:")):
            given = {"token": self.queue_token, "token_file": self.queue_token_file, "ca": self.queue_ca}
            options = {name: str(value) for name, value in given.items() if value}
        return {"leases": leases, "options": options}

    def secrets_arguments(self) -> dict[str, Any]:
        """What ``resolver.opened`` is given."""
        secrets = self.secrets
        return {
            "home": self.home,
            "folder": secrets.dir,
            "allow": secrets.environment_allow,
            "table": secrets.table,
            "providers": secrets.providers,
            "hosts": secrets.hosts,
        }

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the name is the library's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Options, then variables, then the file that ``load`` has read."""
        return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=dict(file_data.get() or {}))
