"""The server's certificate and its key: whether they can be used, and in words why not."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

from flow_agent.errors import FlowAgentError, InvalidInput

_KEY = re.compile(rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----")
_ENCRYPTED = re.compile(rb"-----BEGIN ENCRYPTED PRIVATE KEY-----|Proc-Type: *4, *ENCRYPTED")
_CERTIFICATE = re.compile(rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----")
_MISMATCH = {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}
"""OpenSSL's words for a key that is another one's; which of them depends on the kinds of the two."""
_PEM = "expected PEM, as `openssl x509 -in FILE -outform PEM` writes it"


def context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """What encrypts by them; None without either.

    Raises InvalidInput: there is a key only, which would go unused and leave all in clear text. FlowAgentError: a file
    cannot be used.
    """
    if certificate is None:
        if key is None:
            return None
        raise InvalidInput(
            f"server.key is {key}, and there is no server.certificate: all would go over the network in clear text",
            hint="give --server-certificate too, or leave --server-key out to serve http:// knowingly",
        )
    _look_at(certificate, key)
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # Without a password OpenSSL would ask the terminal for one.
        made.load_cert_chain(certificate, key, password="")
    except OSError as error:
        raise _unusable(certificate, key, error) from error
    return made


def _look_at(certificate: Path, key: Path | None) -> None:
    """What OpenSSL has no words for."""
    content = _content(certificate, "server.certificate")
    if not _CERTIFICATE.search(content):
        raise FlowAgentError(f"server.certificate {certificate} holds no certificate", hint=_PEM)
    name, where, kept = "server.certificate", certificate, content
    if key is not None:
        name, where, kept = "server.key", key, _content(key, "server.key")
    if _ENCRYPTED.search(kept):
        raise FlowAgentError(
            f"the key in {name} {where} is encrypted, and nobody is there to type its password",
            hint=f"decrypt it, for this user's eyes only: `umask 077; openssl pkey -in {where} -out plain.pem`",
        )
    if not _KEY.search(kept) and key is None:
        raise FlowAgentError(
            f"server.certificate {certificate} holds no private key, and there is no server.key",
            hint="give the file with its key in --server-key",
        )
    if not _KEY.search(kept):
        raise FlowAgentError(
            f"server.key {key} holds no private key", hint="expected PEM, as `openssl pkey -in FILE` writes it"
        )


def _content(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FlowAgentError(
            f"{name} {path} cannot be read: {error.strerror}",
            hint="it names a file in PEM format that this user can read",
        ) from error


def _unusable(certificate: Path, key: Path | None, error: OSError) -> FlowAgentError:
    reason = getattr(error, "reason", None) or ""
    if reason in _MISMATCH:
        return FlowAgentError(
            f"the key in {key or certificate} is not that of the certificate in {certificate}",
            hint="the server's own certificate stands first in its file, those of its authorities behind it",
        )
    files = f"{certificate} and {key}" if key is not None else f"{certificate}"
    return FlowAgentError(
        f"server.certificate and server.key, {files}, cannot be used: {reason.lower().replace('_', ' ') or error}",
        hint=f"look at them with `openssl x509 -in {certificate}` and `openssl pkey -in {key or certificate}`",
    )
