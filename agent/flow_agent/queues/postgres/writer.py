"""The turns of a PostgreSQL database, each one transaction on the connection of this queue that writes."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import errors

from flow_agent.errors import QueueUnavailable
from flow_agent.queues.postgres import failures
from flow_agent.queues.postgres.clock import ServerClock
from flow_agent.queues.postgres.connection import Database
from flow_agent.queues.postgres.session import Session
from flow_agent.queues.turns import PATIENCE, Job, Turn, Turns

TRIES = 10
"""Times that a turn is tried which loses against others, who lock the same runs in another order."""
_OWN_FAULT = (psycopg.IntegrityError, psycopg.DataError, errors.ProgramLimitExceeded)
"""Errors of one operation; after any other one of psycopg's the whole transaction is lost."""
_POKE = "select pg_notify('flow_agent.' || current_schema(), '')"


class Writer(Turns):
    """The one connection of this queue that writes; ``clock`` tells the server's time in its thread."""

    def __init__(self, database: Database, clock: ServerClock, *, patience: float = PATIENCE) -> None:
        super().__init__(patience)
        self._database, self._clock = database, clock
        self._session: Session | None = None

    def _no_answer(self) -> QueueUnavailable:
        return self._database.no_answer(self._patience)

    def _give_up(self) -> None:
        if self._busy.locked() and (session := self._session) is not None:
            session.cut()

    # In the thread

    def _work(self, turn: Turn) -> None:
        if not self._busy.acquire(timeout=self._patience):  # a turn that was given up still waits
            raise self._no_answer()
        try:
            with self._database.errors():
                if turn.begin():
                    self._try(turn)
        finally:
            self._busy.release()

    def _try(self, turn: Turn) -> None:
        for tries in range(TRIES):
            used = self._session is not None and not self._session.closed
            try:
                self._transact(turn)
                return
            except psycopg.Error as error:
                # The server has closed it since the last turn.
                idle = used and not turn.sent and (error.sqlstate is None or error.sqlstate.startswith("57P"))
                if error.sqlstate in failures.NOT_PREPARED:
                    self._database.prepare_nothing()
                    self._drop()
                elif error.sqlstate in failures.OUTDATED:
                    self._drop()
                elif error.sqlstate not in failures.AGAIN and not idle:
                    raise
                if tries == TRIES - 1 or turn.given_up:
                    raise

    def _transact(self, turn: Turn) -> None:
        turn.sent = False
        if self._session is None or self._session.closed:
            self._session = Session(self._database.connect(), self._database, writes=True)
        session = self._session
        self._gather(turn)
        try:
            session.begin(lasting=any(job.lasting for job in turn.batch))
            turn.sent = True
            self._clock.ask(session.now)
            if len(turn.batch) > 1:
                session.hold({each for job in turn.batch for each in job.holds})
            answers = [self._step(session, job, alone=len(turn.batch) == 1) for job in turn.batch]
            if any(job.poke and error is None for job, (_, error) in zip(turn.batch, answers, strict=True)):
                session.connection.execute(_POKE)
            session.connection.execute("commit")
        except BaseException:
            try:
                session.undo()
            except psycopg.Error:
                self._drop()
            raise
        turn.answers = answers

    def _step(self, session: Session, job: Job, *, alone: bool) -> tuple[Any, BaseException | None]:
        connection = session.connection
        if not alone:
            connection.execute("savepoint step")
        for again in reversed(range(TRIES)):
            try:
                with session.together():
                    answer = job.operation(session)
            except Exception as error:
                if isinstance(error, psycopg.Error) and not isinstance(error, _OWN_FAULT):
                    raise
                if alone:
                    session.again()
                else:
                    session.forget()
                    connection.execute("rollback to step")
                # Somebody else has just stored the same key or version: the operation will find it now.
                if again and isinstance(error, errors.UniqueViolation):
                    continue
                if isinstance(error, psycopg.Error):
                    return None, failures.from_postgres(error, self._database.shown, reached=True)
                return None, error
            break
        if not alone:
            connection.execute("release step")
        return answer, None

    def _drop(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def close(self) -> None:
        """Close the connection; a turn that goes on is cut off."""
        self._give_up()
        if self._busy.acquire(timeout=self._patience):
            try:
                self._drop()
            finally:
                self._busy.release()
