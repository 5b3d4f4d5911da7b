from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from reidge.edge.threadname import name_thread


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a thread's name as a file")
def test_the_system_knows_a_thread_by_the_beginning_of_its_name() -> None:
    found: list[str] = []

    def work() -> None:
        name_thread()
        found.append(Path("/proc/thread-self/comm").read_text().strip())

    thread = threading.Thread(target=work, name="camera-north-entrance")
    thread.start()
    thread.join()
    assert found == ["camera-north-en"]
