"""What the errors of Azure's SDK mean: whether another try can help, and the way out."""

from __future__ import annotations

from flow_agent.errors import StoreError

DEFAULT_SECRET = "AZURE_STORAGE_CONNECTION_STRING"  # noqa: S105 - its name
HINTS = {
    "AuthenticationFailed": "see that key or signature belong to this account, that the signature has not expired, and"
    " that the clock of this machine is right",
    "AuthorizationFailure": "let this identity, or this network, reach the account; see that a signature has not"
    " expired",
    "AuthorizationPermissionMismatch": "give this identity the role Storage Blob Data Reader (to store: Contributor)",
    "AuthorizationProtocolMismatch": "the signature is for https only",
    "BlobAlreadyExists": "give another blob_name, or overwrite=True",
    "ContainerNotFound": "see that the container's name and the account are right",
}


def explained(what: str, error: Exception, source: str) -> StoreError:
    """What an error of the SDK at ``what`` means."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    status, name = getattr(error, "status_code", None), code(error)
    if status is None:
        if "ClientAuthenticationError" in kinds or "CredentialUnavailableError" in kinds:
            return StoreError(
                f"{what}: no credentials: {' '.join(str(error).split())[:600]}; credentials: {source}",
                transient=False,
                hint=f"set the secret {DEFAULT_SECRET}, or give this machine an identity",
            )
        if isinstance(error, TypeError | ValueError) and "response header" not in str(error):
            return StoreError(
                f"{what}: {_first_line(error)}", transient=False, hint="see client_options and upload_options"
            )
        return StoreError(f"{what}: {type(error).__name__}: {_first_line(error)}", transient=True)
    text = f"{what}: {status} {name or getattr(error, 'reason', '')}".rstrip()
    if status == 404:
        return StoreError(text, transient=False, missing=True, hint=HINTS.get(name))
    if status in (408, 429) or status >= 500:
        return StoreError(text, transient=True, retry_after=_retry_after(error))
    if name == "AuthenticationFailed" and (detail := _detail(error)):
        text += f" ({detail})"
    hint = HINTS.get(name) or (HINTS["AuthorizationPermissionMismatch"] if status in (401, 403) else None)
    return StoreError(f"{text}; credentials: {source}", transient=False, hint=hint)


def code(error: BaseException | None) -> str:
    """The service's own word for the error; empty if it has none."""
    code = getattr(error, "error_code", None) or ""
    return str(getattr(code, "value", code))  # an enumeration, where the SDK knows the word


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:300]


def _detail(error: Exception) -> str:
    """What Azure says of a refused signature, as far as it names times only."""
    said = str(getattr(error, "message", ""))
    start = said.find("Signature not valid in the specified time frame")
    return said[start:].splitlines()[0][:200] if start >= 0 else ""


def _retry_after(error: Exception) -> float | None:
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    try:
        return max(0.0, float(headers.get("Retry-After", "")))
    except (TypeError, ValueError):
        return None
