"""Where requests lie in the gallery's file until the site that runs on it takes them up, and the answers after that.

Both sides have a connection of their own. Who asks waits, and takes the request back where nobody takes it up; so
nothing is done later that nobody waits for any more. What was answered keeps nothing of what was asked.
"""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reidge.edge.errors import InputError, ReidgeError
from reidge.edge.migrations import transaction
from reidge.edge.records import Statement
from reidge.edge.store import unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from reidge.edge.requests import Answer, Request
    from reidge.edge.store import Store

BUSY_SECONDS = 5.0
ANSWER_SECONDS = 5.0
"""How long who asks waits."""
STALE_SECONDS = 60.0
"""Age from which on a request is nobody's any more: who asked was killed while waiting."""
ASK_EVERY = 0.02
TAKEN = "taken"
"""In place of the answer while it is worked on."""


def thrown_away() -> Statement:
    """Delete requests that nobody waits for any more: they may hold what somebody looks like."""
    return Statement("DELETE FROM requests WHERE abs(? - at) > ?", (time.time(), STALE_SECONDS))


class NobodyAnswers(ReidgeError):
    """A request was taken back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One request in the file."""

    request_id: int
    text: str
    """JSON, for `read_request`."""


class Postbox:
    """The table of requests; use it in a `with`, from one thread.

    Args:
        store: Open, perhaps shared; it says where the file is and seals what is written.

    Raises:
        ReidgeError: The file cannot be opened.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        with self._telling():
            there = f"{store.path.absolute().as_uri()}?mode=rw"  # never made here
            self._db = sqlite3.connect(there, isolation_level=None, timeout=BUSY_SECONDS, uri=True)
            self._db.execute("PRAGMA secure_delete = ON")
            self._db.execute("PRAGMA foreign_keys = ON")

    def __enter__(self) -> Postbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def write(self, statements: Sequence[Statement]) -> None:
        """Add what the site does not hold in memory, such as lines of the audit.

        Raises:
            ReidgeError: The file cannot be written.
        """
        with self._telling(), transaction(self._db):
            for statement in statements:
                self._db.execute(statement.sql, statement.values)

    def ask(
        self, request: Request, *, seconds: float | None = None, nobody: Callable[[], bool] = lambda: False
    ) -> Answer:
        """Put a request and wait for its answer.

        Args:
            request: What is wanted.
            seconds: To wait.
            nobody: Whether there is nobody any more who could answer.

        Raises:
            InputError: The site refused it.
            NobodyAnswers: No site took it up, and none will.
            ReidgeError: It did not come to an end in time, or failed.
        """
        seconds = ANSWER_SECONDS if seconds is None else seconds
        number = self._put(request)
        deadline = time.monotonic() + seconds
        while (answer := self._answer_to(number)) is None and time.monotonic() < deadline and not nobody():
            time.sleep(ASK_EVERY)
        if answer is None and self._withdraw(number):
            raise NobodyAnswers(
                f"another reidge holds the gallery {self._store.path} and does not answer; nothing was changed. "
                "Where that is a site that runs, see its log; else try again."
            )
        if answer is None:
            raise ReidgeError(
                f"the site took it up and did not finish in {seconds:g} s. See its log, and: reidge gallery audit"
            )
        if "refused" in answer:
            raise InputError(answer["refused"])
        if "failed" in answer:
            raise ReidgeError(answer["failed"])
        return answer

    def take(self) -> list[Letter]:
        """Take up what lies there, the oldest first.

        What nobody waits for any more, answers too, is thrown away.

        Raises:
            ReidgeError: The file cannot be read or written.
        """
        with self._telling():
            rows = self._db.execute("SELECT request_id, at, arguments, answer FROM requests ORDER BY 1").fetchall()
        letters = []
        for request_id, at, arguments, answer in rows:
            if abs(time.time() - at) > STALE_SECONDS:
                self._execute("DELETE FROM requests WHERE request_id = ?", (request_id,))
            elif answer is None and self._execute(
                "UPDATE requests SET answer = ?2, arguments = '' WHERE request_id = ?1 AND answer IS NULL",
                (request_id, TAKEN),
            ):
                letters.append(Letter(request_id=request_id, text=self._opened(arguments)))
        return letters

    def answer(self, letter: Letter, answer: Answer) -> None:
        """Answer a request.

        Raises:
            ReidgeError: The file cannot be written.
        """
        text = self._store.seal_text(json.dumps(answer))
        values = (letter.request_id, text, time.time())
        self._execute("UPDATE requests SET answer = ?2, answered_at = ?3 WHERE request_id = ?1", values)

    def _opened(self, arguments: str) -> str:
        try:
            return self._store.unseal_text(arguments)
        except ValueError:
            return ""  # of nobody who knows the secret; it is refused like any other nonsense

    def _put(self, request: Request) -> int:
        arguments = self._store.seal_text(request.model_dump_json())
        action = str(request.model_dump(include={"action"})["action"])
        with self._telling():
            cursor = self._db.execute(
                "INSERT INTO requests (at, action, arguments) VALUES (?, ?, ?)", (time.time(), action, arguments)
            )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def _answer_to(self, number: int) -> dict[str, Any] | None:
        """The answer, which nobody else has a use for after that; None as long as there is none."""
        with self._telling():
            row = self._db.execute(
                "SELECT answer FROM requests WHERE request_id = ? AND answered_at IS NOT NULL", (number,)
            ).fetchone()
        if row is None:
            return None
        self._execute("DELETE FROM requests WHERE request_id = ?", (number,))
        found: dict[str, Any] = json.loads(self._store.unseal_text(row[0]))
        return found

    def _withdraw(self, number: int) -> bool:
        """Take a request back; False when it was taken up."""
        return self._execute("DELETE FROM requests WHERE request_id = ? AND answer IS NULL", (number,)) == 1

    def _execute(self, sql: str, values: tuple[object, ...]) -> int:
        with self._telling():
            return self._db.execute(sql, values).rowcount

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise unusable(self._store.path, error, "written") from error
