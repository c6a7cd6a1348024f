"""What the server lets nobody do, whoever asks and however: by real requests to a real socket."""

from __future__ import annotations

import contextlib
import gzip
import json
import sqlite3
import subprocess
import time
from contextlib import AsyncExitStack
from dataclasses import replace

import anyio
import httpx
import pytest

from flow_agent import operations, wire
from flow_agent.errors import ClaimLost, FlowAgentError, InvalidInput, NotFound, QueueError, QueueUnavailable
from flow_agent.model import Submission, Verdict
from flow_agent.ports import Leases
from flow_agent.queues import http, memory, sqlite
from flow_agent.server import tls
from flow_agent.server.gate import Bounds
from flow_agent.server.serve import Options, served
from flow_agent.server.tokens import Tokens
from flow_agent.testing.queue_contract.common import SUCCEEDED, agent, lines, registration
from servers.proxy import FaultProxy
from servers.secret_services import certificate

pytestmark = pytest.mark.anyio
BOUNDS = Bounds(body=300_000, seconds=0.5)


class Service:
    """A running server with its tokens, and clients of it."""

    def __init__(self, url: str, tokens: Tokens, stack: AsyncExitStack) -> None:
        self.url, self.tokens, self._stack = url, tokens, stack

    async def client(self, *scopes: str, name: str = "someone", **options):
        if scopes:
            options["token"] = self.tokens.create(name, scopes)[0]
        return await self._stack.enter_async_context(http.open_queue(self.url, options=options))

    def post(self, verb: str, token: str = "", **arguments) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        headers |= {"Content-Type": "application/json"} | arguments.pop("headers", {})
        return httpx.post(f"{self.url}/v1/{verb}", headers=headers, timeout=20, **arguments)


@pytest.fixture
async def service(tmp_path):
    tokens = Tokens(tmp_path / "tokens.json")
    async with (
        sqlite.open_queue(f"sqlite:{tmp_path}/queue.db") as queue,
        served(queue, Options(listen="127.0.0.1:0", tokens=tokens, bounds=BOUNDS)) as url,
        AsyncExitStack() as stack,
    ):
        yield Service(url, tokens, stack)


async def post(service: Service, *arguments, **options) -> httpx.Response:
    return await anyio.to_thread.run_sync(lambda: service.post(*arguments, **options))


async def test_without_a_token_or_with_a_wrong_one_nothing_is_answered(service):
    good, _ = service.tokens.create("x", ["admin"])
    for token in (
        "",
        "nonsense",
        good[:-1],
        good[:-1] + ("a" if good[-1] != "a" else "b"),
        "fa_000000000000_" + "a" * 43,
    ):
        for verb in wire.VERBS:
            answer = await post(service, verb, token, content=b"not even JSON")
            assert answer.status_code == 401, verb
            assert answer.json()["error"] == "no_token"
            assert not token or token not in answer.text


@pytest.mark.parametrize("scope", ["submit", "register", "agent", "read"])
async def test_a_token_opens_what_its_scope_says_and_no_more(service, scope):
    token, _ = service.tokens.create("x", [scope])
    for name, verb in wire.VERBS.items():
        answer = await post(service, name, token, content=b"[]")
        assert answer.status_code == (422 if scope in verb.scopes else 403), name


async def test_a_revoked_token_is_refused_within_a_second_and_an_expired_one_at_once(service):
    token, kept = service.tokens.create("x", ["read"])
    short, _ = service.tokens.create("x", ["read"], days=0.2 / 86_400)
    assert (await post(service, "agents", token, json={})).status_code == 200
    await anyio.sleep(0.3)
    assert (await post(service, "agents", short, json={})).status_code == 401
    service.tokens.revoke(kept.id)
    await anyio.sleep(0.8)
    assert (await post(service, "agents", token, json={})).status_code == 401


async def get(service: Service, path: str, token: str = "") -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return await anyio.to_thread.run_sync(lambda: httpx.get(f"{service.url}{path}", headers=headers, timeout=20))


async def test_what_scales_agents_is_told_how_many_runs_wait_for_those_it_names(service):
    admin = await service.client("admin")
    await admin.register([registration(), registration("boxed", launcher="docker")])
    gpu = frozenset({"gpu"})
    await admin.submit([Submission(flow="add", labels=gpu)] * 3 + [Submission(flow="boxed")] * 2)
    token, _ = service.tokens.create("keda", ["agent"])
    assert (await get(service, "/waiting")).status_code == 401
    writer, _ = service.tokens.create("writer", ["register"])
    assert (await get(service, "/waiting", writer)).status_code == 403

    async def waiting(query: str = "") -> int:
        answer = await get(service, f"/waiting{query}", token)
        assert answer.status_code == 200
        found = answer.json()
        assert found["waiting"] == sum(each["waiting"] for each in found["sets"])
        return found["waiting"]

    assert await waiting() == 5
    assert await waiting("?label=gpu&label=eu") == 5
    assert await waiting("?label=eu") == 2
    assert await waiting("?label=") == 2
    assert await waiting("?launcher=kubernetes&label=gpu") == 3
    assert await waiting("?launcher=kubernetes&launcher=docker&label=eu") == 2
    assert await waiting("?launcher=kubernetes&label=eu") == 0
    assert await waiting("?label=&only_labelled=true") == 0
    assert await waiting("?label=gpu&label=eu&only_labelled=true") == 3


async def test_a_server_is_ready_while_its_queue_answers(service):
    answer = await get(service, "/readyz")
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "why": None})


async def test_a_server_whose_queue_is_away_is_alive_and_not_ready(service, tmp_path):
    (tmp_path / "queue.db").rename(tmp_path / "elsewhere.db")
    answer = await get(service, "/readyz")
    assert answer.status_code == 503
    assert "was moved away" in answer.json()["why"]
    assert (await get(service, "/livez")).status_code == 200


async def test_the_file_of_tokens_holds_none_of_them_and_is_for_its_user_only(service, tmp_path):
    token, _ = service.tokens.create("x", ["read"])
    path = tmp_path / "tokens.json"
    assert token.rpartition("_")[2] not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_client_goes_on_with_the_next_token_of_its_file_and_its_claims_stay_its_own(service, tmp_path):
    admin = await service.client("admin")
    await admin.register([registration()])
    await admin.submit([Submission(flow="add")])
    file = tmp_path / "token"
    first, kept = service.tokens.create("build", ["agent"])
    file.write_text(first + "\n")
    async with http.open_queue(service.url, options={"token_file": str(file)}) as queue:
        (claim,) = await queue.claim(agent(), 1, "r1")
        second, _ = service.tokens.create("build", ["agent"])
        file.write_text(second)
        service.tokens.revoke(kept.id)
        await anyio.sleep(0.8)
        await queue.started(claim, "ref")
        await queue.finish(claim, SUCCEEDED)


async def test_of_many_calls_at_once_none_fails_for_a_token_that_was_just_replaced(service, tmp_path):
    admin = await service.client("admin")
    await admin.register([registration()])
    file = tmp_path / "token"
    token, kept = service.tokens.create("build", ["read"])
    file.write_text(token)
    async with http.open_queue(service.url, options={"token_file": str(file)}) as queue:
        await queue.registrations()
        for _ in range(3):
            token, after = service.tokens.create("build", ["read"])
            service.tokens.revoke(kept.id)
            file.write_text(token)
            kept = after
            await anyio.sleep(0.8)
            async with anyio.create_task_group() as group:
                for _ in range(12):
                    group.start_soon(queue.registrations)


async def test_a_token_that_is_revoked_before_the_next_one_is_there_is_waited_for(service, tmp_path):
    file = tmp_path / "token"
    token, kept = service.tokens.create("build", ["read"])
    file.write_text(token)
    async with http.open_queue(service.url, options={"token_file": str(file)}) as queue:
        await queue.registrations()
        service.tokens.revoke(kept.id)
        await anyio.sleep(0.8)
        for text in (token, ""):  # as it was, and while it is written anew
            file.write_text(text)
            with pytest.raises(QueueUnavailable, match="refuses the token that it took: the token is not known"):
                await queue.registrations()
        file.write_text(service.tokens.create("build", ["read"])[0])
        await anyio.sleep(0.8)
        assert await queue.registrations() == []
    async with http.open_queue(service.url, options={"token_file": str(file)}) as queue:
        file.write_text(token)
    async with http.open_queue(service.url, options={"token_file": str(file)}) as queue:
        with pytest.raises(QueueError, match="the token is not known"):  # it was never taken
            await queue.registrations()


async def test_an_agent_writes_only_under_its_own_claims(service):
    admin, one, two = (
        await service.client("admin"),
        await service.client("agent", name="one"),
        await service.client("agent", name="two"),
    )
    await admin.register([registration()])
    await admin.submit([Submission(flow="add")])
    (claim,) = await one.claim(agent("one"), 1, "r1")
    for stolen in (claim, replace(claim, proof=""), replace(claim, attempt=2)):
        who = two if stolen is claim else one
        for write in (
            lambda stolen=stolen, who=who: who.started(stolen, "ref"),
            lambda stolen=stolen, who=who: who.finish(stolen, SUCCEEDED),
            lambda stolen=stolen, who=who: who.release(stolen),
            lambda stolen=stolen, who=who: who.append_logs(stolen, lines(1)),
        ):
            with pytest.raises(ClaimLost):
                await write()
        assert set((await who.extend(agent("one"), [stolen])).values()) == {Verdict.LOST}
    # Nor does it help to call oneself as the other one.
    assert await two.claim(agent("one"), 1, "r1") == []
    assert await two.take_over(agent("one", incarnation="2"), 5, "r2") == []
    await two.retire(agent("one"))
    assert [each.id for each in await admin.agents()] == ["id-one"]
    await one.started(claim, "ref")


async def test_an_agent_with_longer_leases_than_the_servers_is_refused_with_the_way_out(service):
    token, _ = service.tokens.create("x", ["agent"])
    async with http.open_queue(service.url, leases=Leases(running=121), options={"token": token}) as queue:
        with pytest.raises(InvalidInput, match="121 s") as caught:
            await queue.announce(agent())
        assert "lease.running" in (caught.value.hint or "")


@pytest.mark.parametrize("packed", [False, True])
async def test_a_body_over_the_limit_is_refused_also_one_that_unpacks_to_more(service, packed):
    token, _ = service.tokens.create("x", ["admin"])
    body = json.dumps({"run_id": "x" * 400_000}).encode()
    headers = {"Content-Encoding": "gzip"} if packed else {}
    answer = await post(service, "get", token, content=gzip.compress(body) if packed else body, headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (413, "too_large")


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"run_id": 1}', b"NaN", b'{"run_id": NaN}', b"[" * 90_000])
async def test_what_is_no_request_is_refused_in_one_form(service, body):
    token, _ = service.tokens.create("x", ["admin"])
    answer = await post(service, "get", token, content=body)
    assert answer.status_code == 422
    assert set(answer.json()) == {"error", "message", "hint"}


async def test_too_many_things_are_refused_and_nothing_of_them_happens(service):
    admin = await service.client("admin")
    await admin.register([registration()])
    token, _ = service.tokens.create("x", ["admin"])
    runs = gzip.compress(json.dumps({"submissions": [{"flow": "x"}] * 20_000}).encode())
    async with http.open_queue(service.url, options={"token": token}) as queue:
        with pytest.raises(QueueError, match="300000 bytes"):
            await queue.submit([Submission(flow="add", priority=n) for n in range(10_001)])
    assert (await post(service, "submit", token, content=runs, headers={"Content-Encoding": "gzip"})).status_code in (
        413,
        422,
    )
    assert await admin.runs() == []


async def _raw(service: Service, *parts: bytes, pause: float) -> bytes:
    host, _, port = service.url.removeprefix("http://").partition(":")
    stream = await anyio.connect_tcp(host, int(port))
    async with stream:
        answer = b""
        with anyio.move_on_after(10), pytest.MonkeyPatch.context():
            try:
                for part in parts:
                    await stream.send(part)
                    await anyio.sleep(pause)
                while True:
                    answer += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return answer
        raise AssertionError("the server keeps a slow client for ever")


async def test_a_slow_client_is_let_go(service):
    token, _ = service.tokens.create("x", ["admin"])
    head = f"POST /v1/get HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 900\r\n".encode()
    began = time.monotonic()
    assert await _raw(service, pause=0) == b""
    assert await _raw(service, *(head[n : n + 4] for n in range(0, 60, 4)), pause=0.1) == b""
    assert b" 408 " in await _raw(service, head + b"\r\n", *(b"x" for _ in range(3)), pause=0.1)
    assert time.monotonic() - began < 10
    assert (await post(service, "agents", token, json={})).status_code == 200


async def test_as_many_runs_as_may_be_asked_for_at_once_are_one_small_request(service):
    admin = await service.client("admin")
    await admin.register([registration()])
    many = Submission(flow="add", parameters={"text": "x" * 60_000}, labels=frozenset({"never"}))
    other = Submission(flow="add", parameters={"n": 1})
    runs = await admin.submit([other, *[many] * 300, other])
    assert [run.parameters for run in (runs[0], runs[-1])] == [{"n": 1}] * 2
    assert len({run.id for run in runs}) == 302
    token, _ = service.tokens.create("x", ["submit"])
    for body in ({"times": [1, 1]}, {"times": [100_000, 1], "submissions": [{"flow": "add"}] * 2}, {"times": [0]}):
        answer = await post(service, "submit", token, json={"submissions": [{"flow": "add"}], **body})
        assert answer.status_code == 422
    assert (await post(service, "submit", token, json={"submissions": [{"flow": "add"}], "times": [3]})).json() != []


async def test_a_log_of_any_size_goes_through_in_portions(service):
    admin = await service.client("admin")
    await admin.register([registration()])
    (run,) = await admin.submit([Submission(flow="add")])
    (claim,) = await admin.claim(agent(), 1, "r1")
    await admin.started(claim, "ref")
    many = [replace(line, text="x" * 50 + "é") for line in lines(*range(1, 2501))]
    await admin.append_logs(claim, many)
    stored = await admin.logs(run.id, limit=5_000)
    assert [line.seq for line in stored] == list(range(1, 2501))
    assert await admin.last_seq(run.id, 1, "flow") == 2500


async def test_every_address_does_what_its_description_says(service):
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    token, _ = service.tokens.create("x", ["admin"])
    schema = await anyio.to_thread.run_sync(lambda: schemathesis.openapi.from_url(f"{service.url}/openapi.json"))
    asked: set[str] = set()

    def examine() -> None:
        for result in schema.get_all_operations():
            operation = result.ok()

            @settings(
                max_examples=15,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy())
            def one(case) -> None:
                asked.add(case.path)
                if case.path == "/v1/wait" and isinstance(case.body, dict):
                    case.body["mark"] = ""
                # What the description cannot say: a run can only finish in a state that is an end, and such things.
                unsaid = [positive_data_acceptance]
                case.call_and_validate(headers={"Authorization": f"Bearer {token}"}, excluded_checks=unsaid)

            one()

    await anyio.to_thread.run_sync(examine)
    assert asked == {"/livez", "/readyz", "/waiting", *(f"/v1/{verb}" for verb in wire.VERBS)}


async def test_a_server_that_is_gone_is_unavailable_and_heard_again_when_it_is_back(free_port):
    async with memory.open_queue("memory:") as queue, AsyncExitStack() as stack:
        client = await stack.enter_async_context(http.open_queue(f"http://127.0.0.1:{free_port}"))
        with pytest.raises(QueueUnavailable, match="gives no answer"):
            await client.registrations()
        with pytest.raises(QueueUnavailable):
            await client.wait(20)
        async with served(queue, Options(listen=f"127.0.0.1:{free_port}", tokens=None)):
            assert await client.registrations() == []
            with anyio.fail_after(15):
                while True:
                    try:
                        await client.wait(20)
                        break
                    except QueueUnavailable:
                        await anyio.sleep(0.1)
            with pytest.raises(NotFound):
                await client.get("01abc")


@pytest.fixture
def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def test_without_tokens_it_listens_on_loopback_only():
    async with memory.open_queue("memory:") as queue:
        with pytest.raises(InvalidInput, match="may run code"):
            async with served(queue, Options(listen="0.0.0.0:0", tokens=None)):
                pass


@pytest.mark.parametrize("fault", [{"reset": True}, {"cut": 0}, {"cut": 60}, {"cut": 100}, {"lose": 1}], ids=str)
async def test_a_connection_that_breaks_costs_a_repetition_and_nothing_else(service, fault):
    admin = await service.client("admin")
    await admin.register([registration()])
    await admin.submit([Submission(flow="add")] * 3)
    token, _ = service.tokens.create("x", ["agent"])

    async def through(proxy: FaultProxy, call):
        """The answer to a verb whose first answer gets lost on the way."""
        for name, value in fault.items():
            setattr(proxy, name, value)
        with pytest.raises(QueueUnavailable):
            await call()
        proxy.reset, proxy.cut, proxy.lose = False, -1, 0
        return await call()

    with FaultProxy(int(service.url.rpartition(":")[2])) as proxy:
        async with http.open_queue(proxy.url, options={"token": token}) as queue:
            claims = await through(proxy, lambda: queue.claim(agent(), 2, "r1"))
            assert len(claims) == 2
            for claim in claims:
                await through(proxy, lambda claim=claim: queue.started(claim, "ref"))
                await through(proxy, lambda claim=claim: queue.append_logs(claim, lines(1, 2)))
                await through(proxy, lambda claim=claim: queue.finish(claim, SUCCEEDED))
    runs = await admin.runs()
    assert sorted(run.state for run in runs) == ["queued", "succeeded", "succeeded"]
    assert [line.seq for line in await admin.logs(claims[0].run.id)] == [1, 2]


async def test_over_tls_only_a_server_with_a_certificate_that_is_trusted_gets_the_token(tmp_path):
    trusted, key = certificate(tmp_path, "localhost")
    tokens = Tokens(tmp_path / "tokens.json")
    token, _ = tokens.create("x", ["read"])
    options = Options(listen="127.0.0.1:0", tokens=tokens, certificate=trusted, key=key)
    async with memory.open_queue("memory:") as queue, served(queue, options) as url:
        named = url.replace("127.0.0.1", "localhost")
        async with http.open_queue(named, options={"token": token, "ca": str(trusted)}) as client:
            assert await client.agents() == []
        async with http.open_queue(named, options={"token": token}) as client:
            with pytest.raises(QueueError, match="not trusted") as caught:
                await client.agents()
            assert "FLOW_AGENT_QUEUE_CA" in (caught.value.hint or "")


async def test_a_queue_that_a_newer_program_has_migrated_is_away_until_the_server_is_upgraded(service, tmp_path):
    """The caller's own program is not too old, and must not end for it."""
    token, _ = service.tokens.create("x", ["admin"])
    client = await service.client("admin", name="y")
    with contextlib.closing(sqlite3.connect(tmp_path / "queue.db")) as other:
        other.execute("insert into migrations values (999, '0999_new.sql', 'x', 'breaking', '99.0', 0)")
        other.commit()
    answer = await post(service, "register", token, content=wire.encode(wire.Register, wire.Register(registrations=[])))
    assert (answer.status_code, answer.json()["error"]) == (503, "queue_unavailable")
    with pytest.raises(QueueUnavailable, match=r"the server is flow-agent .* newer one has migrated") as told:
        await client.announce(agent())
    assert "upgrade the server" in told.value.hint


def _plain(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("certificate_of", "key_of", "kind", "said", "way"),
    [
        (None, "key", InvalidInput, "there is no server.certificate", "--server-certificate"),
        ("certificate", None, FlowAgentError, "holds no private key, and there is no server.key", "--server-key"),
        ("certificate", "encrypted", FlowAgentError, "encrypted.pem is encrypted", "openssl pkey"),
        ("certificate", "missing", FlowAgentError, "server.key .*missing.pem cannot be read: No such file", "PEM"),
        ("missing", "key", FlowAgentError, "server.certificate .*missing.pem cannot be read: No such file", "PEM"),
        ("certificate", "certificate", FlowAgentError, "server.key .* holds no private key", "PEM"),
        ("key", "key", FlowAgentError, "server.certificate .* holds no certificate", "PEM"),
        ("certificate", "other", FlowAgentError, "is not that of the certificate in", "stands first"),
        ("broken", "key", FlowAgentError, "broken.pem and .* cannot be used: ", "openssl x509"),
    ],
)
async def test_a_certificate_that_cannot_be_used_is_told_by_file_and_way_out(
    tmp_path, certificate_of, key_of, kind, said, way
):
    files = dict(zip(("certificate", "key"), certificate(tmp_path, "localhost"), strict=True))
    files |= {name: tmp_path / f"{name}.pem" for name in ("encrypted", "missing", "broken", "other")}
    _plain("openssl", "pkey", "-in", files["key"], "-aes256", "-passout", "pass:word", "-out", files["encrypted"])
    _plain("openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", files["other"])
    files["broken"].write_text("-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n")
    with pytest.raises(kind, match=said) as refused:
        tls.context(certificate_of and files[certificate_of], key_of and files[key_of])
    assert way in refused.value.hint


async def test_a_certificate_may_hold_its_key(tmp_path):
    trusted, key = certificate(tmp_path, "localhost")
    both = tmp_path / "both.pem"
    both.write_bytes(trusted.read_bytes() + key.read_bytes())
    assert tls.context(both, None)


async def test_a_key_without_a_certificate_does_not_serve_in_clear_text(tmp_path):
    _, key = certificate(tmp_path, "localhost")
    async with memory.open_queue("memory:") as queue:
        with pytest.raises(InvalidInput, match="in clear text"):
            async with served(queue, Options(listen="127.0.0.1:0", tokens=None, key=key)):
                pass


@pytest.mark.parametrize("scopes", [("submit",), ("read",)])
async def test_who_waits_for_a_run_needs_no_more_than_to_read_it(service, scopes):
    """Waiting has lost claims resolved, once a second."""
    admin = await service.client("admin", name="admin")
    await admin.register([registration()])
    (run,) = await admin.submit([Submission(flow="add")])
    client = await service.client(*scopes)
    with pytest.raises(TimeoutError, match="is still queued"):
        await operations.wait_run(client, run.id, timeout=1.5)


async def test_more_connections_than_allowed_are_asked_to_come_again():
    async with (
        memory.open_queue("memory:") as queue,
        served(queue, Options(listen="127.0.0.1:0", tokens=None, connections=3)) as url,
        http.open_queue(url) as client,
        AsyncExitStack() as stack,
    ):
        host, _, port = url.removeprefix("http://").partition(":")
        for _ in range(3):
            await stack.enter_async_context(await anyio.connect_tcp(host, int(port)))
        await anyio.sleep(0.1)
        with pytest.raises(QueueUnavailable, match="503"):
            await client.agents()
        await stack.aclose()
        with anyio.fail_after(10):
            while True:
                try:
                    assert await client.agents() == []
                    break
                except QueueUnavailable:
                    await anyio.sleep(0.05)
