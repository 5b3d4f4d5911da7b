"""Something in memory that a file follows: how far behind it is, and how long to wait for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reidge.edge.errors import ReidgeError
from reidge.edge.keeper import Keeper

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reidge.edge.records import Statement
    from reidge.edge.store import Store

WRITE_SECONDS = 2.0
"""For the file to become like the gallery, where somebody waits for it."""
SETTLE_SECONDS = 0.02
"""The same between two moments of the loop, as long as the disk keeps up."""


class Followed:
    """What changes first in memory, and then in a file by a thread of its own.

    Args:
        store: The file; it is closed with this.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._keeper: Keeper | None = None
        self._late = False

    def follow(self) -> None:
        """Begin to write in a thread of its own; before, and without, every change is written at once."""
        self._keeper = Keeper(self.store)
        self._keeper.start()

    def leave(self) -> None:
        """Begin to close, once nothing changes any more: write what is not written yet, and do not wait for it."""
        if self._keeper is not None:
            self._keeper.leave(WRITE_SECONDS)

    def close(self) -> None:
        """Write what is not written yet and close the file; a second call does nothing."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.leave(WRITE_SECONDS)
            keeper.close()
        if keeper is None or not keeper.is_alive():  # one that hangs still holds the file
            self.store.close()

    @property
    def pending(self) -> int:
        """Changes that are not on disk yet."""
        return 0 if self._keeper is None else self._keeper.pending

    @property
    def failures(self) -> int:
        """Writes that failed and are tried again."""
        return 0 if self._keeper is None else self._keeper.failures

    @property
    def shed(self) -> int:
        """Pictures of sightings that were left out, because too much waits to be written."""
        return 0 if self._keeper is None else self._keeper.shed

    @property
    def trouble(self) -> str | None:
        """Why nothing is written at the moment."""
        return None if self._keeper is None else self._keeper.trouble

    def keep(self, statements: Sequence[Statement]) -> None:
        """Have the file changed, after all changes so far."""
        if self._keeper is None:
            self.store.write(statements)
        else:
            self._keeper.put(statements)

    def mark(self) -> int:
        """A number for everything that was changed so far."""
        return 0 if self._keeper is None else self._keeper.mark()

    def durable(self, mark: int) -> bool:
        """Tell whether everything before a mark is in the file, where a kill of the process does not lose it."""
        return self._keeper is None or self._keeper.durable(mark)

    def flush(self, seconds: float) -> bool:
        """Wait until the file says everything; False when that takes longer, or does not work at present."""
        return self._keeper is None or self._keeper.flush(seconds)

    def settle(self) -> None:
        """Let the file catch up before anybody is told, as long as the disk is fast; else go on without it."""
        if not (self._late and self.pending):
            self._late = not self.flush(SETTLE_SECONDS)

    def wait(self) -> None:
        """Wait for the file, because the answer is in it.

        Raises:
            ReidgeError: It takes too long, or does not work at present.
        """
        if not self.flush(WRITE_SECONDS):
            raise ReidgeError(
                f"{self.store.path} is behind the gallery: {self.trouble or 'the disk is slow.'} Try again later."
            )
