"""What every storage must do. Inherit ``StorageContract`` and write its three fixtures; pytest and anyio run it."""
# ruff: noqa: D102, ASYNC240 - the names of tests are sentences, and the files are small

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import anyio
import pytest

from flow_agent.errors import FetchError, SecretNotFound
from flow_agent.model import Registration
from flow_agent.ports import Fetched, Storage

SECRET = "do-not-show-this-value"  # noqa: S105 - it is here to be looked for


class Secrets:
    """Serves the values that it was given."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    async def get(self, name: str) -> str:
        """The value of ``name``.

        Raises SecretNotFound.
        """
        if name not in self._values:
            raise SecretNotFound(f"secret {name!r} was looked for in the contract's table only")
        return self._values[name]


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder`` by its path; links are told by where they lead."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(place, name)
            if path.is_symlink():
                found[path.relative_to(folder).as_posix()] = os.fsencode(path.readlink())
            elif path.is_file():
                found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


async def fetched(storage: Storage, registration: Registration, into: Path, secrets: Secrets) -> Fetched:
    """What ``storage`` fetches; without something known it must fetch."""
    found = await storage.fetch(registration, into, secrets)
    assert found is not None
    return found


class StorageContract:
    """The fetching half of a storage.

    ``storage`` is the storage to test, ``registration`` one whose payload is there, ``missing`` one whose payload is
    not. ``world`` is a folder that holds ``into``; nothing else in it may change. ``secrets`` may be replaced by
    one whose values contain ``SECRET``.
    """

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> str:
        """The daemon runs on asyncio."""
        return "asyncio"

    @pytest.fixture
    def world(self, tmp_path: Path) -> Path:
        """The folder that is watched."""
        return tmp_path

    @pytest.fixture
    def into(self, world: Path) -> Path:
        """Where the payload goes."""
        folder = world / "into"
        folder.mkdir()
        return folder

    @pytest.fixture
    def secrets(self) -> Secrets:
        """What the storage may ask for."""
        return Secrets({})

    async def test_what_it_says_it_fetched_is_there(
        self, storage: Storage, registration: Registration, into: Path, secrets: Secrets
    ) -> None:
        found = await fetched(storage, registration, into, secrets)

        assert found.payload["kind"] == registration.kind
        place = into / found.payload.get("root", "") / found.payload["path"]
        assert place.is_file()
        assert place.resolve().is_relative_to(into.resolve())
        assert found.revision

    async def test_fetching_twice_gives_the_same_revision_and_files(
        self, storage: Storage, registration: Registration, into: Path, secrets: Secrets
    ) -> None:
        one, two = into / "one", into / "two"
        one.mkdir()
        two.mkdir()

        first = await storage.fetch(registration, one, secrets)
        second = await storage.fetch(registration, two, secrets)

        assert first == second
        assert files_below(one) == files_below(two)

    async def test_another_try_into_the_same_folder_goes_through(
        self, storage: Storage, registration: Registration, into: Path, secrets: Secrets
    ) -> None:
        first = await storage.fetch(registration, into, secrets)
        files = files_below(into)

        assert await storage.fetch(registration, into, secrets) == first
        assert files_below(into) == files

    async def test_a_pinned_payload_has_the_digest_of_its_registration(
        self, storage: Storage, registration: Registration, into: Path, secrets: Secrets
    ) -> None:
        found = await fetched(storage, registration, into, secrets)

        assert registration.digest in (None, found.digest)

    async def test_what_is_known_and_unchanged_is_not_fetched_again(
        self, storage: Storage, registration: Registration, into: Path, secrets: Secrets
    ) -> None:
        first, second = into / "first", into / "second"
        first.mkdir()
        second.mkdir()
        found = await fetched(storage, registration, first, secrets)
        if found.validator is None:
            assert not storage.remote, "a storage behind a network can be asked whether something has changed"
            return

        assert await storage.fetch(registration, second, secrets, known=found.validator) is None
        assert files_below(second) == {}

    async def test_what_is_not_what_is_known_is_fetched(
        self, storage: Storage, registration: Registration, into: Path, secrets: Secrets
    ) -> None:
        first, second = into / "first", into / "second"
        first.mkdir()
        second.mkdir()
        found = await fetched(storage, registration, first, secrets)

        assert await storage.fetch(registration, second, secrets, known='"1"') == found
        assert files_below(second) == files_below(first)

    async def test_what_is_missing_is_a_lasting_error_that_names_flow_and_place(
        self, storage: Storage, missing: Registration, into: Path, secrets: Secrets
    ) -> None:
        with pytest.raises(FetchError) as caught:
            await storage.fetch(missing, into, secrets)

        assert not caught.value.transient
        assert missing.flow in str(caught.value)
        named = [value for value in missing.location.values() if isinstance(value, str) and value]
        assert any(value in str(caught.value) for value in named)

    async def test_nothing_changes_outside_the_folder(
        self, storage: Storage, registration: Registration, world: Path, into: Path, secrets: Secrets
    ) -> None:
        before = files_below(world)

        await storage.fetch(registration, into, secrets)

        assert {path: data for path, data in files_below(world).items() if not path.startswith("into/")} == before

    async def test_being_cancelled_leaves_nothing_outside_the_folder(
        self, storage: Storage, registration: Registration, world: Path, into: Path, secrets: Secrets
    ) -> None:
        before = files_below(world)

        with anyio.CancelScope() as scope:
            scope.cancel()
            await storage.fetch(registration, into, secrets)

        assert scope.cancelled_caught
        assert {path: data for path, data in files_below(world).items() if not path.startswith("into/")} == before

    async def test_links_in_what_was_fetched_stay_inside(
        self, storage: Storage, registration: Registration, into: Path, secrets: Secrets
    ) -> None:
        await storage.fetch(registration, into, secrets)

        links = [
            Path(place, name) for place, d, f in os.walk(into) for name in [*d, *f] if Path(place, name).is_symlink()
        ]
        assert all(link.resolve().is_relative_to(into.resolve()) for link in links)

    async def test_no_secret_stands_in_an_error(
        self, storage: Storage, missing: Registration, into: Path, secrets: Secrets
    ) -> None:
        with pytest.raises(FetchError) as caught:
            await storage.fetch(missing, into, secrets)

        assert SECRET not in f"{caught.value}{caught.value.hint}{caught.value.__cause__}"
