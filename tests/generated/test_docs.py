"""What the pages show is what happens: their examples run, their links lead somewhere."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from flow_agent.cli import VERBS
from flow_agent.model import RETRIED, Reason, State
from flow_agent.storages.dockerfile import default_base
from generated.examples import Block, ExampleError, Sandbox, blocks, fits, perform
from images import without_further_images
from servers import gcs
from servers.azure import make_container
from servers.docker_image import IMAGE
from servers.s3 import make_bucket

ROOT = Path(__file__).parents[2]
INDEX = ROOT / "docs" / "index.md"
PAGES = [ROOT / "README.md", INDEX, *sorted(set((ROOT / "docs").rglob("*.md")) - {INDEX})]
LINKING = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "agent" / "ARCHITECTURE.md"]
LINK = re.compile(r"(?<!\!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def surroundings(request, s3_server, gcs_server, azure_server, tmp_path_factory) -> dict[str, str]:
    """The variables with which a reader of a page on object stores reaches one: here it is a server of the tests."""
    key = tmp_path_factory.mktemp("key") / "key.json"
    key.write_text(gcs_server.account())
    make_bucket(s3_server, "my-flows")
    gcs.make_bucket(gcs_server, "my-flows")
    make_container(azure_server, "my-flows")
    return {
        **s3_server.environment,
        "AWS_ENDPOINT_URL_S3": s3_server.url,
        "STORAGE_EMULATOR_HOST": gcs_server.url,
        "GOOGLE_APPLICATION_CREDENTIALS": str(key),
        "AZURE_STORAGE_CONNECTION_STRING": azure_server.connection_string(),
    }


SCRIPTS = ROOT / "docs" / "script-storage.md"
IMAGES = ROOT / "docs" / "storages" / "docker.md"
IN_BUCKETS = [page for page in PAGES if page.parent.name == "storages" and page != IMAGES]


@pytest.mark.parametrize("page", [page for page in PAGES if page not in (*IN_BUCKETS, SCRIPTS, IMAGES)], ids=name)
def test_the_examples_of_the_page_do_what_it_shows(page, tmp_path):
    perform(page, tmp_path)


@pytest.mark.parametrize("page", IN_BUCKETS, ids=name)
def test_the_examples_of_the_page_on_a_store_do_what_it_shows(page, tmp_path, surroundings):
    assert perform(page, tmp_path, surroundings) >= 2


@pytest.mark.timeout(300)
def test_the_examples_of_scripts_on_each_host_do_what_the_page_shows(tmp_path, surroundings, internet):
    variables = {**surroundings, **internet.environment, "TOKEN": internet.token}

    assert perform(SCRIPTS, tmp_path, variables) >= 12


@pytest.mark.timeout(300)
def test_the_examples_of_images_do_what_the_page_shows(tmp_path, docker_engine):
    """The reader's base image is that of the tests here: none can be pulled everywhere."""
    base, tag = default_base().split(":")
    with without_further_images(docker_engine) as engine:
        engine.sdk.tag(IMAGE, base, tag)
        assert perform(IMAGES, tmp_path, {"DOCKER_HOST": docker_engine.url}) >= 5


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_code_of_the_page_hides_from_being_run(page):
    shown = {"console", "python", "text", "toml", "ini", "sql", "mermaid", "json"}

    unknown = {block.language for block in blocks(page.read_text())} - shown

    assert not unknown, f"a block is console or python (they are run), or one of {sorted(shown)}"


def anchors(page: Path) -> set[str]:
    """The names by which the headings of a page can be linked to."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKING, ids=name)
def test_every_link_within_the_repository_leads_somewhere(page):
    broken = []
    for match in LINK.finditer(page.read_text()):
        target, _, anchor = match["target"].partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        there = (page.parent / target).resolve() if target else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(match["target"])

    assert broken == []


def test_every_page_can_be_reached_from_the_index():
    index = INDEX.read_text()

    missing = [name(page) for page in PAGES[2:] if f"({page.relative_to(ROOT / 'docs')}" not in index]

    assert missing == []


# Tables that name what the program has


def section(page: str, heading: str) -> str:
    """The text under one heading of a page, up to the next heading of that level."""
    return (ROOT / page).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of each row of the tables in ``text``, those of the heading left out."""
    lines = re.findall(r"^\| (.+) \|$", text, flags=re.MULTILINE)
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in lines if not line.startswith("---")]


def test_the_readme_lists_every_verb_and_no_other():
    shown = [re.findall(r"flow-agent (\w+)", cells[0]) for cells in rows(section("README.md", "Verbs"))[1:]]

    assert sorted(verb for verbs in shown for verb in verbs) == sorted(VERBS)


def test_each_verb_that_a_message_or_a_page_names_is_there():
    places = [*LINKING, *(ROOT / "agent").rglob("*.py")]
    named = {verb for path in places for verb in re.findall(r"`flow-agent ([a-z]+)", path.read_text())}

    assert named - set(VERBS) == set()


@pytest.mark.parametrize("kind", ["storages", "launchers", "queues"])
def test_the_readme_names_what_this_version_has_of_each_part(kind):
    opening = (ROOT / "README.md").read_text().partition("\n## ")[0]
    (cell,) = [cells[1] for cells in rows(opening) if cells[0] == kind.removesuffix("s")]
    ours = entry_points(group=f"flow_agent.{kind}")

    named = {word.rstrip(":") for word in re.findall(r"`([\w:]+)`", cell)} | (
        {"memory"} if "in memory" in cell else set()
    )

    assert named == {point.name for point in ours if point.value.startswith("flow_agent.")}


def test_each_reason_stands_in_the_table_with_whether_retries_cover_it():
    shown = {cells[0].strip("`"): cells[2] == "yes" for cells in rows(section("docs/running.md", "Reasons"))[1:]}

    assert shown == {reason.value: reason in RETRIED for reason in Reason}


def test_each_state_stands_in_the_table_and_in_the_picture():
    text = section("docs/running.md", "States")
    shown = [name for cells in rows(text)[1:] for name in re.findall(r"`(\w+)`", cells[0])]
    drawn = {name for pair in re.findall(r"^    (\S+) --> (\w+|\[\*\])", text, flags=re.MULTILINE) for name in pair}

    assert sorted(shown) == sorted(state.value for state in State)
    assert drawn == {state.value for state in State} | {"[*]"}


# The runner itself


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("", ""),
        ("one\ntwo", "one\ntwo\n"),
        ("one  ", "one"),
        ("run ... waits", "run 01ab waits\n"),
        ("...", "anything\nat all\n"),
        ("...", ""),
        ("first\n...\nlast", "first\nlast\n"),
        ("first\n...\nlast", "first\na\nb\nlast\n"),
        ("3 s (...)", "3 s (1.2)\n"),
        ("hello   1", "hello\t1\n"),
        ("... hello ... done", "01ab\thello\tis  done\n"),
    ],
)
def test_what_is_shown_fits_what_is_printed(shown, printed):
    assert fits(shown, printed)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("", "one"),
        ("one", ""),
        ("one", "one\ntwo"),
        ("run ... waits", "run 1\nwaits"),
        ("a.c", "abc"),
        ("a b", "ab"),
        ("...\nend", "x"),
    ],
)
def test_what_is_not_shown_does_not_fit(shown, printed):
    assert not fits(shown, printed)


def test_a_command_that_prints_something_else_is_an_error_that_shows_both(tmp_path):
    with pytest.raises(ExampleError, match=r"line 7: \$ echo two\nshown:\none\nprinted:\ntwo"):
        Sandbox(tmp_path).perform(Block("console", "$ echo two\none\n", 7))


def test_a_command_that_fails_is_an_error_though_its_output_fits(tmp_path):
    with pytest.raises(ExampleError, match="ended with exit code 3, expected 0"):
        Sandbox(tmp_path).perform(Block("console", "$ exit 3\n", 1))


def test_a_program_that_fails_is_an_error(tmp_path):
    with pytest.raises(ExampleError, match="ZeroDivisionError"):
        Sandbox(tmp_path).perform(Block("python", "1 / 0\n", 1))


def test_a_file_and_the_command_that_reads_it_work_together(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- example: file=sub/a.txt -->\n```text\nhello\n```\n\n"
        "```console\n$ cat \\\n> sub/a.txt\nhello\n$ echo $HOME\n.../home\n```\n\n"
        "<!-- example: exit=2 -->\n```console\n$ cat sub/a.txt; exit 2\nhello\n```\n"
    )
    (tmp_path / "sandbox").mkdir()

    assert perform(page, tmp_path / "sandbox") == 3


def test_a_variable_is_there_for_the_commands_that_follow(tmp_path):
    sandbox = Sandbox(tmp_path)

    sandbox.perform(Block("console", "$ RUN=$(echo 12)\n", 1))
    sandbox.perform(Block("console", "$ echo $RUN\n12\n", 4))


def test_a_marker_belongs_to_the_block_right_behind_it():
    (block,) = blocks("<!-- example: file=a.py -->\n\ntext between\n\n```python\n1\n```\n")

    assert block.options == {}
