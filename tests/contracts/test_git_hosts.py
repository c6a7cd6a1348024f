"""GitHub, GitLab and Bitbucket, each on a server that plays its API over a real repository."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from flow_agent import Flow
from flow_agent.errors import FetchError, RegistrationError, SecretNotFound
from flow_agent.hosts import bitbucket, codecommit, http
from flow_agent.hosts.github import GitHubRepository
from flow_agent.model import Reason, Registration
from flow_agent.objects import aws
from flow_agent.objects.pool import clients
from flow_agent.registration import build_registrations
from flow_agent.storages import Bitbucket, CodeCommit, GitHub, GitLab
from flow_agent.testing.storage_contract import Secrets, StorageContract
from servers.git_hosts import FILES, TOKEN, Hosts, Work
from servers.github_description import description
from servers.github_documents import problem
from servers.proxy import FaultProxy

Make = Callable[..., Any]


def registered(storage: Any, name: str = "etl") -> Registration:
    (made,) = build_registrations([Flow(name, storage=storage)])
    return made


class HostTests(StorageContract):
    """``make`` gives a storage of the repository on its host, or on the one at ``url``."""

    path_name: ClassVar[str] = "path"

    @pytest.fixture(autouse=True)
    async def kept(self, anyio_backend: str) -> AsyncIterator[None]:
        """As in the agent: clients stay open."""
        async with clients():
            yield

    @pytest.fixture(autouse=True)
    def environment(self, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("THE_TOKEN", TOKEN)

    @pytest.fixture
    def secrets(self) -> Secrets:
        return Secrets({"THE_TOKEN": TOKEN, "WRONG": "do-not-show-this-value"})

    @pytest.fixture
    def world(self, tmp_path: Path) -> Path:
        folder = tmp_path / "world"
        folder.mkdir()
        return folder

    @pytest.fixture
    def make(self, git_hosts: Hosts) -> Make:
        raise AssertionError("each host has its own")

    @pytest.fixture(params=["file", "repository", "pinned folder"])
    def storage(self, request: pytest.FixtureRequest, make: Make) -> Any:
        return make(
            **{
                "file": {"path": "alone.py"},
                "repository": {"path": "flows/etl.py", "root": "."},
                "pinned folder": {"path": "flows/etl.py", "root": "flows", "pin": True},
            }[request.param]
        )

    @pytest.fixture
    def registration(self, storage: Any) -> Registration:
        return registered(storage)

    @pytest.fixture
    def missing(self, make: Make, registration: Registration) -> Registration:
        there = {"path": "there/is-none.py", "script": "is-none.py", "commit": None}
        return Registration(**{**vars(registration), "location": {**registration.location, **there}})

    async def alone(self, storage: Any, into: Path, secrets: Secrets, made: Registration | None = None) -> str:
        """What the flow ``alone`` of ``storage`` says it returns, and the folder is empty again."""
        found = await storage.fetch(made or registered(storage), into, secrets)
        assert len(found.revision) == 40
        file = into / "payload" / "alone.py"
        text = file.read_text().partition("return '")[2].partition("'")[0]
        file.unlink()
        return text

    # Refs

    @pytest.mark.parametrize(
        ("ref", "gives"), [(None, "first"), ("trunk", "first"), ("feature/x", "feature"), ("v1.0", "first")]
    )
    async def test_a_ref_is_what_it_says(
        self, ref: str | None, gives: str, make: Make, into: Path, secrets: Secrets
    ) -> None:
        assert await self.alone(make(path="alone.py", ref=ref), into, secrets) == gives

    async def test_a_commit_is_that_commit_whole_or_short(
        self, make: Make, into: Path, secrets: Secrets, work: Work
    ) -> None:
        """The older system took the newest of the default branch instead."""
        old = work.git("rev-parse", "HEAD")
        work.write(alone_py=FILES["alone.py"].replace("first", "second"))
        work.push()
        for ref, gives in ((None, "second"), (old, "first"), (old[:10], "first")):
            assert await self.alone(make(path="alone.py", ref=ref), into, secrets) == gives

    async def test_a_ref_that_is_on_no_first_page_is_found(
        self, make: Make, into: Path, secrets: Secrets, work: Work
    ) -> None:
        """The older system read the first page of the branches of Bitbucket."""
        for number in range(150):
            work.git("branch", f"a-{number}")
        work.git("push", "-q", "origin", "--all")
        assert await self.alone(make(path="alone.py", ref="feature/x"), into, secrets) == "feature"

    async def test_the_default_branch_is_the_repositorys_own(
        self, make: Make, into: Path, secrets: Secrets, git_hosts: Hosts
    ) -> None:
        """The older system asked GitLab and Bitbucket for master."""
        assert await self.alone(make(path="alone.py"), into, secrets) == "first"
        assert not any("master" in path for path in git_hosts.asked)

    async def test_a_ref_that_is_nowhere_is_said(self, make: Make, into: Path, secrets: Secrets) -> None:
        """The older system raised a bare KeyError for a branch."""
        storage = make(path="alone.py", ref="no-such-branch")
        with pytest.raises(FetchError, match="no-such-branch") as caught:
            await storage.fetch(registered(storage), into, secrets)
        assert (caught.value.reason, caught.value.transient) == (Reason.FLOW_NOT_FOUND, False)

    async def test_a_commit_that_is_nowhere_is_not_found(self, make: Make, into: Path, secrets: Secrets) -> None:
        """The older system loaded the default branch instead."""
        storage = make(path="alone.py", ref="0" * 40)
        with pytest.raises(FetchError) as caught:
            await storage.fetch(registered(storage), into, secrets)
        assert (caught.value.reason, caught.value.transient) == (Reason.FLOW_NOT_FOUND, False), caught.value
        assert "000000000000" in str(caught.value)
        assert list(into.rglob("*.py")) == []

    async def test_a_repository_that_is_not_there_is_said(self, make: Make, into: Path, secrets: Secrets) -> None:
        storage = make(path="alone.py")
        storage.repo = re.sub(r"(name|repository)(?=(\.git)?$)", "no-such-one", storage.repo)
        with pytest.raises(FetchError, match="no-such-one") as caught:
            await storage.fetch(registered(storage), into, secrets)
        assert (caught.value.reason, caught.value.transient) == (Reason.FLOW_NOT_FOUND, False), caught.value
        assert caught.value.hint

    async def test_a_push_in_the_middle_does_not_mix_two_commits(
        self, make: Make, into: Path, secrets: Secrets, work: Work
    ) -> None:
        """What is read is read at the commit that the ref led to first."""
        async with make(path="alone.py").connect(secrets) as repository:
            first = await repository.commit(None)
            work.write(alone_py=FILES["alone.py"].replace("first", "second"))
            second = work.push()
            await repository.file(first.name, "alone.py", into / "alone.py")
            assert (await repository.commit(None, first)).name == second
        assert (into / "alone.py").read_text() == FILES["alone.py"]

    # Following and pinning

    async def test_an_edit_is_the_next_run_unless_it_is_pinned(
        self, make: Make, into: Path, secrets: Secrets, work: Work
    ) -> None:
        follows, stays = make(path="alone.py"), make(path="alone.py", pin=True)
        one, two = registered(follows), registered(stays)
        work.write(alone_py=FILES["alone.py"].replace("first", "second"))
        commit = work.push()
        assert await self.alone(follows, into, secrets, one) == "second"
        assert await self.alone(stays, into, secrets, two) == "first"
        found = await follows.fetch(one, into, secrets)
        assert found.revision == commit
        assert two.location["commit"] != commit

    async def test_pinning_what_is_not_there_is_refused(self, make: Make) -> None:
        with pytest.raises(RegistrationError, match=r"nope\.py"):
            registered(make(path="nope.py", pin=True))
        with pytest.raises(RegistrationError, match=r"nope\.py"):
            registered(make(path="flows/nope.py", root="flows", pin=True))

    async def test_registering_what_follows_asks_nobody(self, make: Make, git_hosts: Hosts) -> None:
        registered(make(path="alone.py"))
        assert git_hosts.asked == []

    # Errors

    @pytest.mark.parametrize(
        ("status", "headers", "transient", "after"),
        [
            (503, {}, True, None),
            (502, {"Retry-After": "7"}, True, 7.0),
            (429, {"Retry-After": "9"}, True, 9.0),
            (401, {}, False, None),
            (403, {}, False, None),
            (400, {}, False, None),
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
        git_hosts: Hosts,
    ) -> None:
        storage = make(path="alone.py")
        git_hosts.replies = [(status, headers, {"message": "because"})]
        with pytest.raises(FetchError, match=str(status)) as caught:
            await storage.fetch(registered(storage), into, secrets)
        assert (caught.value.transient, caught.value.retry_after) == (transient, after)

    @pytest.mark.parametrize("fault", ["refused", "reset", "cut", "hang"])
    async def test_what_may_pass_is_transient(
        self, fault: str, make: Make, into: Path, secrets: Secrets, git_hosts: Hosts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http, "ANSWER_WITHIN", 1.0)
        monkeypatch.setattr(codecommit, "ANSWER_WITHIN", 1.0)
        with FaultProxy(git_hosts.port) as proxy:
            storage = make(url=proxy.url, path="alone.py")
            match fault:
                case "refused":
                    proxy.refuse()
                case "reset":
                    proxy.reset = True
                case "cut":
                    proxy.cut = 60
                case "hang":
                    proxy.hang = "head"
            began = time.monotonic()
            with pytest.raises(FetchError) as caught:
                await storage.fetch(registered(storage), into, secrets)
            assert caught.value.transient, caught.value
            assert time.monotonic() - began < 10

    async def test_a_folder_where_a_file_should_be_is_said(self, make: Make, into: Path, secrets: Secrets) -> None:
        storage = make(path="flows")
        with pytest.raises(FetchError) as caught:
            await storage.fetch(registered(storage), into, secrets)
        assert not caught.value.transient

    async def test_a_link_out_of_the_repository_is_refused(
        self, make: Make, into: Path, secrets: Secrets, work: Work
    ) -> None:
        (work.folder / "flows" / "out").symlink_to("/etc/passwd")
        work.push()
        storage = make(path="flows/etl.py", root="flows")
        with pytest.raises(FetchError, match="leads out"):
            await storage.fetch(registered(storage), into, secrets)


class TokenTests(HostTests):
    """Hosts where ``access_token_secret`` names the credentials; ``sent`` is how ``TOKEN`` is sent."""

    sent: ClassVar[str] = f"Bearer {TOKEN}"

    @pytest.mark.parametrize("root", [None, "flows"])
    async def test_a_token_is_sent_with_each_request_and_stands_in_no_address(
        self, root: str | None, make: Make, into: Path, secrets: Secrets, git_hosts: Hosts
    ) -> None:
        git_hosts.private = True
        storage = make(path="flows/etl.py", root=root, access_token_secret="THE_TOKEN")
        assert await storage.fetch(registered(storage), into, secrets) is not None
        # Archives of GitHub lie on another host, which gets none.
        assert set(git_hosts.tokens) - {None} == {self.sent}
        assert [path for path, token in zip(git_hosts.asked, git_hosts.tokens, strict=True) if token is None] == [
            path for path in git_hosts.asked if path.startswith("/codeload/")
        ]
        assert not any(TOKEN in path for path in git_hosts.asked)

    async def test_a_named_token_goes_before_the_default_one(
        self, make: Make, into: Path, git_hosts: Hosts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        defaults = ("GITHUB_ACCESS_TOKEN", "GITLAB_ACCESS_TOKEN", "BITBUCKET_ACCESS_TOKEN")
        users = ("BITBUCKET_CLOUD_USERNAME", "BITBUCKET_CLOUD_APP_PASSWORD")
        secrets = Secrets({"THE_TOKEN": TOKEN, **dict.fromkeys((*defaults, *users), "the-wrong-one")})
        secrets.hosts = frozenset({"127.0.0.1"})
        assert await self.alone(make(path="alone.py", access_token_secret="THE_TOKEN"), into, secrets) == "first"
        assert set(git_hosts.tokens) == {self.sent}

    async def test_without_a_token_nothing_is_sent_in_its_place(self, make: Make, into: Path, git_hosts: Hosts) -> None:
        """The older system sent an empty one."""
        assert await self.alone(make(path="alone.py"), into, Secrets({})) == "first"
        assert set(git_hosts.tokens) == {None}

    async def test_a_named_token_is_sent_and_stands_nowhere(
        self, make: Make, into: Path, secrets: Secrets, git_hosts: Hosts
    ) -> None:
        git_hosts.private = True
        storage = make(path="alone.py", access_token_secret="THE_TOKEN")
        made = registered(storage)
        assert await self.alone(storage, into, secrets, made) == "first"
        assert TOKEN not in repr(made)
        assert not any(TOKEN in path for path in git_hosts.asked)
        assert all(token for token in git_hosts.tokens)

    async def test_a_private_repository_without_a_token_is_not_found(
        self, make: Make, into: Path, secrets: Secrets, git_hosts: Hosts
    ) -> None:
        git_hosts.private = True
        storage = make(path="alone.py")
        with pytest.raises(FetchError) as caught:
            await storage.fetch(registered(storage), into, secrets)
        assert "private" in str(caught.value.hint)

    async def test_a_wrong_token_is_said_and_not_shown(self, make: Make, into: Path, secrets: Secrets) -> None:
        storage = make(path="alone.py", access_token_secret="WRONG")
        with pytest.raises(FetchError, match="401") as caught:
            await storage.fetch(registered(storage), into, secrets)
        assert not caught.value.transient
        assert caught.value.hint
        assert "do-not-show" not in f"{caught.value}{caught.value.hint}"

    async def test_a_token_that_is_nowhere_is_said(self, make: Make, into: Path) -> None:
        storage = make(path="alone.py", access_token_secret="NOWHERE")
        with pytest.raises(SecretNotFound, match="NOWHERE"):
            await storage.fetch(registered(storage), into, Secrets({}))

    async def test_a_default_token_does_not_go_to_another_host(self, make: Make, into: Path, git_hosts: Hosts) -> None:
        """Who registers a flow could name a host that collects it."""
        names = ("GITHUB_ACCESS_TOKEN", "GITLAB_ACCESS_TOKEN", "BITBUCKET_ACCESS_TOKEN")
        defaults = Secrets(dict.fromkeys(names, TOKEN))
        storage = make(path="alone.py")
        made = registered(storage)
        assert await self.alone(storage, into, defaults, made) == "first"
        sent = [token for token in git_hosts.tokens if token]
        assert sent == [] or getattr(storage, "workspace", None)
        defaults.hosts = frozenset({"127.0.0.1"})
        git_hosts.tokens.clear()
        assert await self.alone(storage, into, defaults, made) == "first"
        assert all(token and TOKEN in token for token in git_hosts.tokens)


class TestGitHub(TokenTests):
    @pytest.fixture
    def make(self, git_hosts: Hosts) -> Make:
        def make(*, url: str | None = None, **given: Any) -> GitHub:
            return GitHub("owner/name", base_url=f"{url or git_hosts.url}/github", **given)

        return make

    async def test_an_unchanged_repository_costs_one_free_request(
        self, make: Make, into: Path, secrets: Secrets, git_hosts: Hosts
    ) -> None:
        storage = make(path="alone.py")
        made = registered(storage)
        found = await storage.fetch(made, into, secrets)
        git_hosts.asked.clear()
        assert await storage.fetch(made, into, secrets, known=found.validator) is None
        assert len(git_hosts.asked) == 1

    @pytest.mark.parametrize("status", [403, 429])
    @pytest.mark.parametrize("how", ["primary", "secondary", "secondary without a time"])
    async def test_a_rate_limit_is_waited_for(
        self, how: str, status: int, make: Make, into: Path, secrets: Secrets, git_hosts: Hosts
    ) -> None:
        headers, least, most = {
            "primary": ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(time.time()) + 30)}, 25, 31),
            "secondary": ({"Retry-After": "45"}, 45, 45),
            "secondary without a time": ({"X-RateLimit-Remaining": "59"}, 60, 60),
        }[how]
        says = "API rate limit exceeded" if how == "primary" else "You have exceeded a secondary rate limit"
        storage = make(path="alone.py")
        git_hosts.replies = [(status, headers, problem(status, says))]
        with pytest.raises(FetchError, match="rate limit is reached") as caught:
            await storage.fetch(registered(storage), into, secrets)
        assert caught.value.transient
        assert least <= (caught.value.retry_after or 0) <= most
        assert "GITHUB_ACCESS_TOKEN" in str(caught.value.hint)

    @pytest.mark.parametrize("name", ["flows/status", "flows/x/comments", "flows/check-runs"])
    async def test_a_branch_is_not_taken_for_what_belongs_to_a_commit(
        self, name: str, make: Make, into: Path, secrets: Secrets, work: Work
    ) -> None:
        """``commits/flows/status`` would be the status of ``flows``."""
        work.git("push", "-q", "origin", f"feature/x:refs/heads/{name}")
        storage = make(path="alone.py", ref=name)
        made = registered(storage)
        found = await storage.fetch(made, into, secrets)
        assert (into / "payload" / "alone.py").read_text().count("feature") == 1
        assert await storage.fetch(made, into, secrets, known=found.validator) is None
        for ref in (f"nowhere/{name}", "nowhere/status"):
            with pytest.raises(FetchError, match=ref) as caught:
                await make(path="alone.py", ref=ref).fetch(registered(make(path="alone.py", ref=ref)), into, secrets)
            assert not caught.value.transient

    async def test_an_empty_repository_is_said(self, make: Make, into: Path, secrets: Secrets, work: Work) -> None:
        for name in ("trunk", "feature/x"):
            subprocess.run(["git", "-C", work.bare, "update-ref", "-d", f"refs/heads/{name}"], check=True)
        storage = make(path="alone.py")
        with pytest.raises(FetchError, match="Git Repository is empty") as caught:
            await storage.fetch(registered(storage), into, secrets)
        assert not caught.value.transient

    async def test_a_link_to_a_file_is_that_file_and_one_that_leads_out_is_said(
        self, make: Make, into: Path, secrets: Secrets, work: Work
    ) -> None:
        (work.folder / "link.py").symlink_to("alone.py")
        (work.folder / "out.py").symlink_to("/etc/passwd")
        work.push()
        await make(path="link.py").fetch(registered(make(path="link.py")), into, secrets)
        assert (into / "payload" / "link.py").read_text() == FILES["alone.py"]
        (into / "payload" / "link.py").unlink()
        with pytest.raises(FetchError, match="expected a file") as caught:
            await make(path="out.py").fetch(registered(make(path="out.py")), into, secrets)
        assert not caught.value.transient

    async def test_each_operation_that_is_used_is_held_against_githubs_description(
        self, make: Make, into: Path, secrets: Secrets, git_hosts: Hosts, work: Work
    ) -> None:
        """By the server, when a test ends; here is shown that it sees them all."""
        work.git("push", "-q", "origin", "feature/x:refs/heads/flows/status")
        await make(path="alone.py", ref="flows/status").fetch(
            registered(make(path="alone.py", ref="flows/status")), into, secrets
        )
        folder = make(path="flows/etl.py", root="flows")
        await folder.fetch(registered(folder), into, secrets)
        async with http.client() as client:
            await GitHubRepository(client, f"{git_hosts.url}/github", "owner/name", None, "none").check()
        assert {description().name(exchange) for exchange in git_hosts.github} == {
            "repos/get",
            "repos/get-commit",
            "repos/list-commits",
            "repos/get-content",
            "repos/download-tarball-archive",
        }


class TestGitLab(TokenTests):
    sent = TOKEN  # in PRIVATE-TOKEN

    @pytest.fixture
    def make(self, git_hosts: Hosts) -> Make:
        def make(*, url: str | None = None, **given: Any) -> GitLab:
            return GitLab("group/sub/name", host=url or git_hosts.url, **given)

        return make

    async def test_a_project_has_a_number_too(self, into: Path, secrets: Secrets, git_hosts: Hosts) -> None:
        assert await self.alone(GitLab(42, host=git_hosts.url, path="alone.py"), into, secrets) == "first"


class TestBitbucketCloud(TokenTests):
    @pytest.fixture
    def make(self, git_hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> Make:
        def make(*, url: str | None = None, **given: Any) -> Bitbucket:
            monkeypatch.setattr(bitbucket, "CLOUD", url or git_hosts.url)
            monkeypatch.setattr(bitbucket, "CLOUD_WEB", url or git_hosts.url)
            return Bitbucket(repo="name", workspace="team", **given)

        return make

    @pytest.mark.parametrize("named", [True, False])
    async def test_a_user_with_an_api_token(self, named: bool, make: Make, into: Path, git_hosts: Hosts) -> None:
        git_hosts.private = True
        names = ("A", "B") if named else ("BITBUCKET_CLOUD_USERNAME", "BITBUCKET_CLOUD_APP_PASSWORD")
        given = {"cloud_username_secret": "A", "cloud_app_password_secret": "B"} if named else {}
        secrets = Secrets({names[0]: "team@example.org", names[1]: "api-token\n"})
        assert await self.alone(make(path="alone.py", **given), into, secrets) == "first"
        assert all(token and token.startswith("Basic ") for token in git_hosts.tokens)

    async def test_a_project_beside_the_workspace_changes_nothing(
        self, make: Make, into: Path, git_hosts: Hosts
    ) -> None:
        """The older system wanted one, and made nothing of it."""
        assert await self.alone(make(path="alone.py", project="PRJ"), into, Secrets({})) == "first"
        assert not any("PRJ" in path for path in git_hosts.asked)

    async def test_a_whole_commit_is_not_looked_up(
        self, make: Make, into: Path, secrets: Secrets, git_hosts: Hosts, work: Work
    ) -> None:
        commit = work.git("rev-parse", "HEAD")
        assert await self.alone(make(path="alone.py", ref=commit), into, secrets) == "first"
        assert git_hosts.asked == [f"/2.0/repositories/team/name/src/{commit}/alone.py"]

    async def test_a_branch_goes_before_a_tag_of_its_name(
        self, make: Make, into: Path, secrets: Secrets, work: Work
    ) -> None:
        work.git("tag", "both", "trunk")
        work.git("branch", "both", "feature/x")
        work.git("push", "-q", "origin", "refs/tags/both", "refs/heads/both")
        assert await self.alone(make(path="alone.py", ref="both"), into, secrets) == "feature"


class TestBitbucketServer(TokenTests):
    @pytest.fixture
    def make(self, git_hosts: Hosts) -> Make:
        def make(*, url: str | None = None, **given: Any) -> Bitbucket:
            return Bitbucket(project="PRJ", repo="name", host=url or git_hosts.url, **given)

        return make


class TestCodeCommit(HostTests):
    @pytest.fixture
    def make(self, git_hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> Make:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        aws._sessions.clear()

        def make(*, url: str | None = None, ref: str | None = None, **given: Any) -> CodeCommit:
            options = {"region_name": "us-east-1", "endpoint_url": url or git_hosts.url}
            return CodeCommit("name", commit=ref, client_options=options, **given)

        return make

    async def test_a_commit_is_that_commit_whole_or_short(
        self, make: Make, into: Path, secrets: Secrets, work: Work
    ) -> None:
        """CodeCommit knows whole names only."""
        old = work.git("rev-parse", "HEAD")
        work.write(alone_py=FILES["alone.py"].replace("first", "second"))
        work.push()
        for ref, gives in ((None, "second"), (old, "first"), ("refs/heads/trunk", "second")):
            assert await self.alone(make(path="alone.py", ref=ref), into, secrets) == gives

    @pytest.mark.parametrize("named", [None, "MINE"])
    async def test_keys_of_a_secret_go_before_what_boto3_finds(
        self, named: str | None, make: Make, into: Path, git_hosts: Hosts
    ) -> None:
        def keys(name: str) -> str:
            return json.dumps({"ACCESS_KEY": name, "SECRET_ACCESS_KEY": "x" * 40, "SESSION_TOKEN": f"of-{name}"})

        secrets = Secrets({"AWS_CREDENTIALS": keys("BY-DEFAULT"), "MINE": keys("BY-NAME")})
        storage = make(path="alone.py", credentials_secret=named)
        assert await self.alone(storage, into, secrets) == "first"
        used = "BY-NAME" if named else "BY-DEFAULT"
        assert git_hosts.tokens
        assert all(f"Credential={used}/" in str(token) for token in git_hosts.tokens)
        assert set(git_hosts.sessions) == {f"of-{used}"}

    async def test_keys_in_the_options_are_refused(self) -> None:
        """They would stand in the registration; the older system took them."""
        with pytest.raises(ValueError, match="credentials_secret"):
            CodeCommit("name", client_options={"aws_access_key_id": "x"})

    async def test_a_link_out_of_the_repository_is_refused(
        self, make: Make, into: Path, secrets: Secrets, work: Work
    ) -> None:
        """Links are listed apart from files, and left out."""
        (work.folder / "flows" / "out").symlink_to("/etc/passwd")
        work.push()
        await make(path="flows/etl.py", root="flows").fetch(
            registered(make(path="flows/etl.py", root="flows")), into, secrets
        )
        assert not (into / "payload" / "out").exists()


# What does not fit


@pytest.mark.parametrize(
    ("kind", "given", "says"),
    [
        (GitHub, {"repo": "name"}, "owner/name"),
        (GitHub, {"repo": "../name"}, "owner/name"),
        (GitHub, {"repo": "a/b", "path": "../x.py"}, "below the top"),
        (GitHub, {"repo": "a/b", "path": "-x.py"}, "below the top"),
        (GitHub, {"repo": "a/b", "path": "x.py", "ref": "--upload-pack=x"}, "allows as no name"),
        (GitHub, {"repo": "a/b", "path": "x.py", "ref": "a..b"}, "allows as no name"),
        (GitHub, {"repo": "a/b", "path": "x.py", "ref": ""}, "allows as no name"),
        (GitHub, {"repo": "a/b", "path": "x.py", "root": "flows"}, "not below root"),
        (GitHub, {"repo": "a/b", "base_url": "https://me:token@github.example.org"}, "holds credentials"),
        (GitHub, {"repo": "a/b", "stored_as_script": False}, "holds scripts"),
        (GitLab, {"repo": "name"}, "group/name"),
        (GitLab, {"repo": "a/b", "host": "ftp://x"}, "expected an address"),
        (Bitbucket, {"project": "P", "repo": "r"}, "either workspace"),
        (Bitbucket, {"repo": "r", "workspace": "w", "host": "https://x"}, "either workspace"),
        (Bitbucket, {"repo": "r", "host": "https://x"}, "give project"),
        (Bitbucket, {"repo": "r", "workspace": "w", "cloud_username_secret": "A"}, "go together"),
    ],
)
def test_what_does_not_fit_is_said(kind: Any, given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        kind(**given)


def test_no_file_is_said_when_it_is_registered(own_home: Path) -> None:
    with pytest.raises(RegistrationError, match="names no file"):
        registered(GitHub("a/b"))
