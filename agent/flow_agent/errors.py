"""Every error that this program raises on purpose.

::

    FlowAgentError                 message, and the way out as ``hint``
    ├── InvalidInput               what a person gave does not fit                          exit code 2
    │   ├── SettingsError          option, variable or file
    │   └── ParametersInvalid      parameters against the flow's signature
    ├── RegistrationError          the file raises, holds no flow, or cannot be stored
    ├── NotFound                   no such flow, run, result
    ├── AgentRunning               another live agent holds this name
    ├── StoreError                 an object store refuses or does not answer; ``transient`` says which
    ├── EngineError                a Docker engine refuses or does not answer; ``transient`` says which
    │   ├── ClusterError           the API server of a Kubernetes cluster does
    │   └── CloudError             a service of AWS that runs tasks does
    ├── QueueError                 the queue refuses, lastingly
    │   ├── QueueUnavailable       no answer now; the same call may go through later
    │   ├── QueueTooNew            the database was written by a newer program
    │   └── ClaimLost              this claim is not the current one of its run
    └── RunError                   ends an attempt; carries its ``reason``
        ├── FetchError             ``transient`` says whether another try can help
        ├── VerificationError      what was fetched is not what was registered
        ├── SecretNotFound
        ├── SecretUnavailable      a provider did not answer; always transient
        ├── LaunchError
        └── ResultError

A message says what is, what was expected and the way out, has no full stop after a single sentence, and never
holds a secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flow_agent.model import Reason

if TYPE_CHECKING:
    import anyio


class FlowAgentError(Exception):
    """The root; ``hint`` is the way out, one sentence."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class InvalidInput(FlowAgentError):
    """What a person gave does not fit; nothing was changed."""

    exit_code = 2


class SettingsError(InvalidInput):
    """An option, a variable or the settings file holds what no setting can be."""


class ParametersInvalid(InvalidInput):
    """The parameters do not fit the flow's signature."""


class RegistrationError(FlowAgentError):
    """A file cannot be registered; nothing of it was.

    ``traceback`` is what the file's own code raised, as Python shows it, without our frames; empty if it did not.
    """

    def __init__(self, message: str, *, hint: str | None = None, traceback: str = "") -> None:
        super().__init__(message, hint=hint)
        self.traceback = traceback


class NotFound(FlowAgentError):
    """Nothing of that name or id is in the queue."""


class AgentRunning(FlowAgentError):
    """A live agent of the same name already works in this home."""


class StoreError(FlowAgentError):
    """An object store refuses, or does not answer; names bucket and key, never a secret.

    ``transient`` says whether another try can help, ``missing`` that there is no such object, and ``retry_after``
    the seconds that the store asked us to wait, if it did.
    """

    def __init__(
        self,
        message: str,
        *,
        transient: bool,
        missing: bool = False,
        hint: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.transient = transient
        self.missing = missing
        self.retry_after = retry_after


class EngineError(FlowAgentError):
    """A Docker engine refuses, or does not answer; never holds a secret.

    ``transient`` says whether another try can help, ``status`` is the engine's own code (of HTTP; None without an
    answer), ``missing`` that what was named is not there, ``away`` that there was no answer at all.
    """

    def __init__(
        self,
        message: str,
        *,
        transient: bool,
        status: int | None = None,
        missing: bool = False,
        away: bool = False,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.transient = transient
        self.status = status
        self.missing = missing
        self.away = away


class ClusterError(EngineError):
    """The API server of a cluster refuses, or does not answer; never holds a secret.

    ``reason`` is the server's own word for it (``AlreadyExists``), ``retry_after`` the seconds it asked us to wait.
    """

    def __init__(
        self,
        message: str,
        *,
        transient: bool,
        status: int | None = None,
        reason: str = "",
        missing: bool = False,
        away: bool = False,
        retry_after: float | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, transient=transient, status=status, missing=missing, away=away, hint=hint)
        self.reason = reason
        self.retry_after = retry_after


class CloudError(EngineError):
    """A service of AWS that runs tasks refuses, or does not answer; never holds a secret.

    ``code`` is the service's own word for it (``ThrottlingException``).
    """

    def __init__(
        self,
        message: str,
        *,
        transient: bool,
        code: str = "",
        retry_after: float | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, transient=transient, hint=hint)
        self.code, self.retry_after = code, retry_after


class QueueError(FlowAgentError):
    """The queue refuses; the same call will be refused again."""


class QueueUnavailable(QueueError):
    """The queue does not answer now; the same call may go through later.

    ``back`` is set when the queue answers somebody again, where there is somebody who sees it.
    """

    back: anyio.Event | None = None


class QueueTooNew(QueueError):
    """The database was written by a newer program than this one."""


class ClaimLost(QueueError):
    """The claim is not the current one of its run: it expired, was taken over, or the run has ended."""


class RunError(FlowAgentError):
    """Ends an attempt with a ``reason``; ``transient`` says whether a later try can help."""

    reason = Reason.AGENT_ERROR
    transient = False


class FetchError(RunError):
    """The payload could not be fetched; names storage and location, never a secret."""

    reason = Reason.FETCH_FAILED

    def __init__(
        self,
        message: str,
        *,
        transient: bool,
        hint: str | None = None,
        retry_after: float | None = None,
        reason: Reason | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.transient = transient
        self.retry_after = retry_after
        """Seconds that the storage asked us to wait, if it did."""
        if reason is not None:
            self.reason = reason


class VerificationError(RunError):
    """What was fetched is not what was registered, or may not run here."""

    reason = Reason.DIGEST_MISMATCH

    def __init__(self, message: str, *, reason: Reason = Reason.DIGEST_MISMATCH, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class SecretNotFound(RunError):
    """No provider has the secret; the message names every place that was looked in."""

    reason = Reason.SECRET_NOT_FOUND


class SecretUnavailable(RunError):
    """A provider of secrets did not answer."""

    reason = Reason.SECRET_NOT_FOUND
    transient = True


class LaunchError(RunError):
    """The attempt could not be started; nothing of it is left behind."""

    reason = Reason.LAUNCH_FAILED

    def __init__(
        self, message: str, *, transient: bool = False, hint: str | None = None, reason: Reason | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.transient = transient
        if reason is not None:
            self.reason = reason


class ResultError(RunError):
    """The return value could not be stored or read back."""

    reason = Reason.RESULT_FAILED

    def __init__(
        self, message: str, *, transient: bool = False, hint: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.transient = transient
        self.retry_after = retry_after


def sentence(error: BaseException) -> str:
    """The error and its way out in one line, as it stands in a run's detail."""
    hint = getattr(error, "hint", None)
    return f"{error}; {hint}" if hint else str(error)


def first_of_ours(group: BaseExceptionGroup[BaseException]) -> FlowAgentError | None:
    """The first error of this tree in the group; None if there is none."""
    for error in group.exceptions:
        found = first_of_ours(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(found, FlowAgentError):
            return found
    return None
