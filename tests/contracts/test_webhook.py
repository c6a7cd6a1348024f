"""Webhook, on a server that plays DropBox, and on one that only keeps files."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flow_agent import Flow
from flow_agent.errors import FetchError, RegistrationError, SecretNotFound, VerificationError
from flow_agent.hosts import http
from flow_agent.model import Reason, Registration
from flow_agent.registration import build_registrations
from flow_agent.storages import Webhook
from flow_agent.testing.storage_contract import Secrets, StorageContract
from flow_agent.verify import verify
from servers.dropbox import TOKEN, DropBox
from servers.proxy import FaultProxy

Make = Callable[..., Webhook]
SCRIPT = "from flow_agent import flow\n\n\n@flow(name='scripted')\ndef scripted():\n    return 1\n"


def double(n: int = 2) -> int:
    return 2 * n


def triple(n: int = 2) -> int:
    return 3 * n


def registered(storage: Webhook, run: Callable[..., int] = double) -> Registration:
    (made,) = build_registrations([Flow("hooked", run, storage=storage)])
    return made


def dropbox_storage(url: str) -> Webhook:
    """That of the storage document, with another address."""
    return Webhook(
        build_request_kwargs={
            "url": f"{url}/2/files/upload",
            "headers": {
                "Content-Type": "application/octet-stream",
                "Dropbox-API-Arg": json.dumps(
                    {
                        "path": "/Apps/prefect-test-app/dropbox-flow.flow",
                        "mode": "overwrite",
                        "autorename": False,
                        "strict_conflict": True,
                    }
                ),
                "Authorization": "Bearer ${DBOX_OAUTH2_TOKEN}",
            },
        },
        build_request_http_method="POST",
        get_flow_request_kwargs={
            "url": f"{url}/2/files/download",
            "headers": {
                "Accept": "application/octet-stream",
                "Dropbox-API-Arg": json.dumps({"path": "/Apps/prefect-test-app/dropbox-flow.flow"}),
                "Authorization": "Bearer ${DBOX_OAUTH2_TOKEN}",
            },
        },
        get_flow_request_http_method="POST",
    )


class WebhookTests(StorageContract):
    @pytest.fixture(autouse=True)
    def environment(self, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DBOX_OAUTH2_TOKEN", TOKEN)

    @pytest.fixture
    def secrets(self) -> Secrets:
        return Secrets({"DBOX_OAUTH2_TOKEN": TOKEN})

    @pytest.fixture
    def world(self, tmp_path: Path) -> Path:
        folder = tmp_path / "world"
        folder.mkdir()
        return folder

    @pytest.fixture
    def registration(self, storage: Webhook) -> Registration:
        return registered(storage)

    @pytest.fixture
    def missing(self, storage: Webhook, registration: Registration, dropbox: DropBox) -> Registration:
        dropbox.files.clear()
        return registration


class TestDropBox(WebhookTests):
    @pytest.fixture
    def storage(self, dropbox: DropBox) -> Webhook:
        return dropbox_storage(dropbox.url)

    async def test_the_token_stands_in_no_registration(self, registration: Registration, dropbox: DropBox) -> None:
        assert TOKEN not in repr(registration)
        assert dropbox.seen[0]["Authorization"] == f"Bearer {TOKEN}"


class TestFiles(WebhookTests):
    @pytest.fixture
    def make(self, dropbox: DropBox) -> Make:
        def make(*, url: str | None = None, name: str = "one", **given: Any) -> Webhook:
            place = f"{url or dropbox.url}/plain/{name}"
            arguments: dict[str, Any] = {
                "build_request_kwargs": {"url": f"{dropbox.url}/plain/{name}"},
                "build_request_http_method": "PUT",
                "get_flow_request_kwargs": {"url": place},
                "get_flow_request_http_method": "GET",
            }
            return Webhook(**{**arguments, **given})

        return make

    @pytest.fixture
    def script(self, tmp_path: Path) -> Path:
        folder = tmp_path / "sources"
        (folder / "lib").mkdir(parents=True)
        (folder / "flow.py").write_text(SCRIPT)
        (folder / "lib" / "helper.py").write_text("ANSWER = 42\n")
        return folder / "flow.py"

    @pytest.fixture(params=["pickle", "script", "pinned script", "folder"])
    def storage(self, request: pytest.FixtureRequest, make: Make, script: Path) -> Webhook:
        options = {"stored_as_script": True, "flow_script_path": script}
        return make(
            **{
                "pickle": {},
                "script": options,
                "pinned script": {**options, "pin": True},
                "folder": {**options, "root": script.parent},
            }[request.param]
        )

    async def test_what_was_overwritten_is_not_loaded(self, make: Make, into: Path, secrets: Secrets) -> None:
        storage = make()
        first = registered(storage)
        registered(make(), triple)
        found = await storage.fetch(first, into, secrets)
        assert found is not None
        with pytest.raises(VerificationError) as caught:
            verify(first, found, into)
        assert caught.value.reason is Reason.DIGEST_MISMATCH

    async def test_an_edit_on_the_server_is_the_next_run(
        self, make: Make, script: Path, into: Path, secrets: Secrets, dropbox: DropBox
    ) -> None:
        storage = make(stored_as_script=True, flow_script_path=script)
        made = registered(storage)
        dropbox.files["/plain/one"] = SCRIPT.replace("return 1", "return 2").encode()
        await storage.fetch(made, into, secrets)
        assert "return 2" in (into / "payload" / "flow.py").read_text()

    async def test_an_id_of_the_server_is_put_where_fetching_needs_it(
        self, make: Make, into: Path, secrets: Secrets, dropbox: DropBox
    ) -> None:
        def after(storage: Webhook, response: Any) -> None:
            storage.get_flow_request_kwargs["url"] = f"{dropbox.url}{response.json()['id']}"

        storage = make(
            build_request_kwargs={"url": f"{dropbox.url}/plain/"}, build_request_http_method="post", after_build=after
        )
        made = registered(storage)
        assert storage.responses["hooked"].status == 201
        again = Webhook.from_description(made.storage)
        assert await again.fetch(made, into, secrets) is not None

    async def test_templates_are_filled_everywhere_but_in_keys(self, make: Make, into: Path, dropbox: DropBox) -> None:
        made = registered(make())
        dropbox.files["/plain/v1?a=v2&b=%24x"] = dropbox.files["/plain/one"]
        storage = make(
            get_flow_request_kwargs={
                "url": f"{dropbox.url}/plain/$ONE",
                "params": [("a", "${TWO}"), ("b", "$$x")],
                "headers": {"X-$ONE": "$TWO-${ONE}"},
                "auth": ("user", "${ONE}"),
            }
        )
        secrets = Secrets({"ONE": "v1", "TWO": "v2"})
        assert await storage.fetch(made, into, secrets) is not None
        seen = dropbox.seen[-1]
        assert (seen["X-$ONE"], seen["Authorization"]) == ("v2-v1", "Basic dXNlcjp2MQ==")

    async def test_a_name_that_is_nowhere_is_said(self, make: Make, into: Path) -> None:
        made = registered(make())
        storage = make(get_flow_request_kwargs={"url": "https://example.org/$NOWHERE"})
        with pytest.raises(SecretNotFound, match="NOWHERE"):
            await storage.fetch(made, into, Secrets({}))

    # Errors

    @pytest.mark.parametrize(
        ("status", "headers", "transient", "after"),
        [
            (503, {"Retry-After": "7"}, True, 7.0),
            (500, {}, True, None),
            (429, {}, True, None),
            (404, {}, False, None),
            (401, {}, False, None),
            (418, {}, False, None),
        ],
    )
    async def test_each_answer_has_its_meaning(
        self,
        status: int,
        headers: dict[str, str],
        transient: bool,
        after: float | None,
        make: Make,
        into: Path,
        secrets: Secrets,
        dropbox: DropBox,
    ) -> None:
        storage = make()
        made = registered(storage)
        dropbox.replies = [(status, headers, b"because of do-not-show-this-value")]
        with pytest.raises(FetchError, match=f"{status} .because") as caught:
            await storage.fetch(made, into, secrets)
        assert (caught.value.transient, caught.value.retry_after) == (transient, after)

    async def test_a_redirect_to_another_host_does_not_carry_the_token(
        self, make: Make, into: Path, secrets: Secrets, dropbox: DropBox
    ) -> None:
        made = registered(make())
        storage = make(
            get_flow_request_kwargs={
                "url": f"{dropbox.url}/plain/one",
                "headers": {"Authorization": "Bearer $DBOX_OAUTH2_TOKEN"},
            }
        )
        for place, carried in ((f"http://localhost:{dropbox.port}", False), (dropbox.url, True)):
            dropbox.replies = [(302, {"Location": f"{place}/plain/one"}, b"")]
            assert await storage.fetch(made, into, secrets) is not None
            assert ("Authorization" in dropbox.seen[-1]) is carried

    async def test_redirects_may_be_refused_and_do_not_go_round(
        self, make: Make, into: Path, secrets: Secrets, dropbox: DropBox
    ) -> None:
        made = registered(make())
        round_ = (302, {"Location": f"{dropbox.url}/plain/one"}, b"")
        dropbox.replies = [round_] * 6
        with pytest.raises(FetchError, match="more than 5 redirects"):
            await make().fetch(made, into, secrets)
        dropbox.replies = [round_]
        strict = make(get_flow_request_kwargs={"url": f"{dropbox.url}/plain/one", "allow_redirects": False})
        with pytest.raises(FetchError, match="302"):
            await strict.fetch(made, into, secrets)

    async def test_what_is_too_large_is_refused(
        self, make: Make, into: Path, secrets: Secrets, dropbox: DropBox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = registered(make())
        dropbox.files["/plain/one"] = b"x" * 3_000_000
        monkeypatch.setattr(http.save, "__defaults__", (2_000_000,))
        with pytest.raises(FetchError, match="more than 2 MB"):
            await make().fetch(made, into, secrets)

    @pytest.mark.parametrize("fault", ["refused", "reset", "cut", "hang", "own limit"])
    async def test_what_may_pass_is_transient(
        self, fault: str, make: Make, into: Path, secrets: Secrets, dropbox: DropBox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = registered(make())
        with FaultProxy(dropbox.port) as proxy:
            storage = make(url=proxy.url)
            if fault == "own limit":
                storage = make(get_flow_request_kwargs={"url": f"{proxy.url}/plain/one", "timeout": 0.5})
            elif fault == "hang":
                monkeypatch.setattr(http, "ANSWER_WITHIN", 1.0)
            match fault:
                case "refused":
                    proxy.refuse()
                case "reset":
                    proxy.reset = True
                case "cut":
                    proxy.cut = 100
                case _:
                    proxy.hang = "head"
            began = time.monotonic()
            with pytest.raises(FetchError) as caught:
                await storage.fetch(made, into, secrets)
            assert caught.value.transient, caught.value
            assert time.monotonic() - began < 10

    async def test_a_build_that_is_refused_registers_nothing(self, make: Make, dropbox: DropBox) -> None:
        dropbox.replies = [(507, {}, b"full")]
        with pytest.raises(RegistrationError, match="507"):
            registered(make())

    async def test_two_flows_do_not_share_a_request(self, make: Make) -> None:
        storage = make()
        with pytest.raises(RegistrationError, match="several flows"):
            build_registrations([Flow("a", double, storage=storage), Flow("b", double, storage=storage)])


GOOD = {"url": "https://example.org"}


@pytest.fixture
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"get_flow_request_http_method": "FETCH"}, "expected one of GET"),
        ({"get_flow_request_kwargs": {}}, "expected an address"),
        ({"get_flow_request_kwargs": {"url": "example.org"}}, "expected an address"),
        ({"get_flow_request_kwargs": {**GOOD, "hooks": {}}}, "has 'hooks'"),
        ({"get_flow_request_kwargs": {**GOOD, "headers": {"A": "100$"}}}, r"\['headers'\]\['A'\] holds a '\$'"),
        ({"get_flow_request_kwargs": {**GOOD, "params": [("a", "${A-B}")]}}, "begins no name"),
        ({"get_flow_request_kwargs": {**GOOD, "data": b"x"}}, "is a bytes"),
        ({"get_flow_request_kwargs": {**GOOD, "auth": ("a",)}}, "user and password"),
        ({"flow_script_path": "x.py"}, "for scripts"),
    ],
)
def test_what_does_not_fit_is_said(given: dict[str, Any], says: str, no_warnings: None) -> None:
    arguments: dict[str, Any] = {
        "build_request_kwargs": GOOD,
        "build_request_http_method": "PUT",
        "get_flow_request_kwargs": GOOD,
        "get_flow_request_http_method": "GET",
    }
    with pytest.raises((TypeError, ValueError), match=says):
        Webhook(**{**arguments, **given})


def test_a_body_of_ones_own_is_warned_about() -> None:
    with pytest.warns(RuntimeWarning, match="not used"):
        Webhook({**GOOD, "data": "x"}, "POST", GOOD, "GET")
