"""What flows of Prefect 1 say of themselves, in our words: objects of that package itself, in its own environment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import frameworks

PROGRAM = """
import json, warnings
warnings.simplefilter("ignore")
from prefect import Flow
from prefect.run_configs import *
from prefect.schedules import CronSchedule
from prefect.storage import *
from prefect.tasks.secrets import EnvVarSecret, PrefectSecret
from flow_agent.errors import FlowAgentError
from flow_agent.prefect1 import translated

found = {}
for name, text in CASES.items():
    said = []
    flow = Flow("f", tasks=[PrefectSecret("IN_A_TASK"), EnvVarSecret("NOT_OURS")])
    for key, value in text.items():
        setattr(flow, key, eval(value))
    try:
        made = translated(flow, said.append)
    except FlowAgentError as error:
        found[name] = {"error": str(error)}
        continue
    found[name] = {
        "storage": made.storage and {**made.storage.describe(), "labels": sorted(made.storage.labels)},
        "run_config": made.run_config and made.run_config.describe(),
        "labels": made.labels,
        "secrets": made.secrets,
        "said": said,
    }
print(json.dumps(found))
"""
CASES: dict[str, dict[str, str]] = {
    "none": {},
    "local": {"storage": "Local()"},
    "local script": {"storage": "Local(path='/flows/f.py', stored_as_script=True, add_default_labels=False)"},
    "s3": {
        "storage": "S3('b', key='k', client_options={'endpoint_url': 'http://s3:1'}, secrets=['AWS_CREDENTIALS'],"
        " labels=['x'], upload_options={'ServerSideEncryption': 'aws:kms'})"
    },
    "s3 script": {"storage": "S3('b', key='f.py', stored_as_script=True)"},
    "gcs": {"storage": "GCS('b', project='p')"},
    "azure": {"storage": "Azure('c', connection_string_secret='NAME', blob_name='n', overwrite=True)"},
    "github": {"storage": "GitHub('o/r', path='f.py', ref='main', access_token_secret='TOKEN')"},
    "gitlab": {"storage": "GitLab('o/r', path='f.py', host='https://gitlab.example.org')"},
    "bitbucket": {"storage": "Bitbucket(project='P', repo='r', path='f.py', host='https://bitbucket.example.org')"},
    "bitbucket cloud": {
        "storage": "Bitbucket(project='P', repo='r', workspace='w', path='f.py', cloud_username_secret='U',"
        " cloud_app_password_secret='P')"
    },
    "codecommit": {"storage": "CodeCommit('r', path='f.py', commit='dev')"},
    "git": {"storage": "Git('f.py', repo='o/r', tag='v1', use_ssh=True, git_token_secret_name='T')"},
    "module": {"storage": "Module('pkg.flows')"},
    "webhook": {
        "storage": "Webhook(build_request_kwargs={'url': 'https://x/${A}'}, build_request_http_method='POST',"
        " get_flow_request_kwargs={'url': 'https://x/y'}, get_flow_request_http_method='GET')"
    },
    "docker": {"storage": "Docker(registry_url='r.example.org')"},
    "a password": {"storage": "S3('b', client_options={'aws_secret_access_key': 'do-not-show'})"},
    "universal": {"run_config": "UniversalRun(env={'A': '1'}, labels=['u'])"},
    "process": {"run_config": "LocalRun(working_dir='/w', labels=['l'])"},
    "container": {"run_config": "DockerRun(image='python:3.12', host_config={'a': 1}, ports=[80])"},
    "job": {"run_config": "KubernetesRun(image='i', cpu_limit=2, service_account_name='me')"},
    "task": {"run_config": "ECSRun(image='i', cpu='1 vcpu', task_role_arn='arn')"},
    "schedule": {"schedule": "CronSchedule('0 0 * * *')"},
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("prefect1")
    program = f"CASES = {CASES!r}\n{PROGRAM}"
    answer: dict[str, Any] = json.loads(frameworks.python("prefect1", program, folder).splitlines()[-1])
    return answer


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("local script", {"type": "Local", "path": "/flows/f.py", "stored_as_script": True, "labels": []}),
        (
            "s3",
            {
                "type": "S3",
                "bucket": "b",
                "key": "k",
                "client_options": {"endpoint_url": "http://s3:1"},
                "upload_options": {"ServerSideEncryption": "aws:kms"},
                "secrets": ["AWS_CREDENTIALS"],
                "labels": ["s3-flow-storage", "x"],
            },
        ),
        ("s3 script", {"type": "S3", "key": "f.py", "stored_as_script": True}),
        ("gcs", {"type": "GCS", "bucket": "b", "project": "p", "labels": ["gcs-flow-storage"]}),
        ("azure", {"type": "Azure", "container": "c", "connection_string_secret": "NAME", "blob_name": "n"}),
        ("github", {"type": "GitHub", "repo": "o/r", "path": "f.py", "ref": "main", "access_token_secret": "TOKEN"}),
        ("gitlab", {"type": "GitLab", "host": "https://gitlab.example.org", "ref": None}),
        ("bitbucket", {"type": "Bitbucket", "project": "P", "host": "https://bitbucket.example.org"}),
        ("bitbucket cloud", {"type": "Bitbucket", "workspace": "w", "host": None, "cloud_username_secret": "U"}),
        ("codecommit", {"type": "CodeCommit", "repo": "r", "path": "f.py", "commit": "dev"}),
        ("git", {"type": "Git", "repo": "o/r", "tag": "v1", "use_ssh": True, "git_token_secret_name": "T"}),
        ("module", {"type": "Module", "module": "pkg.flows"}),
        ("webhook", {"type": "Webhook", "build_request_http_method": "POST", "labels": ["webhook-flow-storage"]}),
    ],
)
def test_a_storage_has_its_counterpart(name: str, says: dict[str, Any], found: dict[str, Any]) -> None:
    assert found[name]["said"] == []
    storage = found[name]["storage"]
    assert {key: storage.get(key) for key in says} == says


def test_the_default_branch_is_the_repositorys_own_where_none_was_named(found: dict[str, Any]) -> None:
    assert found["bitbucket"]["storage"]["ref"] is None
    assert found["git"]["storage"]["branch_name"] is None


def test_its_own_folder_for_pickles_is_not_taken_over(found: dict[str, Any]) -> None:
    assert ".prefect" not in found["local"]["storage"]["directory"]
    assert found["none"]["storage"] is None


def test_secrets_that_tasks_ask_for_are_declared(found: dict[str, Any]) -> None:
    assert found["s3"]["secrets"] == ["AWS_CREDENTIALS", "IN_A_TASK"]
    assert found["none"]["secrets"] == ["IN_A_TASK"]


@pytest.mark.parametrize(
    ("name", "says", "left"),
    [
        ("universal", {"type": "UniversalRun", "env": {"A": "1"}, "labels": ["u"]}, []),
        ("process", {"type": "LocalRun", "working_dir": "/w", "labels": ["l"]}, []),
        ("container", {"type": "UniversalRun", "image": "python:3.12"}, ["host_config", "ports"]),
        ("job", {"type": "UniversalRun", "image": "i"}, ["cpu_limit", "service_account_name"]),
        ("task", {"type": "UniversalRun", "image": "i"}, ["cpu", "task_role_arn"]),
    ],
)
def test_a_run_config_has_its_counterpart_and_what_it_lacks_is_named(
    name: str, says: dict[str, Any], left: list[str], found: dict[str, Any]
) -> None:
    config = found[name]["run_config"]
    assert {key: config.get(key) for key in says} == says
    said = " ".join(found[name]["said"])
    assert all(each in said for each in left)
    assert bool(said) is bool(left)


@pytest.mark.parametrize(("name", "says"), [("docker", "storage Docker"), ("schedule", "--at, or from cron")])
def test_what_has_no_counterpart_is_named(name: str, says: str, found: dict[str, Any]) -> None:
    assert says in " ".join(found[name]["said"])


def test_a_password_in_its_options_is_refused_and_not_shown(found: dict[str, Any]) -> None:
    assert "would stand in the registration" in found["a password"]["error"]
    assert "do-not-show" not in found["a password"]["error"]
