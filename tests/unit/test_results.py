"""Return values in local files."""

from __future__ import annotations

import hashlib
import json
import stat

import pytest

from flow_agent.results import LocalResult


@pytest.fixture
def value(tmp_path):
    path = tmp_path / "value"
    path.write_bytes(b"42")
    return path


def test_a_result_is_written_below_its_folder_and_read_back(tmp_path, value):
    result = LocalResult(tmp_path / "results")
    location = result.render("Nightly Report", "01abc", 2)

    written = result.write(location, value)

    assert location == "nightly-report/01abc/2"
    assert written["size"] == 2
    assert written["digest"] == hashlib.sha256(b"42").hexdigest()
    assert LocalResult.from_description(json.loads(json.dumps(written["store"]))) == result
    assert result.read(written["location"]).read_bytes() == b"42"
    assert [path.name for path in (tmp_path / "results/nightly-report/01abc").iterdir()] == ["2"]


@pytest.mark.anyio
async def test_a_result_is_removed_and_one_that_is_not_there_is_fine(tmp_path, value):
    result = LocalResult(tmp_path / "results")
    result.write("a/b", value)
    for _ in range(2):
        await result.remove("a/b", None)
    with pytest.raises(FileNotFoundError):
        result.read("a/b")
    with pytest.raises(PermissionError, match="leads out"):
        await result.remove("../b", None)


def test_results_are_for_their_user_only(tmp_path, value):
    LocalResult(tmp_path / "results").write("a/b/c", value)

    for path in (tmp_path / "results").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    assert stat.S_IMODE((tmp_path / "results").stat().st_mode) == 0o700


def test_results_are_kept_in_the_home_unless_said_otherwise(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOW_AGENT_HOME", str(tmp_path))

    assert LocalResult().dir == tmp_path / "results"


@pytest.mark.parametrize("location", ["../x", "/x", "a/../../x", "", ".", "a\0b"])
def test_a_location_that_leads_out_is_refused(location, tmp_path, value):
    result = LocalResult(tmp_path / "results")
    with pytest.raises(PermissionError, match="leads out"):
        result.write(location, value)
    with pytest.raises(PermissionError, match="leads out"):
        result.read(location)
    with pytest.raises(ValueError, match="leads out"):
        LocalResult(tmp_path, location=location)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path, value):
    result = LocalResult(tmp_path / "results")
    result.dir.mkdir()
    (tmp_path / "outside").mkdir()
    (result.dir / "link").symlink_to(tmp_path / "outside")

    with pytest.raises(PermissionError, match="through a link"):
        result.write("link/x", value)
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_missing_result_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no result at .*/a/b"):
        LocalResult(tmp_path).read("a/b")


@pytest.mark.parametrize("location", ["{flow}/{other}", "{flow.__class__}", "{", "{}"])
def test_a_template_with_other_fields_is_refused(location):
    with pytest.raises(ValueError, match="location"):
        LocalResult(location=location)


def test_a_write_that_fails_leaves_nothing(tmp_path):
    result = LocalResult(tmp_path / "results")
    with pytest.raises(OSError, match="nothing-here"):
        result.write("a/b", tmp_path / "nothing-here")

    assert list((tmp_path / "results" / "a").iterdir()) == []
