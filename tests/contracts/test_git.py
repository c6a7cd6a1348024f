"""Git, on git http-backend and on sshd."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from command import unless_all_is_required
from contracts.test_git_hosts import HostTests, registered
from flow_agent.errors import FetchError
from flow_agent.storages import Git
from flow_agent.testing.storage_contract import Secrets, files_below
from servers.git_hosts import FILES, Work
from servers.git_servers import GitHTTP, GitSSH
from servers.proxy import FaultProxy

Make = Callable[..., Git]
REFS = {"trunk": "branch_name", "feature/x": "branch_name", "no-such-branch": "branch_name", "v1.0": "tag"}


def git_storage(repo: str, *, path: str, ref: str | None = None, **given: Any) -> Git:
    refs = {REFS.get(ref, "commit"): ref} if ref is not None else {}
    return Git(path, repo, **refs, **given)


class GitTests(HostTests):
    async def test_the_default_branch_is_the_repositorys_own(self, make: Make, into: Path, secrets: Secrets) -> None:
        assert await self.alone(make(path="alone.py"), into, secrets) == "first"

    async def test_registering_what_follows_asks_nobody(self, make: Make) -> None:
        registered(Git("alone.py", "https://no-such-host.invalid/owner/name.git"))

    async def test_a_link_out_of_the_repository_is_refused(
        self, make: Make, into: Path, secrets: Secrets, work: Work
    ) -> None:
        (work.folder / "flows" / "out").symlink_to("/etc/passwd")
        work.push()
        storage = make(path="flows/etl.py", root="flows")
        with pytest.raises(FetchError, match="is a link out"):
            await storage.fetch(registered(storage), into, secrets)

    @pytest.mark.parametrize("root", [None, "out"])
    async def test_a_path_behind_a_link_out_of_the_repository_is_not_there(
        self, root: str | None, make: Make, into: Path, secrets: Secrets, work: Work, tmp_path: Path
    ) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "private.py").write_text("of somebody else")
        (work.folder / "out").symlink_to(outside)
        work.push()
        storage = make(path="out/private.py", root=root)
        with pytest.raises(FetchError, match=r"there is no such (file|folder)") as caught:
            await storage.fetch(registered(storage), into, secrets)
        assert not caught.value.transient
        assert files_below(into) == {}
        assert (outside / "private.py").read_text() == "of somebody else"

    async def test_a_path_behind_a_link_in_the_repository_is_what_it_leads_to(
        self, make: Make, into: Path, secrets: Secrets, work: Work
    ) -> None:
        (work.folder / "current").symlink_to("flows")
        work.push()
        for given in ({"path": "current/etl.py"}, {"path": "current/etl.py", "root": "current"}):
            storage = make(**given)
            await storage.fetch(registered(storage), into, secrets)
            assert (into / "payload/etl.py").read_text() == FILES["flows/etl.py"]
        assert (into / "payload/lib/steps.py").is_file()

    async def test_submodules_come_along(self, make: Make, into: Path, secrets: Secrets, work: Work) -> None:
        other = work.bare.parent / "library.git"
        subprocess.run(["git", "clone", "-q", "--bare", work.bare, other], check=True)
        work.git("-c", "protocol.file.allow=always", "submodule", "add", "-q", "../library.git", "flows/library")
        work.push("submodule")
        await make(path="flows/etl.py", root="flows").fetch(
            registered(make(path="flows/etl.py", root="flows")), into, secrets
        )
        assert "first" in (into / "payload/library/alone.py").read_text()
        assert list(into.rglob(".git")) == []

    async def test_a_branch_and_a_tag_of_one_name_are_told_apart(
        self, make: Make, into: Path, secrets: Secrets, work: Work
    ) -> None:
        work.git("tag", "both", "trunk")
        work.git("branch", "both", "feature/x")
        work.git("push", "-q", "origin", "refs/tags/both", "refs/heads/both")
        for given, gives in (({"tag": "both"}, "first"), ({"branch_name": "both"}, "feature")):
            assert await self.alone(make(path="alone.py", **given), into, secrets) == gives
        storage = make(path="alone.py", branch_name="v1.0")
        with pytest.raises(FetchError, match=r"v1\.0: there is no such branch"):
            await storage.fetch(registered(storage), into, secrets)

    @pytest.mark.parametrize(("flow_name", "asked"), [(None, "etl"), ("other", "other")])
    async def test_the_flow_of_the_registered_name_is_taken_unless_it_is_named(
        self, flow_name: str | None, asked: str, make: Make, into: Path, secrets: Secrets
    ) -> None:
        """The older system took the first one of the file."""
        storage = make(path="alone.py", flow_name=flow_name)
        found = await storage.fetch(registered(storage, "etl"), into, secrets)
        assert found.payload["flow"] == asked

    async def test_nothing_of_git_is_left_behind(
        self, make: Make, into: Path, secrets: Secrets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place = tmp_path / "temporary"
        place.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(place))
        await make(path="flows/etl.py", root=".").fetch(registered(make(path="flows/etl.py", root=".")), into, secrets)
        assert list(place.iterdir()) == []
        assert [path.name for path in into.iterdir()] == ["payload"]
        assert not [path for path in into.rglob("*") if "git" in path.name]
        await make(path="alone.py").fetch(registered(make(path="alone.py")), into, secrets)
        assert [path.name for path in into.rglob("*")] == ["payload", "alone.py"]

    test_each_answer_has_its_meaning = None  # git has no statuses of its own


class TestHTTP(GitTests):
    @pytest.fixture
    def make(self, git_http: GitHTTP) -> Make:
        def make(*, url: str | None = None, **given: Any) -> Git:
            return git_storage(f"{url or git_http.url}/repository.git", **given)

        return make

    @pytest.mark.parametrize(
        ("options", "login"),
        [
            ({"git_token_username": "oauth2"}, "oauth2:good-token-1234"),
            ({}, "repository.git:good-token-1234"),
            ({"format_access_token": False}, "good-token-1234:"),
        ],
    )
    async def test_a_token_is_sent_as_a_header_and_stands_nowhere(
        self, options: dict[str, Any], login: str, make: Make, into: Path, secrets: Secrets, git_http: GitHTTP
    ) -> None:
        git_http.login = login
        storage = make(path="alone.py", git_token_secret_name="THE_TOKEN", **options)
        made = registered(storage)
        assert await self.alone(storage, into, secrets, made) == "first"
        assert "good-token" not in repr(made)

    @pytest.mark.parametrize("how", ["token", "address"])
    async def test_a_token_stands_in_no_argument_and_no_configuration(
        self,
        how: str,
        make: Make,
        into: Path,
        tmp_path: Path,
        git_http: GitHTTP,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The older system put it into the address, which git writes down."""
        seen = tmp_path / "seen"
        program = tmp_path / "bin" / "git"
        program.parent.mkdir()
        real = subprocess.run(["which", "git"], check=True, capture_output=True, text=True).stdout.strip()
        # The last command sees what those before it wrote.
        program.write_text(f'#!/bin/sh\necho "$@" >> {seen}\ncat .git/config >> {seen} 2>/dev/null\nexec {real} "$@"\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        address = f"{git_http.url}/repository.git".replace("://", "://me:good-token-1234@")
        secrets = Secrets({"THE_TOKEN": "good-token-1234", "ADDRESS": address})
        git_http.login = "me:good-token-1234"
        storage = {
            "token": make(path="alone.py", git_token_secret_name="THE_TOKEN", git_token_username="me"),
            "address": Git("alone.py", git_clone_url_secret_name="ADDRESS"),
        }[how]
        assert await self.alone(storage, into, secrets) == "first"
        text = seen.read_text()
        assert "checkout" in text
        assert f"url = {git_http.url}/repository.git" in text
        assert "good-token" not in text

    async def test_an_address_with_a_login_in_a_secret(self, into: Path, git_http: GitHTTP) -> None:
        git_http.login = "me:pass word"
        address = f"{git_http.url}/repository.git".replace("://", "://me:pass%20word@")
        storage = Git("alone.py", git_clone_url_secret_name="ADDRESS")
        assert await self.alone(storage, into, Secrets({"ADDRESS": f"{address}\n"})) == "first"

    @pytest.mark.parametrize("given", [{"path": "flows/etl.py", "root": "flows"}, {"path": "flows/large.py"}])
    async def test_what_lies_in_lfs_comes_as_its_content(
        self, given: dict[str, str], make: Make, into: Path, secrets: Secrets, git_http: GitHTTP, work: Work
    ) -> None:
        if shutil.which("git-lfs") is None:
            unless_all_is_required("there is no git-lfs here")
        content = b"# a large file\n" * 1000
        oid = hashlib.sha256(content).hexdigest()
        git_http.lfs[oid] = content
        git_http.login = "me:good-token-1234"
        (work.folder / ".gitattributes").write_text("large.py filter=lfs diff=lfs merge=lfs -text\n")
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n"
        (work.folder / "flows" / "large.py").write_text(pointer)
        work.push("large")
        storage = make(**given, git_token_secret_name="THE_TOKEN", git_token_username="me")
        await storage.fetch(registered(storage), into, secrets)
        assert (into / "payload" / "large.py").read_bytes() == content

    async def test_a_private_repository_without_a_token_is_said(
        self, make: Make, into: Path, secrets: Secrets, git_http: GitHTTP
    ) -> None:
        git_http.login = "me:x"
        storage = make(path="alone.py")
        with pytest.raises(FetchError) as caught:
            await storage.fetch(registered(storage), into, secrets)
        assert not caught.value.transient
        assert "git_token_secret_name" in str(caught.value.hint)

    @pytest.mark.parametrize(("status", "transient"), [(503, True), (500, True), (404, False), (403, False)])
    async def test_each_status_has_its_meaning(
        self, status: int, transient: bool, make: Make, into: Path, secrets: Secrets, git_http: GitHTTP
    ) -> None:
        storage = make(path="alone.py")
        git_http.fail = status
        with pytest.raises(FetchError) as caught:
            await storage.fetch(registered(storage), into, secrets)
        assert caught.value.transient is transient, caught.value

    @pytest.mark.parametrize("fault", ["refused", "reset", "cut", "hang"])
    async def test_what_may_pass_is_transient(
        self, fault: str, make: Make, into: Path, secrets: Secrets, git_http: GitHTTP, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("flow_agent.hosts.git.ASK_WITHIN", 1.5)
        with FaultProxy(git_http.port) as proxy:
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
            with pytest.raises(FetchError) as caught:
                await storage.fetch(registered(storage), into, secrets)
            assert caught.value.transient, caught.value


class TestSSH(GitTests):
    @pytest.fixture
    def make(self, git_ssh: GitSSH, monkeypatch: pytest.MonkeyPatch) -> Make:
        monkeypatch.setenv("GIT_SSH_COMMAND", git_ssh.command)

        def make(*, url: str | None = None, **given: Any) -> Git:
            return git_storage(url or git_ssh.url, **given)

        return make

    test_what_may_pass_is_transient = None

    @pytest.fixture(params=[{"path": "alone.py"}, {"path": "flows/etl.py", "root": "flows", "pin": True}])
    def storage(self, request: pytest.FixtureRequest, make: Make) -> Git:
        """Fewer than over HTTP: what differs is the way there."""
        return make(**request.param)

    async def test_a_host_that_is_not_known_is_refused(
        self, make: Make, into: Path, secrets: Secrets, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GIT_SSH_COMMAND", "ssh -oBatchMode=yes -oUserKnownHostsFile=/dev/null")
        storage = make(path="alone.py")
        with pytest.raises(FetchError) as caught:
            await storage.fetch(registered(storage), into, secrets)
        assert not caught.value.transient
        assert "known_hosts" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "either repo"),
        ({"repo": "a/b", "git_clone_url_secret_name": "X"}, "either repo"),
        ({"repo": "a/b", "branch_name": "x", "commit": "y"}, "expected one of"),
        ({"repo": "https://me:token@example.org/a/b"}, "holds credentials"),
        ({"repo": "https://token@example.org/a/b"}, "holds credentials"),
        ({"repo": "ext::sh -c evil"}, "expected 'owner/name'"),
        ({"repo": "--upload-pack=evil"}, "expected 'owner/name'"),
        ({"repo": "file:///etc"}, "expected 'owner/name'"),
        ({"repo": "a/b", "repo_host": "-oProxyCommand=evil"}, "name of a host"),
        ({"repo": "a/b", "branch_name": "--upload-pack=evil"}, "allows as no name"),
        ({"repo": "a/b", "clone_depth": 0}, "clone_depth"),
    ],
)
def test_what_does_not_fit_is_said(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Git("flow.py", **given)


def test_addresses_are_those_of_the_older_system() -> None:
    assert Git("f.py", "o/r")._address() == "https://github.com/o/r.git"
    assert Git("f.py", "o/r", use_ssh=True)._address() == "git@github.com:o/r.git"
    assert Git("f.py", "o/r", "git.example.org:8443")._address() == "https://git.example.org:8443/o/r.git"
