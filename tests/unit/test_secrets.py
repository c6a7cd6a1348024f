"""Where secrets are looked for, in which order, and what is never served."""

import json
import os
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from flow_agent import resolver
from flow_agent.errors import FlowAgentError, InvalidInput, SecretNotFound, SecretUnavailable
from flow_agent.model import Registration
from flow_agent.redact import Redactor, known
from flow_agent.secret_providers.environment import EnvironmentSecrets
from flow_agent.secret_providers.files import FileSecrets
from flow_agent.secret_providers.home import HomeSecrets

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def opened(home: Path, **given):
    arguments = {"folder": None, "allow": (), "table": {}, "providers": ()} | given
    async with resolver.opened(home, **arguments) as found:
        yield found


def registration(env: dict[str, object]) -> Registration:
    return Registration(flow="f", kind="pickle", storage={"type": "Local"}, location={}, run_config={"env": env})


async def test_a_value_is_served_as_it_is(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TOKEN", " $x~ ")
    async with opened(tmp_path) as secrets:
        assert await secrets.get("TOKEN") == " $x~ "


@pytest.mark.parametrize(
    "name", ["FLOW_AGENT_QUEUE", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "VAULT_TOKEN", "AZURE_CLIENT_SECRET"]
)
async def test_the_agents_own_settings_and_credentials_are_never_served(name, tmp_path) -> None:
    (tmp_path / name).write_text("x")
    async with opened(tmp_path, folder=tmp_path) as secrets:
        with pytest.raises(SecretNotFound, match="which no run gets"):
            await secrets.get(name)


async def test_the_places_have_an_order(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    places = []
    async with opened(tmp_path, folder=folder, table={"TOKEN": "of the table"}) as secrets:
        run = secrets.for_run(registration({"TOKEN": "of the run config", "OTHER": {"secret": "TOKEN"}}))
        places.append(await secrets.get("TOKEN"))
        with HomeSecrets(tmp_path).changed() as entries:
            entries["TOKEN"] = {"value": "of the home", "set_at": 1.0}
        places.append(await secrets.get("TOKEN"))
        (folder / "TOKEN").write_text("of a file\n")
        places += [await secrets.get("TOKEN"), await run.get("TOKEN")]
    monkeypatch.setenv("TOKEN", "of the environment")
    async with opened(tmp_path, folder=folder, table={"TOKEN": "of the table"}) as secrets:
        places.append(await secrets.for_run(registration({"TOKEN": "of the run config"})).get("TOKEN"))
    assert places == ["of the table", "of the home", "of a file", "of the run config", "of the environment"]


async def test_what_is_nowhere_names_every_place(tmp_path) -> None:
    async with opened(tmp_path, folder=tmp_path / "files", table={"A": "b"}, providers=["vault:http://v"]) as secrets:
        only_these = resolver.Resolver([each for each in secrets.providers if "Vault" not in each.where])
        with pytest.raises(SecretNotFound) as caught:
            await only_these.get("NOPE")
    for place in ("environment of the agent", "files in", "secrets.json", "[secrets] of the settings file"):
        assert place in str(caught.value)
    assert "flow-agent secrets set NOPE" in str(caught.value.hint)


async def test_patterns_narrow_the_environment() -> None:
    provider = EnvironmentSecrets(["FLOWS_*"], {"FLOWS_A": "a", "HOME": "h"})
    assert (await provider.get("FLOWS_A"), await provider.get("HOME")) == ("a", None)


async def test_files_are_read_anew_and_follow_the_links_of_kubernetes(tmp_path) -> None:
    provider = FileSecrets(tmp_path)
    for number in (1, 2):
        version = tmp_path / f"..v{number}"
        version.mkdir()
        (version / "TOKEN").write_text(f"value {number}\n")
        link = tmp_path / f"..data{number}"
        link.symlink_to(version.name)
        link.replace(tmp_path / "..data")
        if number == 1:
            (tmp_path / "TOKEN").symlink_to("..data/TOKEN")
        assert await provider.get("TOKEN") == f"value {number}"
    assert await provider.get("..data/TOKEN") is None
    assert await provider.get("MISSING") is None
    (tmp_path / "BINARY").write_bytes(b"\xff\xfe")
    with pytest.raises(SecretUnavailable, match="no text"):
        await provider.get("BINARY")


async def test_a_table_is_served_as_json(tmp_path) -> None:
    async with opened(tmp_path, table={"AWS_CREDENTIALS": {"ACCESS_KEY": "a"}}) as secrets:
        assert json.loads(await secrets.get("AWS_CREDENTIALS")) == {"ACCESS_KEY": "a"}


async def test_the_file_of_the_home_is_private_and_refused_if_others_may_read_it(tmp_path) -> None:
    secrets = HomeSecrets(tmp_path)
    with secrets.changed() as entries:
        entries["A"] = {"value": "b", "set_at": 1.0}
    path = tmp_path / "secrets.json"
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(SecretUnavailable, match="others may read"):
        await secrets.get("A")
    path.chmod(0o600)
    path.write_text("{")
    with pytest.raises(FlowAgentError, match="damaged"):
        secrets.entries()
    os.unlink(path)
    assert await secrets.get("A") is None


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("rocket:x", "no secret provider is called 'rocket'"),
        ("vault:x", "names no address"),
        ("vault:http://v?auth=kubernetes", "needs a role"),
        ("vault:http://v?colour=red", "has no option 'colour'"),
        ("gcp:", "names no project"),
        ("azure:http://v", "names no vault"),
        ("aws:s3", "has no service 's3'"),
    ],
)
async def test_a_provider_that_cannot_be_is_said(url, says, tmp_path) -> None:
    with pytest.raises(InvalidInput, match=says):
        async with opened(tmp_path, providers=[url]):
            pass


async def test_what_was_served_is_kept_out_of_what_the_agent_says(tmp_path) -> None:
    async with opened(tmp_path, table={"TOKEN": "tr0ub4dor&3-served"}) as secrets:
        assert "tr0ub4dor" in known.text("tr0ub4dor&3-served")
        await secrets.get("TOKEN")
    assert known.text("refused: tr0ub4dor&3-served") == "refused: [redacted]"


def test_the_keys_in_a_connection_string_are_secrets_too() -> None:
    text = "AccountName=me;AccountKey=c2VjcmV0LWtleQ==;EndpointSuffix=core.windows.net"
    assert Redactor([text]).text("key c2VjcmV0LWtleQ== of me") == "key [redacted] of me"
