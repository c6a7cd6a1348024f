"""Where the cluster is and who we are there: the service account of the pod we are in, or a kubeconfig."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flow_agent.cluster.tokens import FileTokens, ProgramTokens, Tokens
from flow_agent.errors import ClusterError, InvalidInput

_PATHS = frozenset({"certificate-authority", "client-certificate", "client-key", "tokenFile"})
"""What names a file in a kubeconfig."""
_OF_CLUSTER = frozenset({"tls-server-name", "proxy-url"})
_OF_USER = frozenset({"as", "as-uid", "as-groups", "as-user-extra", "username", "password"})
"""What a kubeconfig may say that is not obeyed here."""
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds the token of its service account, its namespace, and the cluster's authority."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """``identity`` names the cluster, the same for every agent in it; ``namespace`` is the one we are at home in."""

    server: str
    namespace: str
    identity: str
    verify: ssl.SSLContext
    tokens: Tokens


def may_be_there(kubeconfig: Path | None) -> bool:
    """Whether there is a cluster to ask: this is a pod of one, or a kubeconfig is named."""
    return bool(kubeconfig or os.environ.get("KUBECONFIG") or os.environ.get("KUBERNETES_SERVICE_HOST"))


def found(
    *,
    kubeconfig: Path | None = None,
    context: str = "",
    namespace: str = "",
    cluster: str = "",
    account: Path = ACCOUNT,
) -> Access:
    """The access that the settings name: a kubeconfig, else ``KUBECONFIG``, else the pod that this is. Blocks.

    ``cluster`` is what the cluster is called, where its certificates cannot tell.

    Raises InvalidInput: the kubeconfig does not fit. ClusterError: there is none, and this is no pod.
    """
    paths = [str(kubeconfig)] if kubeconfig else os.environ.get("KUBECONFIG", "").split(os.pathsep)
    paths = [path for path in paths if path]
    if paths:
        return _of_kubeconfig([Path(path).expanduser() for path in paths], context, namespace, cluster)
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise ClusterError(
            "this is no pod of a cluster, and no kubeconfig is named",
            transient=False,
            hint="set KUBECONFIG or kubernetes.kubeconfig, or run the agent in the cluster",
        )
    authority = account / "ca.crt"
    try:
        verify = ssl.create_default_context(cafile=str(authority))
        home = namespace or (account / "namespace").read_text().strip()
        identity = cluster or _digest(authority.read_bytes())
    except OSError as error:
        raise ClusterError(
            f"the service account of this pod cannot be read in {account}: {error.strerror or error}",
            transient=False,
            hint="see that the pod has automountServiceAccountToken",
        ) from error
    shown = f"[{host}]" if ":" in host else host
    tokens = FileTokens(account / "token")
    return Access(server=f"https://{shown}:{port}", namespace=home, identity=identity, verify=verify, tokens=tokens)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data.strip()).hexdigest()[:16]


# A kubeconfig


def _of_kubeconfig(paths: list[Path], context: str, namespace: str, cluster: str) -> Access:
    whole = _merged(paths)
    chosen = context or whole.get("current-context") or ""
    here = _named(whole, "contexts", chosen, "context", paths)
    place = _named(whole, "clusters", here.get("cluster", ""), "cluster", paths)
    user = _named(whole, "users", here["user"], "user", paths) if here.get("user") else {}
    try:
        server = str(place["server"]).rstrip("/")
        authority = _data(place, "certificate-authority")
        verify = ssl.create_default_context(cadata=authority.decode() if authority else None)
        if place.get("insecure-skip-tls-verify"):
            verify.check_hostname, verify.verify_mode = False, ssl.CERT_NONE
        certificate, key = _data(user, "client-certificate"), _data(user, "client-key")
        if certificate and key:
            _load(verify, certificate.decode(), key.decode())
    except (KeyError, ValueError, OSError) as error:
        raise InvalidInput(
            f"the context {chosen!r} of the kubeconfig {_shown(paths)} cannot be used: {type(error).__name__}: {error}",
            hint="`kubectl --context` with it should work",
        ) from error
    ignored = sorted(name for name in (*_OF_CLUSTER & place.keys(), *_OF_USER & user.keys()) if {**place, **user}[name])
    if ignored:  # to leave one out could mean other rights, or another server
        raise InvalidInput(
            f"the context {chosen!r} in {_shown(paths)} asks for {', '.join(ignored)}, which flow-agent does not know",
            hint="name a context without it",
        )
    if "auth-provider" in user:
        raise InvalidInput(
            f"the user of the context {chosen!r} in {_shown(paths)} has an auth-provider, which clusters know no more",
            hint="let it have exec, tokenFile, token or a client certificate",
        )
    return Access(
        server=server,
        namespace=namespace or here.get("namespace") or "default",
        identity=cluster or _digest(authority or server.encode()),
        verify=verify,
        tokens=_tokens(user, verify),
    )


def _tokens(user: Mapping[str, Any], verify: ssl.SSLContext) -> Tokens:
    if "exec" in user:
        return ProgramTokens(user["exec"], lambda certificate, key: _load(verify, certificate, key))
    if user.get("tokenFile"):
        return FileTokens(Path(user["tokenFile"]))
    return Tokens(str(user.get("token") or ""))


def _merged(paths: list[Path]) -> dict[str, Any]:
    """All files as one, the first word counts; paths in a file are counted from its folder."""
    merged: dict[str, Any] = {}
    for path in paths:
        for name, value in _read(path).items():
            if isinstance(value, list):
                for each in value:
                    _make_absolute(each.get(name.removesuffix("s")) if isinstance(each, dict) else None, path)
                merged[name] = [*merged.get(name, []), *value]
            else:
                merged.setdefault(name, value)
    return merged


def _make_absolute(table: Any, file: Path) -> None:
    for name in _PATHS & (table.keys() if isinstance(table, dict) else set()):
        table[name] = str(file.absolute().parent / str(table[name]))


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
    except OSError as error:
        raise InvalidInput(
            f"the kubeconfig {path} cannot be read: {error.strerror}", hint="set KUBECONFIG to one that can"
        ) from error
    try:
        read = json.loads(text)
    except ValueError:
        read = _yaml(text, path)
    if not isinstance(read, dict):
        raise InvalidInput(f"the kubeconfig {path} is no table, expected clusters, users and contexts")
    return read


def _yaml(text: str, path: Path) -> Any:
    try:
        import yaml  # noqa: PLC0415 - of the extra `kubernetes`: its absence is told below
    except ImportError:
        raise InvalidInput(
            f"the kubeconfig {path} is YAML, for which a package is missing",
            hint="install flow-agent-daemon[kubernetes]",
        ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidInput(f"the kubeconfig {path} is no YAML: {str(error).splitlines()[0]}") from None


def _named(whole: Mapping[str, Any], where: str, name: str, field: str, paths: list[Path]) -> Mapping[str, Any]:
    for each in whole.get(where) or ():
        if each.get("name") == name:
            return dict(each.get(field) or {})
    known = ", ".join(repr(each.get("name")) for each in whole.get(where) or ()) or "none"
    raise InvalidInput(
        f"the kubeconfig {_shown(paths)} has no {field} {name!r}; it has {known}",
        hint="name one with kubernetes.context, or `kubectl config use-context`",
    )


def _data(table: Mapping[str, Any], name: str) -> bytes | None:
    """What stands in the file itself, else in the one it names."""
    if table.get(f"{name}-data"):
        return base64.b64decode(table[f"{name}-data"])
    return Path(table[name]).read_bytes() if table.get(name) else None


def _load(verify: ssl.SSLContext, certificate: str, key: str) -> None:
    """Show this certificate from now on; OpenSSL wants it from a file, which is ours alone and gone again."""
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(f"{certificate}\n{key}\n")
        file.flush()
        verify.load_cert_chain(file.name)


def _shown(paths: list[Path]) -> str:
    return os.pathsep.join(map(str, paths))
