"""Webhook, on a server that plays DropBox, and on one that only keeps files."""

from __future__ import annotations

import copy
import hashlib
import json
import ssl
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flow_agent import Flow, resolver
from flow_agent.errors import FetchError, RegistrationError, SecretNotFound, VerificationError
from flow_agent.hosts import http
from flow_agent.model import Reason, Registration
from flow_agent.objects.pool import clients
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

    # Templates

    @pytest.mark.parametrize("given", [{"url": "{}/$NOWHERE"}, {"url": "{}", "headers": {"A": "b-${NOWHERE}"}}])
    async def test_a_name_that_is_nowhere_is_said_and_nothing_is_sent(
        self, given: dict[str, Any], make: Make, into: Path, dropbox: DropBox
    ) -> None:
        """The older system told this by errors of two kinds, one of them a bare KeyError."""
        made = registered(make())
        sent = len(dropbox.seen)
        arguments = {**given, "url": given["url"].format(dropbox.url)}
        with pytest.raises(SecretNotFound, match="NOWHERE"):
            await make(get_flow_request_kwargs=arguments).fetch(made, into, Secrets({}))
        with pytest.raises(SecretNotFound, match=r"NOWHERE.*looked in"):
            registered(make(build_request_kwargs=arguments))
        assert len(dropbox.seen) == sent

    @pytest.mark.parametrize(
        ("given", "sent"),
        [
            ({"data": {"a": "$X", "b": ["1", "$X"]}}, b"a=v+%26&b=1&b=v+%26"),
            ({"data": [("a", "$X"), ("b", "2"), ("a", "3")]}, b"a=v+%26&a=3&b=2"),
            ({"data": "a=$X"}, b"a=v &"),
            ({"json": {"a": ["$X", ("$X",), 1, None]}}, b'{"a":["v &",["v &"],1,null]}'),
            ({"params": {"a": "$X"}}, "?a=v+%26"),
            ({"params": [("a", "$X"), ("a", "2")]}, "?a=v+%26&a=2"),
            ({"cookies": {"a": "${Y}"}}, {"Cookie": "a=w"}),
            ({"cookies": [("a", "${Y}")]}, {"Cookie": "a=w"}),
            ({"headers": {"$Y": "$Y", "Accept": None}}, {"$Y": "w"}),
            ({"headers": {"X-Note": "Grüße $Y"}}, {"X-Note": "Grüße w"}),
            ({"auth": ("$Y", "${Y}")}, {"Authorization": "Basic dzp3"}),
            ({"timeout": ("$N", 5)}, b""),
        ],
        ids=str,
    )
    async def test_each_argument_of_a_request_is_filled_in(
        self, given: dict[str, Any], sent: Any, make: Make, into: Path, dropbox: DropBox
    ) -> None:
        """The older system left lists and tuples as they were."""
        made = registered(make())
        dropbox.replies = [(200, {}, dropbox.files["/plain/one"])]
        kwargs = {"url": f"{dropbox.url}/plain/one", **given}
        before = copy.deepcopy(kwargs)
        storage = make(get_flow_request_kwargs=kwargs, get_flow_request_http_method="POST")
        described = copy.deepcopy(storage.describe())
        assert await storage.fetch(made, into, Secrets({"X": "v &", "Y": "w", "N": "5"})) is not None
        match sent:
            case bytes():
                assert dropbox.bodies[-1] == sent
            case str():
                assert dropbox.seen[-1]["path"].endswith(sent)
            case _:
                assert dropbox.seen[-1].items() >= sent.items()
        assert kwargs == before
        assert storage.describe() == described

    async def test_a_variable_goes_before_a_secret_and_an_empty_one_is_one(
        self, make: Make, into: Path, dropbox: DropBox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = registered(make())
        table = {"IN_BOTH": "secret", "EMPTY": "secret", "ONLY": "secret", "TABLE": {"a": 1}, "NUMBER": 42}
        monkeypatch.setenv("IN_BOTH", "variable")
        monkeypatch.setenv("EMPTY", "")
        headers = {name: f"[${name}]" for name in table}
        storage = make(get_flow_request_kwargs={"url": f"{dropbox.url}/plain/one", "headers": headers})
        async with resolver.opened(tmp_path, folder=None, allow=(), table=table, providers=()) as secrets:
            assert await storage.fetch(made, into, secrets) is not None
        assert {name: dropbox.seen[-1][name] for name in table} == {
            "IN_BOTH": "[variable]",
            "EMPTY": "[]",
            "ONLY": "[secret]",
            "TABLE": '[{"a": 1}]',  # JSON, where the older system sent a repr of Python
            "NUMBER": "[42]",
        }

    async def test_registering_takes_the_variables_of_its_own_machine(
        self, make: Make, dropbox: DropBox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ONE", "v1")
        made = registered(
            make(build_request_kwargs={"url": f"{dropbox.url}/plain/${{ONE}}", "params": {"$ONE": "$ONE"}})
        )
        assert dropbox.seen[-1]["path"] == "/plain/v1?%24ONE=v1"
        assert "v1" not in repr(made.storage)
        assert "/plain/${ONE}" in repr(made.storage)

    async def test_a_secret_may_end_with_a_line(self, make: Make, into: Path, dropbox: DropBox) -> None:
        """As those in files often do."""
        made = registered(make())
        arguments = {"url": "$WHERE", "headers": {"Authorization": "Bearer $TOKEN"}}
        secrets = Secrets({"TOKEN": "abc\n", "WHERE": f"{dropbox.url}/plain/one\n"})
        assert await make(get_flow_request_kwargs=arguments).fetch(made, into, secrets) is not None
        assert dropbox.seen[-1]["Authorization"] == "Bearer abc"

    @pytest.mark.parametrize("value", ["do-not\nshow-this-value", "do-not-show-☃"])
    async def test_a_secret_that_no_header_takes_is_said_and_not_shown(
        self, value: str, make: Make, into: Path, dropbox: DropBox
    ) -> None:
        made = registered(make())
        storage = make(get_flow_request_kwargs={"url": f"{dropbox.url}/plain/one", "headers": {"A": "$T"}})
        with pytest.raises(FetchError) as caught:
            await storage.fetch(made, into, Secrets({"T": value}))
        assert not caught.value.transient
        assert caught.value.hint
        chain = [caught.value, caught.value.__cause__]
        assert not any(part in f"{error!r}{error}" for error in chain for part in ("do-not", "show-this"))

    # Requests

    @pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "patch"])
    async def test_each_method_stores_and_fetches(
        self, method: str, make: Make, into: Path, secrets: Secrets, dropbox: DropBox
    ) -> None:
        dropbox.replies = [(200, {}, b"")]
        storage = make(build_request_http_method=method, get_flow_request_http_method=method)
        made = registered(storage)
        stored = dropbox.bodies[-1]
        assert (dropbox.seen[-1]["method"], hashlib.sha256(stored).hexdigest()) == (method.upper(), made.digest)
        dropbox.replies = [(200, {}, stored)]
        found = await storage.fetch(made, into, secrets)
        assert (dropbox.seen[-1]["method"], found and found.digest) == (method.upper(), made.digest)

    async def test_a_body_of_ones_own_is_not_sent(self, make: Make, dropbox: DropBox) -> None:
        with pytest.warns(RuntimeWarning, match="not used"):
            storage = make(build_request_kwargs={"url": f"{dropbox.url}/plain/one", "data": "mine", "json": ["mine"]})
        made = registered(storage)
        assert hashlib.sha256(dropbox.bodies[-1]).hexdigest() == made.digest

    async def test_a_script_is_sent_as_it_stands_in_its_file(self, make: Make, script: Path, dropbox: DropBox) -> None:
        text = "# Grüße\r\n".encode() + script.read_bytes()
        script.write_bytes(text)
        registered(make(stored_as_script=True, flow_script_path=script))
        assert dropbox.bodies[-1] == text

    async def test_the_script_is_the_file_of_the_flow_unless_it_is_given(self, make: Make, dropbox: DropBox) -> None:
        made = registered(make(stored_as_script=True))
        assert dropbox.bodies[-1] == Path(__file__).read_bytes()
        assert made.location["script"] == "test_webhook.py"

    async def test_a_script_that_is_not_there_is_said(self, make: Make, tmp_path: Path, dropbox: DropBox) -> None:
        with pytest.raises(RegistrationError, match=r"nope\.py does not exist"):
            registered(make(stored_as_script=True, flow_script_path=tmp_path / "nope.py"))
        assert dropbox.seen == []

    async def test_what_the_server_said_of_a_build_is_kept_by_the_flows_name(
        self, make: Make, dropbox: DropBox
    ) -> None:
        dropbox.replies = [(202, {"X-Id": "7"}, b'{"id": "\xc3\xbc"}')]
        storage = make()
        registered(storage)
        said = storage.responses["hooked"]
        assert (said.status, said.headers["x-id"], said.json(), said.text) == (202, "7", {"id": "ü"}, '{"id": "ü"}')

    @pytest.mark.parametrize(
        ("status", "method", "carried"),
        [(307, "POST", True), (308, "PUT", True), (302, "POST", False), (303, "PUT", False), (301, "PUT", True)],
    )
    async def test_a_redirect_keeps_method_and_body_as_its_status_says(
        self, status: int, method: str, carried: bool, make: Make, dropbox: DropBox
    ) -> None:
        dropbox.replies = [(status, {"Location": "/plain/two?x=1"}, b""), (200, {}, b"")]
        arguments = {"url": f"{dropbox.url}/plain/one", "params": {"a": "b"}}
        made = registered(make(build_request_kwargs=arguments, build_request_http_method=method))
        seen = dropbox.seen[-1]
        assert (seen["method"], seen["path"]) == (method if carried else "GET", "/plain/two?x=1")
        assert (hashlib.sha256(dropbox.bodies[-1]).hexdigest() == made.digest) is carried

    async def test_a_cookie_that_one_flow_got_is_not_sent_for_another(
        self, make: Make, into: Path, secrets: Secrets, dropbox: DropBox
    ) -> None:
        """It may be a session that only the first one's credentials give."""
        made = registered(make())
        async with clients():
            dropbox.replies = [(200, {"Set-Cookie": "session=1; Path=/"}, dropbox.files["/plain/one"])]
            for _ in range(2):
                assert await make().fetch(made, into, secrets) is not None
        assert "Cookie" not in dropbox.seen[-1]

    async def test_a_proxy_is_that_of_the_scheme(
        self, make: Make, into: Path, secrets: Secrets, dropbox: DropBox
    ) -> None:
        made = registered(make())
        arguments = {"url": "http://no-such-host.invalid/plain/one"}
        for proxies in ({"http": dropbox.url, "https": "http://127.0.0.1:9"}, {"all": dropbox.url}):
            storage = make(get_flow_request_kwargs={**arguments, "proxies": proxies})
            assert await storage.fetch(made, into, secrets) is not None
            assert dropbox.seen[-1]["path"] == "http://no-such-host.invalid/plain/one"
        other = make(get_flow_request_kwargs={**arguments, "proxies": {"https": dropbox.url}})
        with pytest.raises(FetchError) as caught:
            await other.fetch(made, into, secrets)
        assert caught.value.transient

    # TLS

    async def fetch_securely(self, box: DropBox, make: Make, into: Path, **options: Any) -> None:
        made = registered(make())
        box.replies = [(200, {}, b"x")]
        storage = make(get_flow_request_kwargs={"url": f"{box.url}/plain/one", **options})
        assert await storage.fetch(made, into, Secrets({})) is not None

    async def test_who_is_not_trusted_is_not_asked(self, make: Make, into: Path, secure_dropbox: DropBox) -> None:
        with pytest.raises(FetchError, match="not trusted") as caught:
            await self.fetch_securely(secure_dropbox, make, into, headers={"Authorization": "secret"})
        assert not caught.value.transient
        assert secure_dropbox.seen == []

    async def test_an_authority_of_ones_own_is_given_as_a_file_or_left_out(
        self, make: Make, into: Path, secure_dropbox: DropBox
    ) -> None:
        for given in (str(secure_dropbox.ca), False):
            await self.fetch_securely(secure_dropbox, make, into, verify=given)

    async def test_a_certificate_of_ones_own_is_shown(self, make: Make, into: Path, secure_dropbox: DropBox) -> None:
        box = secure_dropbox
        assert box.context is not None
        box.context.verify_mode = ssl.CERT_REQUIRED
        both = box.ca.parent / "both.pem"
        both.write_bytes(box.key.read_bytes() + box.ca.read_bytes())
        for cert in (str(both), (str(box.ca), str(box.key))):
            await self.fetch_securely(box, make, into, verify=str(box.ca), cert=cert)
        with pytest.raises(FetchError):
            await self.fetch_securely(box, make, into, verify=str(box.ca))

    @pytest.mark.parametrize("options", [{"verify": "/no/such.pem"}, {"cert": "/no/such.pem"}])
    async def test_a_certificate_that_is_not_there_is_said(
        self, options: dict[str, str], make: Make, into: Path, secure_dropbox: DropBox
    ) -> None:
        with pytest.raises(FetchError, match=r"/no/such\.pem") as caught:
            await self.fetch_securely(secure_dropbox, make, into, **options)
        assert not caught.value.transient
        assert "PEM" in str(caught.value.hint)

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
        ({"build_request_http_method": "HEAD"}, "expected one of GET"),
        ({"build_request_http_method": None}, "expected one of GET"),
        ({"get_flow_request_kwargs": {}}, "expected an address"),
        ({"get_flow_request_kwargs": {"url": "example.org"}}, "expected an address"),
        ({"get_flow_request_kwargs": {**GOOD, "hooks": {}}}, "has 'hooks'"),
        ({"get_flow_request_kwargs": {**GOOD, "headers": {"A": "100$"}}}, r"\['headers'\]\['A'\] holds a '\$'"),
        ({"get_flow_request_kwargs": {**GOOD, "params": [("a", "${A-B}")]}}, "begins no name"),
        ({"get_flow_request_kwargs": {**GOOD, "data": b"x"}}, "is a bytes"),
        ({"get_flow_request_kwargs": {**GOOD, "headers": [("A", "b")]}}, "no table of texts"),
        ({"build_request_kwargs": {**GOOD, "headers": {"A": 3}}}, "no table of texts"),
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
