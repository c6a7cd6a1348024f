"""Whether requests and answers are as GitHub describes its API: by its own OpenAPI description, which it publishes."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote

import httpx
from jsonschema import Draft4Validator
from jsonschema.exceptions import best_match
from jsonschema.validators import extend
from openapi_schema_validator import OAS30ReadValidator, oas30_format_checker
from referencing import Registry, Resource

from command import unless_all_is_required
from servers.process import FOLDER

FILE = FOLDER / "api.github.com.json"
NAME = "urn:github"

VERSION = "2022-11-28"
"""The version of the API that is described; what later ones change stands apart in the description."""
MEDIA = "application/vnd.github+json"
"""What GitHub recommends to accept where an operation has no media type of its own."""
SCHEMES = ("Bearer ", "token ", "Basic ")

GENERAL = {
    304: "not_modified",
    400: "bad_request",
    401: "requires_authentication",
    403: "forbidden",
    404: "not_found",
    429: "forbidden",
    500: "internal_error",
    502: "internal_error",
    503: "service_unavailable",
}
"""Answers that GitHub's documentation has for all operations (conditional requests, authentication, rate limits,
trouble), also where the operation does not name them; each with the shared answer whose shape it has."""


def _one_of(validator: Any, schemas: Any, value: Any, schema: Any) -> Iterator[Any]:
    """GitHub says ``nullable`` beside ``oneOf`` too. No discriminator is looked at: a list has none."""
    if value is not None or not schema.get("nullable"):
        yield from Draft4Validator.VALIDATORS["oneOf"](validator, schemas, value, schema)


Validator = extend(OAS30ReadValidator, {"oneOf": _one_of})


@dataclass(frozen=True)
class Exchange:
    """A request and its answer; ``target`` is the path with its query, below the address of the API."""

    method: str
    target: str
    headers: httpx.Headers
    status: int
    answered: httpx.Headers
    body: bytes


class Description:
    """``document`` is an OpenAPI description, version 3.0. Places in it are JSON pointers with ``#`` in front."""

    def __init__(self, document: Any) -> None:
        self._document = document
        self._registry: Registry[Any] = Registry().with_resource(NAME, Resource.opaque(document))
        self._validators: dict[str, Any] = {}
        # What is written out goes before what a parameter stands for: `commits/{ref}/status` before `commits/{ref}`.
        templates = sorted(document["paths"], key=lambda path: -len(re.sub(r"\{\w+\}", "", path)))
        self._templates = [(template, self._pattern(template)) for template in templates]

    def below(self, template: str) -> set[str]:
        """The names that paths have directly below ``template``."""
        beginning = re.compile(re.escape(template) + r"/([^/{]+)")
        return {found[1] for path, _ in self._templates if (found := beginning.fullmatch(path))}

    def operation(self, method: str, target: str) -> str | None:
        """The place of the operation that a request asks for."""
        path = unquote(target.partition("?")[0])
        for template, pattern in self._templates:
            if pattern.fullmatch(path) and method.lower() in self._document["paths"][template]:
                return f"#/paths/{_step(template)}/{method.lower()}"
        return None

    def name(self, exchange: Exchange) -> str:
        """The name of the operation, such as ``repos/get``; empty: there is none."""
        place = self.operation(exchange.method, exchange.target)
        return self._at(place)[1]["operationId"] if place else ""

    def wrong(self, exchange: Exchange) -> list[str]:
        """What is not as described, for people."""
        what = f"{exchange.method} {exchange.target} ({exchange.status})"
        place = self.operation(exchange.method, exchange.target)
        if place is None:
            return [f"{what}: there is no such operation"]
        found = [*self._query(place, exchange), *self._headers(place, exchange), *self._answer(place, exchange)]
        return [f"{what}: {text}" for text in found]

    def _query(self, place: str, exchange: Exchange) -> Iterator[str]:
        known = {found["name"]: (at, found) for at, found in self._parameters(place) if found["in"] == "query"}
        given = parse_qsl(exchange.target.partition("?")[2], keep_blank_values=True)
        names = [name for name, _ in given]
        for name, (_, parameter) in known.items():
            if parameter.get("required") and name not in names:
                yield f"the parameter {name} is missing"
        for name, value in given:
            if names.count(name) > 1:
                yield f"the parameter {name} is given more than once"
            if name not in known:
                yield f"there is no parameter {name}"
                continue
            at, parameter = known[name]
            typed = json.loads(value) if parameter["schema"].get("type") == "integer" and value.isdigit() else value
            yield from self._invalid(f"{at}/schema", typed, f"parameter {name}")

    def _headers(self, place: str, exchange: Exchange) -> Iterator[str]:
        headers, taken = exchange.headers, self._media(place)
        if headers.get("Accept") not in taken:
            yield f"Accept is {headers.get('Accept')}, described are {', '.join(sorted(taken))}"
        if headers.get("X-GitHub-Api-Version") != VERSION:
            yield f"X-GitHub-Api-Version is {headers.get('X-GitHub-Api-Version')}, described is {VERSION}"
        if not headers.get("User-Agent"):
            yield "User-Agent is missing, and GitHub refuses who does not tell"
        if not headers.get("Authorization", SCHEMES[0]).startswith(SCHEMES):
            yield "Authorization has a scheme that GitHub does not know"

    def _answer(self, place: str, exchange: Exchange) -> Iterator[str]:
        status, body = exchange.status, exchange.body
        if str(status) in self._at(place)[1]["responses"]:
            at, response = self._at(f"{place}/responses/{status}")
        elif status in GENERAL:
            at, response = self._at(f"#/components/responses/{GENERAL[status]}")
        else:
            yield "there is no such status"
            return
        if status != 304 and 300 <= status < 400 and "Location" not in exchange.answered:
            yield "the answer has no Location"
        content = response.get("content", {})
        if not (content or not body) or (content and not body and status == 200):
            yield f"the answer has {len(body)} bytes of body"
        elif body:
            yield from self._body(at, content, exchange, self._media(place))

    def _body(self, at: str, content: dict[str, Any], exchange: Exchange, known: set[str]) -> Iterator[str]:
        accepted = exchange.headers.get("Accept", "")
        media = exchange.answered.get("Content-Type", "").partition(";")[0].strip()
        if media not in (accepted, "application/json"):
            yield f"the answer is {media or 'of no type'}, accepted was {accepted}"
        elif media in content:
            try:
                value = json.loads(exchange.body) if media.endswith("json") else exchange.body.decode()
            except ValueError as error:
                yield f"the body is not {media}: {error}"
            else:
                yield from self._invalid(f"{at}/content/{_step(media)}/schema", value, "body")
        elif media not in known or exchange.status != 200:
            yield f"the answer is {media}, described are {', '.join(content)}"

    def _media(self, place: str) -> set[str]:
        """What may be accepted: the types of the answers, and those of which only the text tells."""
        _, operation = self._at(place)
        answers = [self._at(f"{place}/responses/{status}")[1] for status in operation["responses"]]
        told = re.findall(r"application/vnd\.github\.[\w.+-]*\w", operation["description"])
        return {MEDIA, *told, *(media for answer in answers for media in answer.get("content", {}))}

    def _parameters(self, place: str) -> list[tuple[str, Any]]:
        count = len(self._at(place)[1].get("parameters", []))
        return [self._at(f"{place}/parameters/{number}") for number in range(count)]

    def _pattern(self, template: str) -> re.Pattern[str]:
        methods = self._document["paths"][template]
        operation = f"#/paths/{_step(template)}/{'get' if 'get' in methods else next(iter(methods))}"
        # `{path}` may have slashes, `{owner}` may not.
        long = {found["name"] for _, found in self._parameters(operation) if found.get("x-multi-segment")}
        parts = re.split(r"\{(\w+)\}", template)
        return re.compile("".join(_part(number, part, long) for number, part in enumerate(parts)))

    def _at(self, place: str) -> tuple[str, Any]:
        """What is at ``place``, or where a reference there leads; and its own place."""
        found = self._document
        for step in place.removeprefix("#/").split("/"):
            name = step.replace("~1", "/").replace("~0", "~")
            found = found[int(name)] if isinstance(found, list) else found[name]
        return self._at(found["$ref"]) if "$ref" in found else (place, found)

    def _invalid(self, place: str, value: Any, what: str) -> Iterator[str]:
        if place not in self._validators:
            self._validators[place] = Validator(
                {"$ref": f"{NAME}{place.replace('{', '%7B').replace('}', '%7D')}"},
                registry=self._registry,
                format_checker=oas30_format_checker,
            )
        for error in self._validators[place].iter_errors(value):
            nearest = best_match([error])
            yield f"{what} {'/'.join(map(str, nearest.absolute_path))}: {nearest.message[:300]}"


def _step(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _part(number: int, part: str, long: set[str]) -> str:
    if number % 2 == 0:
        return re.escape(part)
    return ".+" if part in long else "[^/]+"


@functools.cache
def description() -> Description:
    """GitHub's description, of what belongs to a repository; the test is left out if it is not installed."""
    if not FILE.exists():
        unless_all_is_required("GitHub's description of its API is not installed: `make servers`")
    document = json.loads(FILE.read_text())
    # The rest of it is large, and not asked for.
    paths = {path: found for path, found in document["paths"].items() if path.startswith("/repos/{owner}/{repo}")}
    del document["components"]["examples"]
    return Description({"paths": paths, "components": document["components"]})
