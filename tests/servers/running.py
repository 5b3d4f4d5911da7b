"""`reidge run` as a process, and everything that can be asked of it from outside."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType

COMMAND = (sys.executable, "-m", "reidge.cli.main", "run")


class Running:
    """A site that runs in a folder of its own; use it in a `with`.

    Args:
        folder: Where the site file, events and everything that is said are written.
        site: The site file's content; `outputs.events` and `web.port` are added.
        environment: Variables beside those of this process.
    """

    def __init__(self, folder: Path, site: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.port = free_port()
        self.events_path = folder / "events.jsonl"
        self.starts = 0
        self._environment = os.environ | dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._events: list[dict[str, Any]] = []
        self._read_to = 0
        self.configure(site)

    def configure(self, site: Mapping[str, Any]) -> None:
        """Write the site file; a process that runs takes it with the next SIGHUP."""
        outputs = {"events": "events.jsonl"} | site.get("outputs", {})
        whole = {**site, "outputs": outputs, "web": {"port": self.port} | site.get("web", {})}
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "site.yaml").write_text(json.dumps(whole, indent=1))  # JSON is YAML
        self.events_path = self.folder / outputs["events"]

    def __enter__(self) -> Running:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running process, or the one that ended last."""
        assert self._process is not None
        return self._process

    def start(self, *arguments: str) -> None:
        """Start the process; what it says goes to `out.N` and `err.N`, N counting the starts."""
        self.starts += 1
        with self.said("out").open("wb") as out, self.said("err").open("wb") as err:
            command = [*COMMAND, str(self.folder / "site.yaml"), "--json", *arguments]
            self._process = subprocess.Popen(command, env=self._environment, stdout=out, stderr=err)

    def said(self, stream: str) -> Path:
        """File of what the process of the last start says on `out` or `err`."""
        return self.folder / f"{stream}.{self.starts}"

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self, *, seconds: float = 10.0) -> float:
        """Ask it to end; returns the seconds that took.

        Raises:
            AssertionError: It failed, or took longer than `seconds`.
        """
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs {seconds} s after SIGTERM: {self.said('err').read_text()}") from None
        assert status == 0, f"ended with {status}: {self.said('err').read_text()}"
        return time.monotonic() - began

    def summary(self) -> dict[str, Any]:
        """The figures that it printed at its end."""
        found: dict[str, Any] = json.loads(self.said("out").read_text())
        return found

    def events(self, *kinds: str, camid: str | None = None) -> list[dict[str, Any]]:
        """Whole lines of the events file so far, of some kinds and one camera if asked for; for one thread."""
        with suppress(FileNotFoundError), self.events_path.open("rb") as file:
            file.seek(self._read_to)
            data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._read_to += len(whole)
            self._events += [json.loads(line) for line in whole.splitlines()]
        return [
            event
            for event in self._events
            if (not kinds or event["event"] in kinds) and (camid is None or event["camid"] == camid)
        ]

    def is_up(self, camid: str) -> bool | None:
        """Whether the camera's last word was that it is up; None without any."""
        states = self.events("camera.up", "camera.down", camid=camid)
        return states[-1]["event"] == "camera.up" if states else None

    def ask(self, path: str) -> tuple[int, str]:
        """Status and text of an answer of its endpoint; status 0 where nobody answers."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, HTTPException):
            return 0, ""
        finally:
            connection.close()

    def metrics(self) -> dict[str, dict[str, float]]:
        """Samples of its endpoint by name and labels, read by Prometheus' own parser.

        The key is `""` for those of the run, `cam1` for those of a camera, `cam1,1.0,event` for a bucket.
        """
        from prometheus_client.parser import text_string_to_metric_families

        _, text = self.ask("/metrics")
        found: defaultdict[str, dict[str, float]] = defaultdict(dict)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                key = ",".join(value for _, value in sorted(sample.labels.items()))
                found[sample.name][key] = sample.value
        return dict(found)

    def wait_for(self, condition: Callable[[], object], what: str, *, seconds: float = 60.0) -> float:
        """Wait until something holds; returns the seconds that took.

        Raises:
            AssertionError: It does not within `seconds`, or the process has ended.
        """
        began = time.monotonic()
        while not condition():
            ended = self.process.poll()
            assert ended is None, f"ended with {ended}, no {what}: {self.said('err').read_text()[-2000:]}"
            waited = time.monotonic() - began
            assert waited < seconds, f"no {what} within {seconds} s: {self.said('err').read_text()[-2000:]}"
            time.sleep(0.05)
        return time.monotonic() - began


class Ages(threading.Thread):
    """Asks a running site several times a second how old each camera's newest frame is; use it in a `with`.

    That is the word of the camera's reader. Whether anybody looks at the frames, `loop` says.
    """

    def __init__(self, running: Running, *, every: float = 0.2) -> None:
        super().__init__(name="ages", daemon=True)
        self.samples: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        """`time.monotonic()` and age in seconds, by camera."""
        self.loop: list[tuple[float, float]] = []
        """The same of the loop: seconds since it last came round."""
        self._running = running
        self._every = every
        self._ended = threading.Event()

    def __enter__(self) -> Ages:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        """Sample until the `with` ends."""
        while not self._ended.wait(self._every):
            metrics = self._running.metrics()
            for camid, age in metrics.get(AGE, {}).items():
                self.samples[camid].append((time.monotonic(), age))
            self.loop += [(time.monotonic(), age) for age in metrics.get(LOOP_AGE, {}).values()]

    def p95(self, camid: str, since: float = 0.0) -> float:
        """The age that 95 % of the samples since a moment (`time.monotonic()`) stay below."""
        return _p95(self.samples[camid], since)

    def loop_p95(self, since: float = 0.0) -> float:
        """The same of the loop."""
        return _p95(self.loop, since)


def _p95(samples: list[tuple[float, float]], since: float) -> float:
    ages = [age for at, age in tuple(samples) if at >= since]
    assert ages, "nobody said how old the newest frame is"
    return float(np.quantile(ages, 0.95))


AGE = "reidge_frame_age_seconds"
LOOP_AGE = "reidge_loop_age_seconds"


def free_port() -> int:
    """A port on which nobody listens at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
