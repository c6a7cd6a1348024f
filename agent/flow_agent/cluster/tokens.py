"""Tokens for an API server: none, one that never changes, one in a file that is renewed, one that a program gives."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from flow_agent.errors import ClusterError

READ_EVERY = 60.0
"""Seconds for which a token out of a file is used before it is read again: the kubelet renews them hourly."""
PROGRAM_WITHIN = 60.0
"""Seconds that a program may take to give a token."""
EARLY = 30.0
"""Seconds before a token's end at which another one is asked for."""


class Tokens:
    """One token that never changes; empty: none is sent."""

    def __init__(self, token: str = "") -> None:
        self._token = token

    async def current(self, *, refused: bool = False) -> str:  # noqa: ARG002 - the other kinds of tokens, which override this, heed it
        """The token to send; with ``refused`` another one than the last, if there is one.

        Raises ClusterError: there is none now.
        """
        return self._token


class FileTokens(Tokens):
    """A token in the file ``path``, which somebody renews."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path, self._read = path, float("-inf")

    async def current(self, *, refused: bool = False) -> str:
        """See ``Tokens.current``."""
        if refused or time.monotonic() - self._read > READ_EVERY:
            try:
                self._token = (await anyio.Path(self._path).read_text()).strip()
            except OSError as error:
                raise ClusterError(
                    f"the token of the service account in {self._path} cannot be read: {error.strerror}",
                    transient=True,
                    hint="see that the pod's service account has automountServiceAccountToken",
                ) from error
            self._read = time.monotonic()
        return self._token


class ProgramTokens(Tokens):
    """What the program of a kubeconfig gives: https://kubernetes.io/docs/reference/access-authn-authz/authentication.

    ``certificate`` is told of a certificate and its key, in PEM, where the program gives those.
    """

    def __init__(self, spec: Mapping[str, Any], certificate: Callable[[str, str], None]) -> None:
        super().__init__()
        self._argv: Sequence[str] = [spec["command"], *(spec.get("args") or ())]
        self._env = {each["name"]: each["value"] for each in spec.get("env") or ()}
        self._version = spec.get("apiVersion") or "client.authentication.k8s.io/v1"
        self._certificate, self._until = certificate, float("-inf")
        self._asking = anyio.Lock()

    async def current(self, *, refused: bool = False) -> str:
        """See ``Tokens.current``."""
        before = self._token
        async with self._asking:
            renewed = self._token != before  # somebody else has asked meanwhile
            if not renewed and (refused or time.time() > self._until):
                status = await anyio.to_thread.run_sync(self._ask)
                self._token, self._until = str(status.get("token") or ""), _end_of(status)
                if status.get("clientCertificateData"):
                    self._certificate(status["clientCertificateData"], status["clientKeyData"])
        return self._token

    def _ask(self) -> dict[str, Any]:
        information = {"apiVersion": self._version, "kind": "ExecCredential", "spec": {"interactive": False}}
        env = {**os.environ, **self._env, "KUBERNETES_EXEC_INFO": json.dumps(information)}
        run = partial(subprocess.run, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        try:
            done = run(self._argv, env=env, timeout=PROGRAM_WITHIN)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ClusterError(
                f"the program {self._argv[0]} of the kubeconfig gives no token: {error}", transient=True
            ) from error
        if done.returncode != 0:
            words = done.stderr.strip().splitlines()
            raise ClusterError(
                f"the program {self._argv[0]} of the kubeconfig ended with code {done.returncode}"
                + (f": {words[-1]}" if words else ""),
                transient=True,
            )
        try:
            return dict(json.loads(done.stdout)["status"])
        except (ValueError, KeyError, TypeError) as error:
            raise ClusterError(
                f"the program {self._argv[0]} of the kubeconfig wrote something else than an ExecCredential",
                transient=False,
            ) from error


def _end_of(status: Mapping[str, Any]) -> float:
    try:
        return datetime.fromisoformat(status["expirationTimestamp"]).timestamp() - EARLY
    except (KeyError, TypeError, ValueError):
        return float("inf")
