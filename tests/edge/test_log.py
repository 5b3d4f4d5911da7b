from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING

import pytest

from reidge.edge import log as module
from reidge.edge.log import PLAIN, change_of, fold_as, logging_to
from reidge.edge.progress import Progress
from reidge.edge.redact import remember_secret

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger("reidge.test")
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def texts_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Without time and level."""
    return [re.sub(rf"^{TIME} \w+: ", "", line) for line in lines_of(capsys)]


def test_a_line_has_time_and_level(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to():
        log.info("%s is up", "cam1")
        log.debug("not said")
    (line,) = lines_of(capsys)
    assert re.fullmatch(rf"{TIME} info: cam1 is up", line)


def test_in_json_a_line_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to("json"):
        log.warning('a "quoted"\nline')
        try:
            raise OSError("rtsp://u:pw@host/a")
        except OSError:
            log.exception("failed")
    first, second = map(json.loads, lines_of(capsys))
    assert re.fullmatch(TIME, first.pop("time"))
    assert first == {"level": "warning", "text": 'a "quoted" line', "logger": "reidge.test"}
    assert second["traceback"].startswith("Traceback")
    assert second["traceback"].endswith("OSError: rtsp://host/a")


def test_progress_has_the_form_of_the_log_and_no_time_in_text(capsys: pytest.CaptureFixture[str]) -> None:
    for form in ("json", "text"):
        with logging_to(form), Progress("run", total=20, unit="frames") as progress:
            progress.advance(20)
    with Progress("alone", unit="steps"):  # of a program that has no log of ours
        pass
    as_json, as_text, alone = lines_of(capsys)
    assert json.loads(as_json)["text"] == as_text == "run: 20/20 frames, 0 s, done"
    assert alone == "alone: 0 steps, 0 s, done"


def test_nothing_that_is_logged_shows_a_secret(capsys: pytest.CaptureFixture[str]) -> None:
    remember_secret("top-secret")
    with logging_to():
        log.warning("%s", "top-secret")
        logging.getLogger("library").warning("rtsp://u:pw@host/a and %r", {"password": "pw"})
        try:
            try:
                raise ValueError("top-secret")
            except ValueError as error:
                raise OSError("rtsp://u:pw@host/a") from error
        except OSError:
            log.exception("failed")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("rtsp://u:pw@host/a", stacklevel=1)
    shown = capsys.readouterr().err
    assert shown.count("rtsp://host/a") == 5  # two of them in lines of this file, which a traceback quotes
    assert "top-secret" not in shown
    assert "pw" not in shown


def test_a_warning_that_repeats_is_said_once_a_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with logging_to():
        for _ in range(5):
            log.warning("no space")
            log.warning("other")
        now += 61
        log.warning("no space")
    assert texts_of(capsys) == ["no space", "other", "no space (4 more)", "other (4 more)"]


def test_lines_that_differ_are_one_where_they_are_told_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to():
        for wait in range(3):
            for camid in ("hall", "door"):
                log.info("%s is away, next try in %d s", camid, wait, extra=fold_as("away", camid))
    assert texts_of(capsys) == [
        "hall is away, next try in 0 s",
        "door is away, next try in 0 s",
        "hall is away, next try in 2 s (2 more)",
        "door is away, next try in 2 s (2 more)",
    ]


def test_what_comes_and_goes_is_said_in_order_and_at_last_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to("json"):
        for number in range(5):
            log.warning("hall is down: reason %d", number, extra=change_of("camera", "hall"))
            log.info("hall is up", extra=change_of("camera", "hall"))
        log.warning("door is down", extra=change_of("camera", "door"))
        log.warning("hall is down: reason 5", extra=change_of("camera", "hall"))
    assert [(line["level"], line["text"]) for line in map(json.loads, lines_of(capsys))] == [
        ("warning", "hall is down: reason 0"),
        ("info", "hall is up"),
        ("warning", "hall is down: reason 1"),
        ("info", "hall is up"),
        ("warning", "hall is down: reason 2"),
        ("info", "hall is up"),
        ("warning", "door is down"),
        ("warning", "hall is down: reason 5 (5 more)"),
    ]


def test_information_is_said_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to():
        log.info("read again")
        log.info("read again")
    assert texts_of(capsys) == ["read again", "read again"]


def test_what_was_folded_and_never_came_again_is_said_when_the_minute_is_over(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FOLD_SECONDS", 0.24)
    with logging_to():
        log.warning("no space")
        log.warning("no space")
        deadline = time.monotonic() + 5
        seen: list[str] = []
        while len(seen) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
            seen += texts_of(capsys)
    assert seen == ["no space", "no space (1 more)"]


def test_many_different_lines_do_not_grow_memory(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_FOLDS", 10)
    with logging_to() as handler:
        for number in range(100):
            log.warning("line %d", number)
        assert len(handler._folds) == 10
    assert len(lines_of(capsys)) == 100


def test_a_text_of_a_camera_cannot_forge_lines_or_colours(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to():
        log.info("server says: %s", "OK\r\n2026 error: \x1b[31mfire\x1b[0m\u2028x")
    assert texts_of(capsys) == ["server says: OK 2026 error: [31mfire [0m x"]


def test_arguments_that_do_not_fit_end_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to() as handler:
        # As Logger.handle does, without pytest's own handler, which raises.
        handler.handle(logging.LogRecord("reidge.test", logging.INFO, __file__, 1, "%d", ("no number",), None))
        log.info("goes on")
    assert texts_of(capsys) == ["reidge.test: a line that cannot be written (TypeError)", "goes on"]


def test_the_last_word_of_a_command_stands_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to():
        log.error("reidge run: no such file", extra=PLAIN)
    assert lines_of(capsys) == ["reidge run: no such file"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_fails_is_said_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise OSError("rtsp://u:pw@host/a")

    with logging_to():
        thread = threading.Thread(target=fail, name="camera-hall")
        thread.start()
        thread.join()
    shown = capsys.readouterr().err
    assert "error: the thread camera-hall failed" in shown
    assert "OSError: rtsp://host/a" in shown


def test_afterwards_the_process_logs_as_before() -> None:
    before = list(logging.getLogger().handlers), threading.excepthook, sys.unraisablehook, warnings.showwarning
    with logging_to():
        pass
    assert before == (
        list(logging.getLogger().handlers), threading.excepthook, sys.unraisablehook, warnings.showwarning,
    )  # fmt: skip


STANDS_STILL = """
import logging, time
from reidge.edge import log as module
module.MAX_WAITING = 50
with module.logging_to() as handler:
    log = logging.getLogger("reidge.test")
    began = time.monotonic()
    for number in range(300):
        log.error("%d %s", number, "x" * 7000)  # a pipe holds 65536 bytes
    print(time.monotonic() - began, handler.dropped > 0)
"""


def test_a_stderr_that_stands_still_stops_nobody_and_aborts_no_end() -> None:
    reader, writer = os.pipe()  # nobody reads
    done = subprocess.run(
        [sys.executable, "-c", STANDS_STILL], stdout=subprocess.PIPE, stderr=writer, timeout=30, check=True
    )
    os.close(reader)
    os.close(writer)
    seconds, dropped = done.stdout.split()
    assert float(seconds) < 3
    assert dropped == b"True"


FALLS = """
from reidge.edge.log import redact_tracebacks
redact_tracebacks()
raise OSError("rtsp://u:pw@host/" + "a")
"""


def test_a_traceback_that_ends_the_process_shows_no_secret(tmp_path: Path) -> None:
    script = tmp_path / "falls.py"
    script.write_text(FALLS)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "OSError: rtsp://host/a"
