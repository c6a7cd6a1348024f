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


def install(channel: Channel) -> None:
    """Send the root logger's records from INFO on; a flow may set another level."""
    root = logging.getLogger()
    root.addHandler(EventHandler(channel))
    root.setLevel(logging.INFO)
