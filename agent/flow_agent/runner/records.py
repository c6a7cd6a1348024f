"""Log records of the flow become events, with level and logger."""

from __future__ import annotations

import logging

from flow_agent.runner.channel import Channel


class EventHandler(logging.Handler):
    """Sends each record to the keeper."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel
        self.setFormatter(logging.Formatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Send ``record``; one that cannot be formatted or sent is reported as :mod:`logging` does it."""
        try:
            text = self.format(record)
            self._channel.send(log={"level": record.levelname, "logger": record.name, "text": text})
        except Exception:  # the contract of logging.Handler.emit
            self.handleError(record)


class _Installed:
    """The handler of this process; none where a flow runs without an agent."""

    handler: EventHandler | None = None


def install(channel: Channel) -> None:
    """Send the root logger's records from INFO on; a flow may set another level."""
    root = logging.getLogger()
    _Installed.handler = EventHandler(channel)
    root.addHandler(_Installed.handler)
    root.setLevel(logging.INFO)


def take_over(framework: str) -> None:
    """Send the records of a framework's loggers too, which has them printed, and perhaps has taken our handler away."""
    if _Installed.handler is None:
        return
    root = logging.getLogger()
    names = [name for name in root.manager.loggerDict if f"{name}.".startswith(f"{framework}.")]
    for logger in (root, *map(logging.getLogger, names)):
        for handler in list(logger.handlers):
            prints = isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)
            if prints and (logger is not root or type(handler).__module__.startswith(framework)):
                logger.removeHandler(handler)
        logger.propagate = True
    # It talks to its server by HTTP, which would be most of the log.
    for name in ("httpx", "httpcore"):
        if logging.getLogger(name).level == logging.NOTSET:
            logging.getLogger(name).setLevel(logging.WARNING)
    if _Installed.handler not in root.handlers:
        root.addHandler(_Installed.handler)
