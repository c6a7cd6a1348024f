"""Azure Blob Storage on Azurite, Microsoft's emulator."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from azure.storage.blob import ContainerSasPermissions, generate_container_sas

from flow_agent.errors import SecretNotFound, StoreError
from flow_agent.objects import azure as store
from flow_agent.storages import Azure
from flow_agent.testing.storage_contract import Secrets
from servers.azure import ACCOUNT, KEY, Server
from servers.object_storages import Make, ObjectStorageTests, registered
from servers.proxy import FaultProxy, http

STRING = "AZURE_STORAGE_CONNECTION_STRING"


def said(status: str, code: str, message: str = "because", **headers: str) -> bytes:
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return http(status, body.encode(), X_Ms_Error_Code=code, Content_Type="application/xml", **headers)


class TestAzure(ObjectStorageTests):
    key_name = "blob_name"
    refused = said("403 Forbidden", "AuthenticationFailed")

    def modules(self) -> list[Any]:
        return [store]

    @pytest.fixture
    def values(self, azure_server: Server, proxy: FaultProxy) -> dict[str, str]:
        return {
            STRING: azure_server.connection_string(),
            "BEHIND_A_PROXY": azure_server.connection_string(port=proxy.port),
            "NOWHERE": azure_server.connection_string().replace("127.0.0.1", "no-such-host.invalid"),
        }

    @pytest.fixture
    def port(self, azure_server: Server) -> int:
        return azure_server.port

    @pytest.fixture
    def make(self, container: str) -> Make:
        def make(*, port: int | None = None, host: str = "127.0.0.1", named: str | None = None, **given: Any) -> Azure:
            if port is not None:
                named = "BEHIND_A_PROXY"
            elif host != "127.0.0.1":
                named = "NOWHERE"
            return Azure(container, connection_string_secret=named, **given)

        return make

    @pytest.mark.parametrize(
        ("answer", "transient", "says"),
        [
            (said("403 Forbidden", "AuthenticationFailed"), False, "clock"),
            (said("403 Forbidden", "AuthorizationFailure"), False, "network"),
            (said("403 Forbidden", "AuthorizationPermissionMismatch"), False, "Blob Data Reader"),
            (said("404 Not Found", "ContainerNotFound"), False, "container's name"),
            (said("503 Service Unavailable", "ServerBusy"), True, "503"),
            (http("407 Proxy Authentication Required"), False, "407"),
        ],
    )
    async def test_each_refusal_has_its_meaning(
        self,
        answer: bytes,
        transient: bool,
        says: str,
        make: Make,
        pickled: Any,
        secrets: Secrets,
        into: Path,
        proxy: FaultProxy,
    ) -> None:
        proxy.replies = [answer] * 2
        error = await self.failure(make(port=proxy.port), pickled, secrets, into)
        assert error.transient is transient
        assert says in f"{error} {error.hint}"

    def signed(self, server: Server, container: str, hours: float, **may: bool) -> str:
        """A connection string with a signature that ends ``hours`` from now."""
        now = datetime.now(UTC)
        sas = generate_container_sas(
            ACCOUNT,
            container,
            KEY,
            permission=ContainerSasPermissions(**may),
            start=now - timedelta(hours=2),
            expiry=now + timedelta(hours=hours),
        )
        return server.connection_string(sas=sas)

    async def test_a_signature_for_reading_is_enough(
        self, make: Make, pickled: Any, into: Path, azure_server: Server, container: str
    ) -> None:
        secret = self.signed(azure_server, container, 1, read=True)
        assert await make(named="SIGNED").fetch(pickled, into, Secrets({"SIGNED": secret})) is not None
        async with make(named="SIGNED").connect(Secrets({"SIGNED": secret})) as connected:
            await connected.check()

    async def test_a_signature_that_has_ended_is_lasting_and_is_not_shown(
        self, make: Make, pickled: Any, into: Path, azure_server: Server, container: str
    ) -> None:
        secret = self.signed(azure_server, container, -1, read=True)
        error = await self.failure(make(named="SIGNED"), pickled, Secrets({"SIGNED": secret}), into)
        assert not error.transient
        assert "expired" in str(error.hint)
        assert secret.partition("sig=")[2][:20] not in f"{error}{error.hint}{error.__cause__}"

    async def test_a_wrong_key_is_refused_by_the_server(
        self, make: Make, pickled: Any, into: Path, azure_server: Server
    ) -> None:
        wrong = azure_server.connection_string(key="QUJDREVGRw==")
        error = await self.failure(make(named="WRONG"), pickled, Secrets({"WRONG": wrong}), into)
        assert not error.transient
        assert "QUJDREVGRw" not in f"{error}{error.hint}{error.__cause__}"

    @pytest.mark.parametrize(
        "text", ["", "do-not-show", "AccountKey=do-not-show", "AccountName=a;AccountKey=do-not-show"]
    )
    async def test_a_secret_that_is_no_connection_string_is_said(
        self, text: str, make: Make, pickled: Any, into: Path
    ) -> None:
        error = await self.failure(make(named="WRONG"), pickled, Secrets({"WRONG": text}), into)
        assert "is no connection string" in str(error)
        assert "do-not-show" not in f"{error}{error.hint}{error.__cause__}"

    async def test_a_named_connection_string_is_the_only_one_that_counts(
        self, make: Make, pickled: Any, into: Path, azure_server: Server
    ) -> None:
        wrong = azure_server.connection_string(key="QUJDREVGRw==")
        secrets = Secrets({STRING: wrong, "MINE": azure_server.connection_string()})
        assert f"secret {STRING}" in str(await self.failure(make(), pickled, secrets, into))
        assert await make(named="MINE").fetch(pickled, into, secrets) is not None
        with pytest.raises(SecretNotFound, match="NOWHERE"):
            await make(named="NOWHERE").fetch(pickled, into, Secrets({STRING: azure_server.connection_string()}))

    @pytest.mark.parametrize(
        ("text", "identity"),
        [
            ("AccountName=flows;EndpointSuffix=core.windows.net", True),
            ("BlobEndpoint=https://flows.blob.core.windows.net", True),
            ("AccountName=flows;AccountKey=QUJDREVGRw==", False),
            ("BlobEndpoint=https://flows.blob.core.windows.net;SharedAccessSignature=sv=1&sig=x", False),
        ],
    )
    async def test_a_connection_string_without_a_key_means_an_identity_of_the_machine(
        self, text: str, identity: bool
    ) -> None:
        async with Azure("flows", connection_string_secret="MINE").connect(Secrets({"MINE": text})) as connected:
            assert connected.credentials == "secret MINE" + (", DefaultAzureCredential" if identity else "")

    async def test_without_any_credentials_the_ways_out_are_told(self, make: Make, pickled: Any, into: Path) -> None:
        error = await self.failure(make(), pickled, Secrets({}), into)
        assert "account_url" in str(error.hint)

    async def test_options_of_an_upload_reach_the_blob(self, make: Make, azure_server: Server, container: str) -> None:
        options = {"metadata": {"team": "data"}, "content_settings": {"content_type": "application/x-flow"}}
        made = registered(make(upload_options=options))
        with azure_server.client() as client:
            facts = client.get_blob_client(container, made.location["key"]).get_blob_properties()
        assert (facts.metadata, facts.content_settings.content_type) == ({"team": "data"}, "application/x-flow")

    async def test_objects_below_a_prefix_are_a_folder(
        self, make: Make, secrets: Secrets, into: Path, azure_server: Server, container: str
    ) -> None:
        with azure_server.client() as client:
            for name, text in {"flow.py": "x = 1\n", "lib/a.py": "y = 2\n"}.items():
                client.get_blob_client(container, f"etl/{name}").upload_blob(text.encode())
        storage = make(stored_as_script=True, blob_name="etl/flow.py", prefix="etl/")
        made = registered(storage)
        found = await storage.fetch(made, into, secrets)
        assert (into / "payload/lib/a.py").read_text() == "y = 2\n"
        assert await storage.fetch(made, into, secrets, known=found.validator) is None

    async def test_a_container_that_is_not_there_is_told(self, secrets: Secrets) -> None:
        async with Azure("no-such-container").connect(secrets) as connected:
            with pytest.raises(StoreError, match="ContainerNotFound"):
                await connected.check()
