"""A graph at work in a foreign runtime: what goes wrong there becomes one line that says where."""

# N = crops or frames, H, W = input height and width

from __future__ import annotations

from typing import TYPE_CHECKING

from reidge.edge.errors import ReidgeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from reidge.edge.backends import Runner


class GuardedRunner:
    """A runner that fails in one way only.

    Runtimes raise many kinds when the GPU's memory is used up or a kernel cannot be built, and OpenVINO 2026.4 gives
    no rows at all, or a node that "is not initialized", for some graphs that are INT8 in a single block.
    """

    def __init__(self, runner: Runner, *, name: str) -> None:
        self._runner = runner
        self._name = name

    def run(self, crops_NHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run one batch.

        Raises:
            ReidgeError: The runtime failed, or gave a result of another length.
        """
        try:
            found_ND = self._runner.run(crops_NHW3)
        except ReidgeError:
            raise
        except Exception as error:  # these kinds share no base class
            raise self._failure(len(crops_NHW3), last_sentence(error)) from error
        if len(found_ND) != len(crops_NHW3):
            raise self._failure(len(crops_NHW3), f"it gave {len(found_ND)} rows")
        return found_ND

    def close(self) -> None:
        """Free the graph."""
        self._runner.close()

    def _failure(self, count: int, reason: str) -> ReidgeError:
        return ReidgeError(
            f"{self._name} failed on a batch of {count} ({reason}). Choose another backend or precision, or update "
            "the runtime."
        )


def last_sentence(error: Exception) -> str:
    """The part of a runtime's many-line message that says what is wrong: its last line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
