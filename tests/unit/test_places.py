"""Flows that lie somewhere already: what an address means, and registering from real servers where they are."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from flow_agent.errors import RegistrationError
from flow_agent.places import Place, looks_pickled, place_of

REF = {"ref": "main", "path": "flows/etl.py"}


@pytest.mark.parametrize(
    ("target", "kind", "options", "key", "flow"),
    [
        ("s3://flows/etl/2021-01-01", "S3", {"bucket": "flows"}, "etl/2021-01-01", None),
        ("s3://flows/etl.py:report", "S3", {"bucket": "flows"}, "etl.py", "report"),
        ("s3://flows/a%20b", "S3", {"bucket": "flows"}, "a b", None),
        ("gs://flows/etl.py", "GCS", {"bucket": "flows"}, "etl.py", None),
        ("az://container/a/b", "Azure", {"container": "container"}, "a/b", None),
        ("https://github.com/o/r/blob/main/flows/etl.py", "GitHub", {"repo": "o/r", **REF}, "flows/etl.py", None),
        ("https://github.com/o/r/raw/main/flows/etl.py:f", "GitHub", {"repo": "o/r", **REF}, "flows/etl.py", "f"),
        ("https://gitlab.com/a/b/c/-/blob/main/flows/etl.py", "GitLab", {"repo": "a/b/c", **REF}, "flows/etl.py", None),
        (
            "https://bitbucket.org/w/r/src/main/flows/etl.py",
            "Bitbucket",
            {"workspace": "w", "repo": "r", **REF},
            "flows/etl.py",
            None,
        ),
    ],
)
def test_an_address_names_a_place(target: str, kind: str, options: dict[str, Any], key: str, flow: str | None) -> None:
    place = place_of(target)
    assert place == Place(target, kind, options, key, flow)
    assert type(place.storage(script=True)).__name__ == kind


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("s3://flows", "names no object"),
        ("s3:///key", "names no object"),
        ("ftp://host/file", "is no place that is known"),
        ("https://github.com/o/r", "is no place that is known"),
        ("https://example.org/o/r/blob/main/f.py", "is no place that is known"),
        ("http://github.com/o/r/blob/main/f.py", "is no place that is known"),
        ("https://me:do-not-show@github.com/o/r/blob/main/f.py", "holds credentials"),
        ("s3://flows/key?sig=do-not-show", "holds credentials"),
    ],
)
def test_an_address_of_another_form_is_refused(target: str, says: str) -> None:
    with pytest.raises(RegistrationError, match=says) as caught:
        place_of(target)
    assert "do-not-show" not in f"{caught.value}{caught.value.hint}"


def test_a_file_of_this_machine_is_a_place_if_it_holds_a_pickle(tmp_path: Path) -> None:
    stored, script = tmp_path / "stored", tmp_path / "etl.py"
    stored.write_bytes(cloudpickle.dumps(len))
    script.write_bytes(cloudpickle.dumps(len))
    assert place_of(str(stored)) == Place(str(stored), "Local", {}, str(stored), None)
    assert place_of(str(script)) is None
    assert place_of("pkg.mod:flow") is None
    assert place_of(str(tmp_path)) is None


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_and_their_envelope_are_told_from_scripts(protocol: int) -> None:
    assert looks_pickled(pickle.dumps([1], protocol))
    assert looks_pickled(b'{"flow": "gASV", "versions": {}}')
    assert looks_pickled(b'{"versions": {}, "flow": "gASV"}')
    for text in (b"", b"import flow_agent\n", b'{"a": 1}\n', b'"""A flow."""\n'):
        assert not looks_pickled(text)
