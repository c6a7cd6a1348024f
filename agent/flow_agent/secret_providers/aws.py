"""Secrets in AWS Secrets Manager or in the Parameter Store of SSM."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from flow_agent.errors import InvalidInput, SecretNotFound, SecretUnavailable, StoreError
from flow_agent.objects.aws import aws_client
from flow_agent.objects.aws_errors import code
from flow_agent.objects.base import ANSWER_WITHIN
from flow_agent.secret_providers.urls import parts

OPTIONS = ("prefix", "region", "endpoint")
_MISSING = ("ResourceNotFoundException", "ParameterNotFound", "ParameterVersionNotFound")
_NAMES = ("ValidationException", "InvalidParameterException")
"""What AWS says of a name that it could never have."""


class _None:
    """The agent's own credentials come from its environment: a secret that unlocks secrets would go round."""

    async def get(self, name: str) -> str:
        raise SecretNotFound(f"secret {name!r} is not used here")


class AwsSecrets:
    """Serves the secrets whose names begin with ``prefix``; ``service`` is ``secretsmanager`` or ``ssm``."""

    def __init__(self, service: str, prefix: str, options: Mapping[str, Any]) -> None:
        self._service, self._prefix, self._options = service, prefix, options
        kind = "AWS Secrets Manager" if service == "secretsmanager" else "AWS SSM Parameter Store"
        self.where = f"{kind}{f' below {prefix}' if prefix else ''}"

    async def get(self, name: str) -> str | None:
        """See :meth:`flow_agent.ports.SecretProvider.get`.

        Raises SecretNotFound: this agent may not read it, or it is no text. SecretUnavailable: there was no answer.
        """
        wanted = self._prefix + name
        try:
            async with aws_client(self._service, self._options, _None(), needs=self.where) as client:
                if self._service == "ssm":
                    work = partial(client.sdk.get_parameter, Name=wanted, WithDecryption=True)
                else:
                    work = partial(client.sdk.get_secret_value, SecretId=wanted)
                answer = await client.call(f"{self.where}, {name}", ANSWER_WITHIN, work)
        except StoreError as error:
            if code(error.__cause__) in (*_MISSING, *_NAMES):
                return None
            if error.transient:
                raise SecretUnavailable(str(error), hint=error.hint) from error
            hint = (
                error.hint if "AccessDenied" not in code(error.__cause__) else "let these credentials read the secret"
            )
            raise SecretNotFound(str(error), hint=hint) from error
        if self._service == "ssm":
            return str(answer["Parameter"]["Value"])
        if "SecretString" not in answer:
            raise SecretNotFound(f"{self.where}, {name} is binary, expected text", hint="store it as text")
        return str(answer["SecretString"])


@asynccontextmanager
async def open_provider(rest: str) -> AsyncIterator[AwsSecrets]:
    """``aws:secretsmanager?prefix=flows/&region=eu-west-1``, or ``aws:ssm?...``; ``endpoint`` is another address.

    Raises InvalidInput.
    """
    service, options = parts("aws", rest, OPTIONS)
    if service not in ("", "secretsmanager", "ssm"):
        raise InvalidInput(f"secrets provider aws: has no service {service!r}, expected secretsmanager or ssm")
    given = {"region_name": options.get("region"), "endpoint_url": options.get("endpoint")}
    yield AwsSecrets(
        service or "secretsmanager",
        options.get("prefix", ""),
        {name: value for name, value in given.items() if value is not None},
    )
