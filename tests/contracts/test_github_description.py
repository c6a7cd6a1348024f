"""What is not as GitHub describes its API is found, or the tests of GitHub would hold for nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import httpx
import pytest

from flow_agent.hosts.github import OF_A_COMMIT
from servers.github_description import VERSION, Description, Exchange, description
from servers.github_documents import problem, repository

API, WEB = "http://api.example.org", "http://example.org"
SHA = "application/vnd.github.sha"


@pytest.fixture
def described() -> Description:
    return description()


def asked(**given: str) -> httpx.Headers:
    return httpx.Headers({"Accept": SHA, "X-GitHub-Api-Version": VERSION, "User-Agent": "flow-agent"} | given)


COMMIT = Exchange(
    method="GET",
    target="/repos/owner/name/commits/feature/x",
    headers=asked(),
    status=200,
    answered=httpx.Headers({"Content-Type": f"{SHA}; charset=utf-8"}),
    body=b"0" * 40,
)
JSON = httpx.Headers({"Content-Type": "application/json; charset=utf-8"})


def answered(status: int, document: Any) -> dict[str, Any]:
    return {"status": status, "answered": JSON, "body": json.dumps(document).encode()}


def test_what_is_as_described_is_taken(described: Description) -> None:
    general = {"headers": asked(Accept="application/vnd.github+json")}
    whole = replace(COMMIT, target="/repos/owner/name", **general, **answered(200, repository(API, WEB, False)))
    raw = "application/vnd.github.raw+json"
    file = {"headers": asked(Accept=raw), "answered": httpx.Headers({"Content-Type": raw})}
    for exchange in (
        COMMIT,
        whole,
        replace(COMMIT, target="/repos/owner/name/contents/flows/etl.py?ref=trunk", **file),
        replace(COMMIT, status=304, body=b""),
        replace(COMMIT, **answered(409, problem(409, "Git Repository is empty."))),
        replace(COMMIT, **answered(429, problem(429, "You have exceeded a secondary rate limit"))),
    ):
        assert described.wrong(exchange) == []


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"target": "/repos/owner/name/commit/trunk"}, "no such operation"),
        ({"target": "/repos/owner"}, "no such operation"),
        ({"method": "POST"}, "no such operation"),
        ({"target": "/repos/owner/name/commits/trunk?stats=false"}, "no parameter stats"),
        ({"target": "/repos/owner/name/commits/trunk?per_page=few"}, "parameter per_page"),
        ({"target": "/repos/owner/name/commits/flows/status"}, f"Accept is {SHA}"),
        ({"target": "/repos/owner/name/commits/flows%2Fstatus"}, f"Accept is {SHA}"),
        ({"headers": asked(Accept="*/*")}, "Accept is"),
        ({"headers": asked(Accept="application/vnd.github.raw+json")}, "Accept is"),
        ({"headers": asked(**{"X-GitHub-Api-Version": "2021-01-01"})}, "X-GitHub-Api-Version"),
        ({"headers": asked(**{"User-Agent": ""})}, "User-Agent"),
        ({"headers": asked(Authorization="the-token-alone")}, "Authorization"),
        ({"status": 418}, "no such status"),
        ({"body": b""}, "0 bytes of body"),
        ({"status": 304}, "40 bytes of body"),
        ({"answered": httpx.Headers()}, "of no type"),
        ({"answered": httpx.Headers({"Content-Type": "text/plain"})}, "text/plain"),
        ({"answered": JSON}, "is not application/json|body "),
        (answered(200, {"sha": "0" * 40}), "'url' is a required property"),
        (answered(422, {"message": "No commit found"}), "'documentation_url' is a required property"),
        (answered(404, ["Not Found"]), "is not of type 'object'"),
        (answered(429, {"message": 1}), "is not of type 'string'"),
        ({"target": "/repos/owner/name/tarball/trunk", "status": 302, "body": b""}, "no Location"),
    ],
)
def test_what_is_not_as_described_is_found(given: dict[str, Any], says: str, described: Description) -> None:
    found = described.wrong(replace(COMMIT, **given))
    assert any(part in text for text in found for part in says.split("|")), found


def test_the_client_knows_what_a_branch_of_the_same_name_would_be_taken_for(described: Description) -> None:
    commits = "/repos/{owner}/{repo}/commits/"
    assert described.below(f"{commits}{{ref}}") | described.below(f"{commits}{{commit_sha}}") == set(OF_A_COMMIT)


def test_a_document_that_lacks_a_field_or_has_it_of_another_type_is_found(described: Description) -> None:
    exchange = replace(COMMIT, target="/repos/owner/name", headers=asked(Accept="application/vnd.github+json"))
    whole = repository(API, WEB, False)
    for document, says in (
        ({name: value for name, value in whole.items() if name != "default_branch"}, "'default_branch' is a required"),
        (whole | {"pushed_at": "yesterday"}, "is not a 'date-time'"),
        (whole | {"owner": {**whole["owner"], "id": "1"}}, "owner/id"),
        (whole | {"private": None}, "private"),
    ):
        found = described.wrong(replace(exchange, **answered(200, document)))
        assert any(says in text for text in found), found
    assert described.wrong(replace(exchange, **answered(200, whole | {"homepage": None}))) == []
