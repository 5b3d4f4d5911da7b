"""Engines of this machine are found again; all others are refused by the reason and left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reidge.edge.engine_cache import CACHE_VARIABLE, EngineCache, EngineKey, EngineOptions, default_folder, machine_of
from reidge.edge.errors import ReidgeError

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = EngineKey(
    onnx_sha256="ab" * 32,
    tensorrt="10.3.0",
    gpu="Orin",
    capability="8.7",
    multiprocessors=16,
    machine="m",
    options=EngineOptions(),
)
PLAN = b"an engine" * 100


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "cache" / "engines")


def test_an_engine_is_found_again_by_its_key_alone(cache: EngineCache) -> None:
    path = cache.store(KEY, PLAN)
    assert cache.load(KEY) == PLAN
    assert path.stat().st_mode & 0o777 == 0o600
    assert cache.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, onnx_sha256="cd" * 32),
        replace(KEY, tensorrt="10.3.1"),
        replace(KEY, gpu="NVIDIA L4"),
        replace(KEY, capability="8.9"),
        replace(KEY, multiprocessors=8),
        replace(KEY, machine="another"),
        replace(KEY, options=EngineOptions(half=False)),
        replace(KEY, options=EngineOptions(max_batch=32)),
    ],
)
def test_whatever_an_engine_depends_on_keeps_it_apart(cache: EngineCache, other: EngineKey) -> None:
    cache.store(KEY, PLAN)
    assert other.name != KEY.name
    assert cache.load(other) is None
    # An engine that somebody gave the name of another key is told by its record.
    for ending in (".engine", ".json"):
        cache.engine_path(KEY).with_suffix(ending).rename(cache.engine_path(other).with_suffix(ending))
    assert cache.load(other) is None


def spoil_content(path: Path) -> None:
    path.write_bytes(PLAN[:-1])


def forget_record(path: Path) -> None:
    path.with_suffix(".json").unlink()


def damage_record(path: Path) -> None:
    path.with_suffix(".json").write_text('{"key":')


def nest_record(path: Path) -> None:
    path.with_suffix(".json").write_text("[" * 100_000)


def let_others_write(path: Path) -> None:
    path.chmod(0o666)


def link_elsewhere(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


def put_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, mode=0o600)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_content, "its sha256 differs from its record"),
        (forget_record, ".json cannot be read (No such file or directory)"),
        (damage_record, ".json is damaged"),
        (nest_record, ".json is damaged"),
        (let_others_write, "may have been written by others"),
        (link_elsewhere, "cannot be read (Too many levels of symbolic links)"),
        (put_a_pipe, "is no plain file"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_engine_from_elsewhere_is_refused_in_one_line(
    cache: EngineCache, capsys: pytest.CaptureFixture[str], spoil: object, reason: str
) -> None:
    assert callable(spoil)
    spoil(cache.store(KEY, PLAN))
    assert cache.load(KEY) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert "is refused" in line
    assert reason in line
    assert line.endswith("Building it anew.")
    assert cache.store(KEY, PLAN).is_file()
    assert cache.load(KEY) == PLAN


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_an_engine_of_another_user_is_refused(cache: EngineCache, capsys: pytest.CaptureFixture[str]) -> None:
    os.chown(cache.store(KEY, PLAN), 12345, -1)
    assert cache.load(KEY) is None
    assert "owner 12345" in capsys.readouterr().err


def test_a_cache_that_others_may_enter_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    with pytest.raises(ReidgeError, match=r"open to others .* mode 755.* chmod 700"):
        EngineCache(tmp_path / "open")


def test_a_cache_that_cannot_be_written_is_refused_in_one_line() -> None:
    # Linux lets nobody make a folder here, not even root.
    with pytest.raises(ReidgeError, match=f"/sys/reidge/engines cannot be used: .*set {CACHE_VARIABLE}") as refused:
        EngineCache(Path("/sys/reidge/engines"))
    assert "\n" not in str(refused.value)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Let nobody write into a folder; modes do not keep root from it, a disk does."""
    if os.geteuid() == 0:
        mount = ["mount", "-t", "tmpfs", "-o", "ro,mode=700", "none", str(folder)]
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("root may not mount a disk here, and may write into every folder")
    else:
        folder.chmod(0o500)
    try:
        yield
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", str(folder)], check=True)
        else:
            folder.chmod(0o700)


def test_a_cache_that_is_there_and_read_only_is_refused_wherever_it_is_written(cache: EngineCache) -> None:
    def lock() -> None:
        with cache.lock(KEY):
            pass

    with read_only(cache.folder):
        assert EngineCache(cache.folder).load(KEY) is None
        for write in (
            lock,
            lambda: cache.store(KEY, PLAN),
            lambda: cache.store_timing(KEY, b"timed"),
            lambda: cache.choose_options(KEY.onnx_sha256, EngineOptions()),
        ):
            with pytest.raises(ReidgeError, match=r"be used: (Read-only file system|Permission denied)") as refused:
                write()
            assert "\n" not in str(refused.value)


def test_too_little_space_is_said_before_the_build(cache: EngineCache) -> None:
    cache.require_room(1000)
    with pytest.raises(ReidgeError, match=r"has room for \d+ MiB, an engine may need \d+ MiB"):
        cache.require_room(1 << 60)


def test_a_write_that_does_not_fit_leaves_nothing_behind(cache: EngineCache) -> None:
    # A limit on the size of files stands in for a full disk: the write fails midway, as it would there.
    code = (
        "import resource, signal\n"
        "from pathlib import Path\n"
        "from reidge.edge.engine_cache import EngineCache, EngineKey, EngineOptions\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "key = EngineKey(onnx_sha256='ab', tensorrt='10', gpu='g', capability='8.7', multiprocessors=1, machine='',"
        " options=EngineOptions())\n"
        f"EngineCache(Path({str(cache.folder)!r})).store(key, b'x' * 5000)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "cannot be used: File too large" in done.stderr
    assert list(cache.folder.iterdir()) == []


def test_the_second_of_two_builders_waits_and_finds_the_engine(
    cache: EngineCache, capsys: pytest.CaptureFixture[str]
) -> None:
    entered, found = threading.Event(), []

    def second() -> None:
        entered.set()
        with cache.lock(KEY):
            found.append(cache.load(KEY))

    with cache.lock(KEY):
        thread = threading.Thread(target=second)
        thread.start()
        entered.wait()
        cache.store(KEY, PLAN)
    thread.join()
    assert found == [PLAN]
    with cache.lock(KEY):  # it is free again
        pass
    assert capsys.readouterr().err in ("", "tensorrt: another process is building this engine; waiting for it.\n")


def test_the_options_chosen_for_a_graph_are_kept(cache: EngineCache) -> None:
    assert cache.options_for(KEY.onnx_sha256) is None
    chosen = EngineOptions(max_batch=16, workspace_mib=256)
    cache.choose_options(KEY.onnx_sha256, chosen)
    assert EngineCache(cache.folder).options_for(KEY.onnx_sha256) == chosen
    (path,) = cache.folder.glob("*.options.json")
    path.write_text(json.dumps({"max_batch": "many"}))
    assert cache.options_for(KEY.onnx_sha256) is None


def test_timings_are_kept_for_the_gpu_and_not_taken_from_others(cache: EngineCache) -> None:
    assert cache.load_timing(KEY) == b""
    cache.store_timing(KEY, b"timings")
    assert cache.load_timing(replace(KEY, onnx_sha256="cd" * 32)) == b"timings"
    assert cache.load_timing(replace(KEY, tensorrt="11.4")) == b""
    (cache.folder / KEY.timing_name).chmod(0o622)
    assert cache.load_timing(KEY) == b""


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, "/data/reidge")
    assert default_folder() == Path("/data/reidge/engines")
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", "/data/cache")
    assert default_folder() == Path("/data/cache/reidge/engines")


def test_a_machine_is_known_by_a_hash_of_its_identity(tmp_path: Path) -> None:
    (tmp_path / "machine-id").write_text("secret\n")
    assert len(machine_of(tmp_path / "machine-id")) == 16
    assert "secret" not in machine_of(tmp_path / "machine-id")
    assert machine_of(tmp_path / "absent") == ""
