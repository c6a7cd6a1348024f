"""The documents of GitHub's API, whole: what a client reads of them and all the rest."""

from __future__ import annotations

import base64
from typing import Any

LINKS = {
    "archive": "/{archive_format}{/ref}",
    "assignees": "/assignees{/user}",
    "blobs": "/git/blobs{/sha}",
    "branches": "/branches{/branch}",
    "collaborators": "/collaborators{/collaborator}",
    "comments": "/comments{/number}",
    "commits": "/commits{/sha}",
    "compare": "/compare/{base}...{head}",
    "contents": "/contents/{+path}",
    "contributors": "/contributors",
    "deployments": "/deployments",
    "downloads": "/downloads",
    "events": "/events",
    "forks": "/forks",
    "git_commits": "/git/commits{/sha}",
    "git_refs": "/git/refs{/sha}",
    "git_tags": "/git/tags{/sha}",
    "hooks": "/hooks",
    "issue_comment": "/issues/comments{/number}",
    "issue_events": "/issues/events{/number}",
    "issues": "/issues{/number}",
    "keys": "/keys{/key_id}",
    "labels": "/labels{/name}",
    "languages": "/languages",
    "merges": "/merges",
    "milestones": "/milestones{/number}",
    "notifications": "/notifications{?since,all,participating}",
    "pulls": "/pulls{/number}",
    "releases": "/releases{/id}",
    "stargazers": "/stargazers",
    "statuses": "/statuses/{sha}",
    "subscribers": "/subscribers",
    "subscription": "/subscription",
    "tags": "/tags",
    "teams": "/teams",
    "trees": "/git/trees{/sha}",
}
"""What is below a repository, by the fields with ``_url``."""
DOCS = "https://docs.github.com/rest"
WHEN = "2026-01-02T03:04:05Z"


def node(kind: str, name: object) -> str:
    """A name for GraphQL."""
    return base64.b64encode(f"{kind}{name}".encode()).decode()


def user(api: str, web: str) -> dict[str, Any]:
    """``owner``; ``api`` and ``web`` are addresses without a slash at their end, as below."""
    links = {
        "followers": "/followers",
        "following": "/following{/other_user}",
        "gists": "/gists{/gist_id}",
        "starred": "/starred{/owner}{/repo}",
        "subscriptions": "/subscriptions",
        "organizations": "/orgs",
        "repos": "/repos",
        "events": "/events{/privacy}",
        "received_events": "/received_events",
    }
    return {
        "login": "owner",
        "id": 1,
        "node_id": node("User", 1),
        "avatar_url": f"{web}/images/owner.png",
        "gravatar_id": "",
        "url": f"{api}/users/owner",
        "html_url": f"{web}/owner",
        **{f"{name}_url": f"{api}/users/owner{path}" for name, path in links.items()},
        "type": "User",
        "site_admin": False,
    }


def repository(api: str, web: str, private: bool, branch: str = "trunk") -> dict[str, Any]:
    """``owner/name`` with the default branch ``branch``."""
    url = f"{api}/repos/owner/name"
    counts = ("forks", "forks_count", "open_issues", "open_issues_count", "size", "stargazers_count")
    features = ("has_issues", "has_projects", "has_wiki", "has_pages", "has_discussions")
    return {
        "id": 2,
        "node_id": node("Repository", 2),
        "name": "name",
        "full_name": "owner/name",
        "owner": user(api, web),
        "private": private,
        "visibility": "private" if private else "public",
        "html_url": f"{web}/owner/name",
        "description": None,
        "fork": False,
        "url": url,
        **{f"{name}_url": url + path for name, path in LINKS.items()},
        "git_url": "git://github.example.org/owner/name.git",
        "ssh_url": "git@github.example.org:owner/name.git",
        "clone_url": f"{web}/owner/name.git",
        "svn_url": f"{web}/owner/name",
        "mirror_url": None,
        "homepage": None,
        "language": None,
        "license": None,
        "topics": [],
        "default_branch": branch,
        "archived": False,
        "disabled": False,
        "permissions": {"admin": False, "maintain": False, "push": False, "triage": False, "pull": True},
        **dict.fromkeys((*counts, "watchers", "watchers_count", "network_count", "subscribers_count"), 0),
        **dict.fromkeys(features, False),
        **dict.fromkeys(("created_at", "updated_at", "pushed_at"), WHEN),
    }


def commit(api: str, web: str, name: str, shown: str) -> dict[str, Any]:
    """``shown`` is what git shows of it in the format ``SHOWN``."""
    tree, parents, author, email, when, message = shown.split("\n", 5)
    url = f"{api}/repos/owner/name"
    person = {"name": author, "email": email, "date": when}
    unsigned = {"verified": False, "reason": "unsigned", "signature": None, "payload": None, "verified_at": None}
    return {
        "sha": name,
        "node_id": node("Commit", name),
        "commit": {
            "author": person,
            "committer": person,
            "message": message.rstrip(),
            "tree": {"sha": tree, "url": f"{url}/git/trees/{tree}"},
            "url": f"{url}/git/commits/{name}",
            "comment_count": 0,
            "verification": unsigned,
        },
        "url": f"{url}/commits/{name}",
        "html_url": f"{web}/owner/name/commit/{name}",
        "comments_url": f"{url}/commits/{name}/comments",
        "author": None,
        "committer": None,
        "parents": [
            {"sha": one, "url": f"{url}/commits/{one}", "html_url": f"{web}/owner/name/commit/{one}"}
            for one in parents.split()
        ],
    }


SHOWN = "%T%n%P%n%an%n%ae%n%aI%n%B"


def entry(api: str, web: str, ref: str, line: str) -> dict[str, Any]:
    """What is said of a file, folder, link or submodule of a folder; ``line`` is git's, of ``ls-tree --long``."""
    (mode, kind, sha, size), path = line.partition("\t")[0].split(), line.partition("\t")[2]
    # A submodule is called a file in lists, for old clients.
    found = "symlink" if mode == "120000" else {"blob": "file", "tree": "dir", "commit": "file"}[kind]
    url = f"{api}/repos/owner/name/contents/{path}?ref={ref}"
    shown = "tree" if kind == "tree" else "blob"
    git, html = f"{api}/repos/owner/name/git/{shown}s/{sha}", f"{web}/owner/name/{shown}/{ref}/{path}"
    return {
        "name": path.rpartition("/")[2],
        "path": path,
        "sha": sha,
        "size": int(size) if kind == "blob" else 0,
        "url": url,
        "html_url": html,
        "git_url": git,
        "download_url": f"{web}/owner/name/raw/{ref}/{path}" if kind == "blob" else None,
        "type": found,
        "_links": {"self": url, "git": git, "html": html},
    }


def problem(status: int, message: str, section: str = "") -> dict[str, Any]:
    """An error; ``section`` is where the documentation speaks of the operation."""
    return {"message": message, "documentation_url": DOCS + section, "status": str(status)}
