"""What the answers of Google Cloud Storage mean: whether another try can help, and the way out."""

from __future__ import annotations

import json
from collections.abc import Mapping

from flow_agent.errors import StoreError

HINTS = {
    401: "see that these credentials are still good; anonymous access is only for public buckets",
    403: "give this account the role Storage Object Viewer on the bucket (to store: Storage Object User); a bucket"
    " whose reader pays needs client_options={'requester_pays': 'PROJECT'}",
    412: "an object of that name is there already; give another key, or overwrite=True",
}


def explained(
    what: str, status: int, body: bytes, headers: Mapping[str, str], credentials: str, *, again: bool = False
) -> StoreError:
    """An answer with ``status`` that was not expected at ``what``; ``again``: a new token may help."""
    text = f"{what}: {status}{_said(body)}"
    if status == 404:
        return StoreError(text, transient=False, missing=True)
    if status in (408, 429) or status >= 500:
        return StoreError(text, transient=True, retry_after=_retry_after(headers))
    return StoreError(f"{text}; credentials: {credentials}", transient=again, hint=HINTS.get(status))


def _said(body: bytes) -> str:
    """The message of an error of the API, if the body is one."""
    try:
        message = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return ""
    return f" ({str(message)[:300]})"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    try:
        return max(0.0, float(headers.get("Retry-After", "")))
    except ValueError:
        return None
