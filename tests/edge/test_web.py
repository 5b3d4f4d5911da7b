from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from http.client import HTTPConnection
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from reidge.edge import web as web_module
from reidge.edge.errors import InputError, ReidgeError
from reidge.edge.metrics import Metrics
from reidge.edge.settings import validate
from reidge.edge.web import MAX_REQUESTS, Web, WebConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "correct horse battery"


@pytest.fixture
def metrics() -> Metrics:
    metrics = Metrics()
    metrics.count("frames_dropped", "cam1", 3)
    metrics.gauge("frame_age_seconds", 0.25, "cam1")
    for seconds in (0.004, 0.02, 0.3):
        metrics.observe("detect", "cam1", seconds)
    metrics.describe(backend="openvino")
    return metrics


@pytest.fixture
def web(metrics: Metrics) -> Iterator[Web]:
    with Web(WebConfig(port=0), metrics, health=lambda: (), ready=lambda: ["cam1: not tried yet"]) as web:
        yield web


def get(address: str, **headers: str) -> tuple[int, str, str]:
    """Status, body and content type."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=10) as answer:
            return answer.status, answer.read().decode(), answer.headers["Content-Type"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), error.headers["Content-Type"]


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_prometheus_own_parser_reads_the_metrics(web: Web) -> None:
    status, text, kind = get(f"{web.address}/metrics")
    found = samples(text)
    assert (status, kind.partition(";")[0]) == (200, "text/plain")
    assert found["reidge_frames_dropped_total", (("camid", "cam1"),)] == 3
    assert found["reidge_frame_age_seconds", (("camid", "cam1"),)] == 0.25
    assert found["reidge_info", (("backend", "openvino"),)] == 1
    assert found["process_resident_memory_bytes", ()] > 1e6


def test_a_histogram_of_each_stage_and_camera_is_cumulative(web: Web) -> None:
    found = samples(get(f"{web.address}/metrics")[1])
    of_detect = (("camid", "cam1"), ("stage", "detect"))
    assert found["reidge_stage_seconds_count", of_detect] == 3
    assert found["reidge_stage_seconds_sum", of_detect] == pytest.approx(0.324)
    bounds = {"0.002": 0, "0.005": 1, "0.02": 2, "0.2": 2, "0.5": 3, "+Inf": 3}
    assert {
        le: found["reidge_stage_seconds_bucket", (of_detect[0], ("le", le), of_detect[1])] for le in bounds
    } == bounds


def test_openmetrics_is_given_to_whoever_asks_for_it(web: Web) -> None:
    _, text, kind = get(f"{web.address}/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")


def test_health_and_readiness_name_what_is_wrong(web: Web) -> None:
    status, body, _ = get(f"{web.address}/health")
    assert (status, json.loads(body)) == (200, {"ok": True, "problems": []})
    status, body, _ = get(f"{web.address}/ready")
    assert (status, json.loads(body)) == (503, {"ok": False, "problems": ["cam1: not tried yet"]})


def test_a_problem_is_told_without_its_password(metrics: Metrics) -> None:
    def health() -> list[str]:
        return ["rtsp://user:secret@10.0.0.9/stream hangs"]

    with Web(WebConfig(port=0), metrics, health=health, ready=lambda: ()) as web:
        status, body, _ = get(f"{web.address}/health")
    assert status == 503
    assert "secret" not in body
    assert "10.0.0.9" in body


def test_another_address_is_told_what_there_is(web: Web) -> None:
    status, body, _ = get(f"{web.address}/etc/passwd")
    assert (status, body) == (404, "Here are /metrics, /health, /ready.\n")


def test_whoever_sends_something_is_told_that_nothing_is_taken(web: Web) -> None:
    for method in ("POST", "DELETE"):
        connection = HTTPConnection(web.address.removeprefix("http://"), timeout=10)
        connection.request(method, "/metrics", body=b"x")
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Content-Type"]) == (405, "text/plain")
        assert (answer.headers["Allow"], answer.read()) == ("GET, HEAD", b"Only GET and HEAD are answered.\n")
        connection.close()


@pytest.mark.parametrize("page", ["/metrics", "/health", "/ready", "/other"])
def test_with_a_token_nothing_is_told_without_it(metrics: Metrics, page: str) -> None:
    config = WebConfig.model_validate({"port": 0, "token": TOKEN})
    with Web(config, metrics, health=lambda: (), ready=lambda: ()) as web:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
            assert get(web.address + page, **headers)[0] == 401
        assert get(web.address + page, Authorization=f"Bearer {TOKEN}")[0] == (404 if page == "/other" else 200)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "box.local"])
def test_an_address_that_other_machines_reach_is_refused_without_a_token(host: str) -> None:
    with pytest.raises(InputError, match=r"reached by other machines\. Set web\.token") as caught:
        validate(WebConfig, {"host": host}, where="site.yaml")
    assert "\n" not in str(caught.value)
    assert WebConfig.model_validate({"host": host, "token": TOKEN}).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_this_machine_alone_needs_no_token(host: str) -> None:
    assert WebConfig(host=host).token is None


def test_a_token_is_not_shown() -> None:
    config = WebConfig.model_validate({"token": TOKEN})
    assert TOKEN not in f"{config!r} {config} {config.model_dump()} {config.model_dump_json()}"


@pytest.mark.parametrize("token", ["correct horse bättery", "correct horse battery\n", " correct horse battery"])
def test_a_token_that_no_header_can_carry_is_refused(token: str) -> None:
    with pytest.raises(InputError, match=r"a header cannot carry this web\.token") as caught:
        validate(WebConfig, {"token": token}, where="site.yaml")
    assert "horse" not in str(caught.value)


def test_a_port_that_is_taken_is_one_line(metrics: Metrics) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        config = WebConfig(port=other.getsockname()[1])
        with (
            pytest.raises(
                ReidgeError, match=r"cannot be listened on: Address already in use\. Set web\.host or web\.port"
            ) as caught,
            Web(config, metrics, health=lambda: (), ready=lambda: ()),
        ):
            pass
    assert caught.value.exit_status == 1  # whoever has it may let it go: a service manager is to try again


def test_clients_that_say_nothing_shut_nobody_out_and_do_not_hold_up_the_end(metrics: Metrics) -> None:
    with ExitStack() as clients, Web(WebConfig(port=0), metrics, health=lambda: (), ready=lambda: ()) as web:
        host, port = web.address.removeprefix("http://").split(":")
        silent = [socket.create_connection((host, int(port)), timeout=10) for _ in range(MAX_REQUESTS)]
        for client in silent:
            clients.enter_context(client)
        assert [get(f"{web.address}/health")[0] for _ in range(3)] == [200] * 3
        assert silent[0].recv(1) == b""  # the first of them made room


def test_requests_that_are_being_answered_are_not_cut_off_and_one_more_is_turned_away(metrics: Metrics) -> None:
    begun, let_go = threading.Semaphore(0), threading.Event()
    statuses: list[int] = []

    def health() -> list[str]:
        begun.release()
        let_go.wait(30)
        return []

    with Web(WebConfig(port=0), metrics, health=health, ready=lambda: ()) as web:
        page = f"{web.address}/health"
        clients = [threading.Thread(target=lambda: statuses.append(get(page)[0])) for _ in range(MAX_REQUESTS)]
        for client in clients:
            client.start()
        assert all(begun.acquire(timeout=10) for _ in clients)
        host, port = web.address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as one_more:
            assert one_more.recv(1) == b""
        let_go.set()
        for client in clients:
            client.join()
    assert statuses == [200] * MAX_REQUESTS


def test_no_name_server_is_asked_at_the_start(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ask(name: str = "") -> str:
        asked.append(name)
        return name

    monkeypatch.setattr(socket, "getfqdn", ask)
    with Web(WebConfig(port=0), metrics, health=lambda: (), ready=lambda: ()) as web:
        assert get(f"{web.address}/health")[0] == 200
    assert asked == []


def test_a_client_that_says_a_little_now_and_then_is_cut_off(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_module, "REQUEST_SECONDS", 0.5)
    with Web(WebConfig(port=0), metrics, health=lambda: (), ready=lambda: ()) as web:
        host, port = web.address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=0.1) as client:
            client.sendall(b"GET /health HTTP/1.0\r\n")
            until, ended = time.monotonic() + 10, False
            while not ended and time.monotonic() < until:
                try:
                    client.sendall(b"X")  # always sooner than the pause that one read may last
                    ended = client.recv(1) == b""
                except TimeoutError:
                    pass
                except ConnectionError:
                    ended = True
        assert ended
        assert get(f"{web.address}/health")[0] == 200


def test_a_page_that_fails_is_an_answer_too(metrics: Metrics) -> None:
    def health() -> list[str]:
        raise OSError("rtsp://user:secret@10.0.0.9/stream")

    with Web(WebConfig(port=0), metrics, health=health, ready=lambda: ()) as web:
        status, body, _ = get(f"{web.address}/health")
        assert (status, get(f"{web.address}/ready")[0]) == (500, 200)
    assert "secret" not in body


def test_metrics_that_hang_leave_health_alone(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_module, "READING_SECONDS", 0.05)
    hangs, let_go = threading.Event(), threading.Event()

    def hang(_: Metrics) -> None:
        hangs.set()
        let_go.wait(30)

    metrics.on_read(hang)
    with Web(WebConfig(port=0), metrics, health=lambda: (), ready=lambda: ()) as web:
        hung = threading.Thread(target=get, args=(f"{web.address}/metrics",))
        hung.start()
        assert hangs.wait(10)
        assert [get(f"{web.address}{page}")[0] for page in ("/metrics", "/metrics", "/health")] == [503, 503, 200]
        let_go.set()
        hung.join()
