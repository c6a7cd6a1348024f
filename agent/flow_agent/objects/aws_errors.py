"""What the errors of boto3 mean: whether another try can help, and the way out."""

from __future__ import annotations

from typing import Any

from flow_agent.errors import StoreError

MISSING = frozenset({"NoSuchKey", "NoSuchVersion", "NoSuchBucket", "404", "NotFound", "MethodNotAllowed"})
EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"})
STALE = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidClientTokenId", "UnrecognizedClientException"}
)
BUSY = frozenset(
    {"SlowDown", "RequestTimeout", "RequestTimeoutException", "InternalError", "ServiceUnavailable", "Throttling"}
    | {
        "ThrottlingException",
        "ThrottledException",
        "TooManyRequestsException",
        "RequestLimitExceeded",
        "OperationAborted",
    }
)
HINTS = {
    "AccessDenied": "let these credentials read the object (s3:GetObject, also GetObjectVersion); without the"
    " permission to list, S3 says so for an object that is not there too; a bucket whose reader pays needs"
    " upload_options={'RequestPayer': 'requester'}",
    "SignatureDoesNotMatch": "the secret access key does not belong to the access key",
    "InvalidAccessKeyId": "the access key is not known there: see that it belongs to this endpoint",
    "RequestTimeTooSkewed": "set the clock of this machine, as with NTP",
    "PreconditionFailed": "an object of that name is there already; give another key, or overwrite=True",
    "PermanentRedirect": "the bucket is in another region: client_options={'region_name': ...}",
    "AuthorizationHeaderMalformed": "the bucket is in another region: client_options={'region_name': ...}",
    "IllegalLocationConstraintException": "the bucket is in another region: client_options={'region_name': ...}",
    "NoSuchBucket": "see that the bucket's name and the endpoint are right",
}
LASTING = {
    "NoCredentialsError": "give the secret AWS_CREDENTIALS, or what boto3 looks for (AWS_PROFILE, a role of the"
    " machine; in a container the machine's role needs a hop limit of 2)",
    "PartialCredentialsError": "give access key and secret access key together",
    "ProfileNotFound": "see ~/.aws/config, or unset AWS_PROFILE",
    "NoRegionError": "client_options={'region_name': ...}, or AWS_DEFAULT_REGION",
    "ParamValidationError": "see the names in bucket, key and upload_options",
    "SSLError": "give the authority's certificate: AWS_CA_BUNDLE, or client_options={'verify': '/path/ca.pem'}",
    "UnauthorizedSSOTokenError": "run `aws sso login` as the agent's user",
    "SSOTokenLoadError": "run `aws sso login` as the agent's user",
    "TokenRetrievalError": "run `aws sso login` as the agent's user",
    "InvalidConfigError": "see ~/.aws/config",
    "ConfigNotFound": "see AWS_CONFIG_FILE",
}


def code(error: BaseException | None) -> str:
    """The service's own word for the error; empty if it has none."""
    return str(_part(error, "Error").get("Code") or "")


def status(error: BaseException | None) -> int | None:
    """The HTTP status of the answer, if there was one."""
    found = _part(error, "ResponseMetadata").get("HTTPStatusCode")
    return found if isinstance(found, int) else None


def is_of_sdk(error: BaseException) -> bool:
    """Whether boto3 raised it, and not the disk."""
    return any(kind.__name__ == "BotoCoreError" for kind in type(error).__mro__)


def is_expired(error: BaseException) -> bool:
    """Whether the credentials were good once."""
    return code(error) in EXPIRED


def is_stale(error: BaseException) -> bool:
    """Whether the credentials may have been changed since they were looked for."""
    return code(error) in EXPIRED | STALE


def _part(error: BaseException | None, name: str) -> dict[str, Any]:
    response = getattr(error, "response", None)
    found = response.get(name) if isinstance(response, dict) else None
    return found if isinstance(found, dict) else {}


def explained(what: str, error: Exception, credentials: str, *, again: bool = True) -> StoreError:
    """``error`` of boto3 at ``what``; ``again``: expired credentials were not refused a moment ago already."""
    if status(error) is None:
        return _without_answer(what, error, credentials)
    name, number = code(error), status(error) or 0
    said = str(_part(error, "Error").get("Message") or "")[:300]
    text = f"{what}: {number} {name}{f' ({said})' if said else ''}"
    if name in MISSING or "version id" in said.lower():
        return StoreError(text, transient=False, missing=True, hint=HINTS.get(name))
    if name in EXPIRED:
        return StoreError(f"{text}; credentials: {credentials}", transient=again, hint="renew these credentials")
    if name in BUSY or number == 429 or number >= 500:
        return StoreError(text, transient=True, retry_after=_retry_after(error))
    if number == 407:
        return StoreError(f"{text}: the proxy wants credentials", transient=False, hint="give them in HTTPS_PROXY")
    hint = HINTS.get(name) or (HINTS["AccessDenied"] if number == 403 else None)
    return StoreError(f"{text}; credentials: {credentials or 'none'}", transient=False, hint=hint)


def _without_answer(what: str, error: Exception, credentials: str) -> StoreError:
    kinds = [kind.__name__ for kind in type(error).__mro__]
    for kind in kinds:
        if kind in LASTING:
            used = f"; credentials: {credentials}" if credentials else ""
            return StoreError(f"{what}: {error}{used}", transient=False, hint=LASTING[kind])
    if "header value" in str(error):  # it would be quoted
        return StoreError(
            f"{what}: an access key or a session token has a line end or another character that no header can hold",
            transient=False,
            hint=f"give it without; credentials: {credentials or 'none'}",
        )
    if isinstance(error, TypeError | ValueError | AttributeError) and "BotoCoreError" not in kinds:
        # What client() and Config() raise for an option that they do not know.
        return StoreError(f"{what}: {error}", transient=False, hint="see client_options and upload_options")
    return StoreError(f"{what}: {type(error).__name__}: {error}", transient=True)


def _retry_after(error: Exception) -> float | None:
    headers = _part(error, "ResponseMetadata").get("HTTPHeaders") or {}
    try:
        return max(0.0, float(headers.get("retry-after", "")))
    except ValueError:
        return None
