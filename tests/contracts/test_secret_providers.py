"""Secrets from services: AWS on ministack, the others on stand-ins that answer as the published APIs do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from command import Cli
from flow_agent import plugins
from flow_agent.errors import InvalidInput, SecretNotFound, SecretUnavailable
from flow_agent.objects import aws, google
from servers.gcs import Server as GoogleServer
from servers.s3 import ROOT, Server
from servers.secret_services import KEY_VAULT, Services

pytestmark = pytest.mark.anyio


async def value(url: str, name: str) -> str | None:
    """What the provider at ``url`` has as ``name``."""
    scheme, _, rest = url.partition(":")
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(plugins.load("secret_providers", scheme)(rest))
        found: str | None = await provider.get(name)
        return found


# AWS


@pytest.fixture
def account(s3_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The variables of somebody who may do all."""
    for name, text in Server(s3_server.url, ROOT).environment.items():
        monkeypatch.setenv(name, text)
    aws._sessions.clear()
    yield s3_server
    aws._sessions.clear()


async def test_aws_secrets_manager(account: Server) -> None:
    client = account.client("secretsmanager", ROOT)
    client.create_secret(Name="flows/TOKEN", SecretString="of Secrets Manager")
    client.create_secret(Name="flows/RAW", SecretBinary=b"\xff\x00")
    client.close()
    url = f"aws:secretsmanager?prefix=flows/&region=us-east-1&endpoint={account.url}"
    assert await value(url, "TOKEN") == "of Secrets Manager"
    assert await value(url, "NOPE") is None
    with pytest.raises(SecretNotFound, match="binary"):
        await value(url, "RAW")


async def test_aws_parameters(account: Server) -> None:
    client = account.client("ssm", ROOT)
    client.put_parameter(Name="/flows/TOKEN", Value="of SSM", Type="SecureString")
    client.close()
    url = f"aws:ssm?prefix=/flows/&region=us-east-1&endpoint={account.url}"
    assert await value(url, "TOKEN") == "of SSM"
    assert await value(url, "NOPE") is None


async def test_who_may_not_read_in_aws_is_told(account: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", account.credentials["ACCESS_KEY"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", account.credentials["SECRET_ACCESS_KEY"])
    with pytest.raises(SecretNotFound, match="AccessDenied") as caught:
        await value(f"aws:?region=us-east-1&endpoint={account.url}", "TOKEN")
    assert "read the secret" in str(caught.value.hint)


async def test_aws_that_does_not_answer_is_unavailable(account: Server) -> None:
    with pytest.raises(SecretUnavailable):
        await value("aws:?region=us-east-1&endpoint=http://127.0.0.1:9", "TOKEN")


# HashiCorp Vault


def vault(services: Services, options: str = "") -> str:
    return f"vault:{services.url}?prefix=flows/{options}"


async def test_vault_with_a_token(secret_services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_TOKEN", "root")
    secret_services.tokens.add("root")
    secret_services.values = {"TOKEN": {"value": "of Vault"}, "PAIR": {"user": "u", "password": "p"}}
    assert await value(vault(secret_services), "TOKEN") == "of Vault"
    assert await value(vault(secret_services, "&version=1"), "TOKEN") == "of Vault"
    assert await value(vault(secret_services), "PAIR") == '{"user": "u", "password": "p"}'
    assert await value(vault(secret_services, "&field=password"), "PAIR") == "p"
    assert await value(vault(secret_services), "NOPE") is None
    with pytest.raises(SecretNotFound, match="no field 'x'"):
        await value(vault(secret_services, "&field=x"), "PAIR")


async def test_vault_with_the_token_of_its_command_line(
    secret_services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VAULT_TOKEN", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SecretNotFound, match="no token for Vault"):
        await value(vault(secret_services), "TOKEN")
    (tmp_path / ".vault-token").write_text("mine\n")
    secret_services.tokens.add("mine")
    secret_services.values = {"TOKEN": {"value": "of Vault"}}
    assert await value(vault(secret_services), "TOKEN") == "of Vault"


@pytest.mark.parametrize("way", ["approle", "kubernetes"])
async def test_vault_with_a_login_that_is_renewed(
    way: str, secret_services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jwt").write_text("of-the-pod")
    monkeypatch.setenv("VAULT_KUBERNETES_TOKEN_FILE", str(tmp_path / "jwt"))
    monkeypatch.setenv("VAULT_ROLE_ID", "flows")
    monkeypatch.setenv("VAULT_SECRET_ID", "of-the-role")
    secret_services.values = {"TOKEN": {"value": "of Vault"}}
    rest = f"{secret_services.url}?auth={way}" + ("&role=flows" if way == "kubernetes" else "")
    async with plugins.load("secret_providers", "vault")(rest) as provider:
        assert [await provider.get("TOKEN") for _ in range(3)] == ["of Vault"] * 3
        assert secret_services.logins == 1
        secret_services.tokens.clear()
        assert await provider.get("TOKEN") == "of Vault"
        assert secret_services.logins == 2
        monkeypatch.setenv("VAULT_SECRET_ID", "wrong")
        (tmp_path / "jwt").write_text("wrong")
        secret_services.tokens.clear()
        with pytest.raises(SecretNotFound, match=f"400 to a login by {way}"):
            await provider.get("TOKEN")


async def test_vault_that_may_not_be_read_or_is_sealed(
    secret_services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAULT_TOKEN", "root")
    secret_services.tokens.add("root")
    secret_services.forbidden.add("TOKEN")
    with pytest.raises(SecretNotFound, match="403") as caught:
        await value(vault(secret_services), "TOKEN")
    assert "policy" in str(caught.value.hint)
    assert "root" not in str(caught.value)
    secret_services.sealed = True
    with pytest.raises(SecretUnavailable, match="503"):
        await value(vault(secret_services), "TOKEN")


# Google Secret Manager


@pytest.fixture
def at_google(gcs_server: GoogleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GoogleServer]:
    (tmp_path / "key.json").write_text(gcs_server.account())
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    google._accounts.clear()
    yield gcs_server
    google._accounts.clear()


async def test_google_secret_manager(secret_services: Services, at_google: GoogleServer) -> None:
    secret_services.tokens = at_google.good
    secret_services.values = {"flows-TOKEN": "of Google", "flows-RAW": b"\xff\x00"}
    url = f"gcp:flows-project?prefix=flows-&endpoint={secret_services.url}"
    assert await value(url, "TOKEN") == "of Google"
    assert await value(url, "NOPE") is None
    assert await value(url, "no/name") is None
    with pytest.raises(SecretNotFound, match="binary"):
        await value(url, "RAW")
    secret_services.forbidden.add("flows-TOKEN")
    with pytest.raises(SecretNotFound, match="403") as caught:
        await value(url, "TOKEN")
    assert "Secret Accessor" in str(caught.value.hint)
    secret_services.sealed = True
    with pytest.raises(SecretUnavailable, match="503"):
        await value(url, "TOKEN")


# Azure Key Vault


FLOW = """
from flow_agent import current_run, flow

@flow(name="asks", secrets=["API_TOKEN"])
def asks():
    return current_run().secret("API_TOKEN").upper()
"""


def test_azure_key_vault_by_the_identity_of_the_machine(cli: Cli, secret_services: Services) -> None:
    """As a process: what it trusts is read once."""
    secret_services.values = {"flows-API-TOKEN": "of key vault"}
    cli.env |= {
        "IDENTITY_ENDPOINT": f"{secret_services.url}/identity",
        "IDENTITY_HEADER": "of-the-machine",
        "SSL_CERT_FILE": str(secret_services.ca),
        "HTTPS_PROXY": f"http://127.0.0.1:{secret_services.proxy}",
        "NO_PROXY": "127.0.0.1",
    }
    provider = f"azure:https://{KEY_VAULT}?prefix=flows-"
    cli("register", str(cli.write("flows.py", FLOW)))
    (run,) = cli.submit("asks")
    cli("start", "--until-empty", "--secrets-provider", provider)
    assert cli.show(run)["detail"] == ""
    assert cli("result", run) == "OF KEY VAULT\n"
    secret_services.forbidden.add("flows-API-TOKEN")
    (run,) = cli.submit("asks")
    cli("start", "--until-empty", "--secrets-provider", provider)
    shown = cli.show(run)
    assert shown["reason"] == "secret_not_found"
    assert "Key Vault" in shown["detail"]
    cli.env["FLOW_AGENT_SECRETS__PROVIDERS"] = provider
    assert {check["state"] for check in cli.json("doctor")} == {"ok"}


# Wrong settings


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("aws:kms", "no service 'kms'"),
        ("aws:?colour=red", "no option 'colour'"),
        ("gcp:", "names no project"),
        ("azure:flows", "names no vault"),
        ("vault:", "names no address"),
        ("vault:http://v?version=3", "neither 1 nor 2"),
        ("vault:http://v?auth=magic", "none of token"),
        ("vault:http://v?auth=kubernetes", "needs a role"),
        ("vault:http://v?ca=/no/such.pem", "cannot be read"),
    ],
)
async def test_a_provider_that_does_not_fit_is_said(url: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VAULT_ADDR", raising=False)
    with pytest.raises(InvalidInput, match=says):
        await value(url, "TOKEN")
