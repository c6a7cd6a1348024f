"""What would put a secret into a registration is refused where it is written, and is not shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flow_agent import Flow
from flow_agent.results import AzureResult, GCSResult, S3Result
from flow_agent.run_configs import Secret
from flow_agent.storages import GCS, S3, Azure, Bitbucket, CodeCommit, Git, GitHub, GitLab, Local

HIDDEN = "do-not-show-this"


@pytest.mark.parametrize("make", [S3, S3Result, GCS, GCSResult, Azure, AzureResult])
@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"endpoint_url": f"http://me:{HIDDEN}@minio:9000"}, "endpoint_url"),
        ({"endpoint_url": f"http://{HIDDEN}@minio:9000"}, "endpoint_url"),
        ({"config": {"proxies": {"https": f"http://me:{HIDDEN}@proxy:3128"}}}, "config.proxies.https"),
        ({"proxies": [f"http://me:{HIDDEN}@proxy:3128"]}, "proxies.0"),
        ({"secondary_hostname": f"https://a.blob.core.windows.net?sv=1&sig={HIDDEN}"}, "secondary_hostname"),
        ({"audience": f"AccountName=a;AccountKey={HIDDEN}"}, "audience"),
        ({"headers": {"Authorization": f"Bearer {HIDDEN}"}}, "headers.Authorization"),
    ],
)
def test_a_login_or_a_signature_in_an_option_is_refused(
    make: Callable[..., Any], options: dict[str, Any], place: str
) -> None:
    with pytest.raises(ValueError, match="would stand in the registration") as caught:
        make("flows", client_options=options)
    assert place in str(caught.value)
    assert HIDDEN not in str(caught.value)


@pytest.mark.parametrize("make", [Azure, AzureResult])
@pytest.mark.parametrize("name", ["account_key", "credential", "headers", "foo"])
def test_azure_takes_only_options_that_are_no_credentials(make: Callable[..., Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"client_options has '{name}', expected only") as caught:
        make("flows", client_options={name: HIDDEN})
    assert HIDDEN not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (S3, {"Metadata": {"a": 1}}),
        (S3Result, {"Metadata": ["a"]}),
        (GCS, {"metadata": {"a": 1}}),
        (GCSResult, {"metadata": {"a": None}}),
        (Azure, {"metadata": {"a": 1}}),
        (AzureResult, {"tags": "a"}),
    ],
)
def test_metadata_is_a_table_of_texts(make: Callable[..., Any], options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="expected a table of texts"):
        make("flows", upload_options=options)


@pytest.mark.parametrize(
    "value",
    [
        '{"ACCESS_KEY": "do-not-show-this"}',
        "AccountName=a;AccountKey=do-not-show-this",
        "do-not-show-this with a space",
        "https://me:do-not-show-this@example.org/a.git",
        "ghp_do-not-show-this",
        "glpat-do-not-show-this",
        "line\nend do-not-show-this",
        "",
        "x" * 300,
    ],
)
@pytest.mark.parametrize(
    "make",
    [
        lambda value: S3("b", credentials_secret=value),
        lambda value: S3Result("b", credentials_secret=value),
        lambda value: GCS("b", credentials_secret=value),
        lambda value: GCSResult("b", credentials_secret=value),
        lambda value: Azure("c", connection_string_secret=value),
        lambda value: AzureResult("c", connection_string_secret=value),
        lambda value: CodeCommit("r", path="f.py", credentials_secret=value),
        lambda value: GitHub("o/r", path="f.py", access_token_secret=value),
        lambda value: GitLab("o/r", path="f.py", access_token_secret=value),
        lambda value: Bitbucket(workspace="w", repo="r", path="f.py", access_token_secret=value),
        lambda value: Bitbucket(
            workspace="w", repo="r", path="f.py", cloud_username_secret="USER", cloud_app_password_secret=value
        ),
        lambda value: Git("f.py", "o/r", git_token_secret_name=value),
        lambda value: Git("f.py", git_clone_url_secret_name=value),
        lambda value: Local(secrets=[value]),
        lambda value: Flow("f", secrets=[value]),
        Secret,
    ],
)
def test_a_value_where_a_name_belongs_is_refused_and_not_shown(make: Callable[[str], Any], value: str) -> None:
    with pytest.raises(ValueError, match="no name") as caught:
        make(value)
    assert "do-not-show" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["AWS_CREDENTIALS", "prod/flows/key", "my-secret.v2", "team@db", "aws_key", "1password"]
)
def test_the_names_that_providers_use_are_names(name: str) -> None:
    assert S3("b", credentials_secret=name).credentials_secret == name
    assert Secret(name).name == name


def test_an_address_without_a_login_is_taken() -> None:
    options = {
        "endpoint_url": "https://minio.example.org:9000/path?a=b",
        "config": {"proxies": {"https": "http://p:1"}},
    }
    assert S3("b", client_options=options).client_options == options
