"""Engines that were built on this machine, and the refusal of all others.

Loading an engine is like running native code, and an engine of another TensorRT or GPU misbehaves. So engines live in
a folder that only its owner can enter, each beside a record of what it was built from, on and by; one that does not
match is named in a line, and built anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, ValidationError, model_validator

from reidge.edge.errors import InputError, ReidgeError
from reidge.edge.log import tell

if TYPE_CHECKING:
    from collections.abc import Iterator

CACHE_VARIABLE = "REIDGE_CACHE"
OTHERS = stat.S_IRWXG | stat.S_IRWXO
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
ROOM_FACTOR = 2
"""Free space to ask for, in sizes of the graph: its engine, and what is written beside it."""
MACHINE_FILE = Path("/etc/machine-id")


class EngineOptions(BaseModel, frozen=True, extra="forbid"):
    """How an engine is built; `reidge engine` sets them, and later runs on this machine keep to them."""

    half: bool = True
    """Whether layers that are not INT8 may compute in FP16."""
    min_batch: int = Field(1, ge=1)
    best_batch: int = Field(8, ge=1)
    """The batch that tactics are timed for."""
    max_batch: int = Field(64, ge=1)
    workspace_mib: int | None = Field(None, ge=1)
    """Most scratch memory on the GPU; None lets TensorRT take all there is."""
    dla_core: int | None = Field(None, ge=0)
    """Deep-learning accelerator of a Jetson to build for; None builds for the GPU."""
    level: int | None = Field(None, ge=0, le=5)
    """Effort of the optimiser; None leaves TensorRT's own."""

    @model_validator(mode="after")
    def _check_batches(self) -> EngineOptions:
        if not self.min_batch <= self.best_batch <= self.max_batch:
            raise ValueError("batches must grow from the smallest over the best to the largest")
        if self.dla_core is not None and self.min_batch != self.max_batch:
            raise ValueError("a DLA takes one batch size: the smallest, best and largest batch must be equal")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineKey:
    """Everything that an engine depends on; engines of different keys are never mixed up."""

    onnx_sha256: str
    tensorrt: str
    """Version in full."""
    gpu: str
    capability: str
    multiprocessors: int
    machine: str
    """See `machine_of`."""
    options: EngineOptions

    @property
    def facts(self) -> dict[str, Any]:
        """The key as JSON."""
        facts = {name: getattr(self, name) for name in self.__slots__ if name != "options"}
        return facts | {"options": self.options.model_dump()}

    @property
    def name(self) -> str:
        """File name without its ending, the same for the same key."""
        digest = hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()
        return f"{self.onnx_sha256[:12]}-{digest[:20]}"

    @property
    def timing_name(self) -> str:
        """File name for timings of tactics, which serve every graph on this GPU."""
        device = f"{self.tensorrt} {self.gpu} {self.capability} {self.multiprocessors} {self.machine}"
        return f"timing-{hashlib.sha256(device.encode()).hexdigest()[:20]}"


class UntrustedFile(ReidgeError):
    """A file of the cache that others may have written."""


class EngineCache:
    """The folder of engines.

    Args:
        folder: Made with mode 0700 where it is absent; None takes `default_folder()`.

    Raises:
        ReidgeError: It cannot be made, or belongs to or can be entered by somebody else.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()
        with explained(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.folder.stat()  # a link to another disk is the user's own affair
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & OTHERS:
            raise ReidgeError(
                f"the engine cache {self.folder} is open to others (owner {found.st_uid}, mode "
                f"{stat.S_IMODE(found.st_mode):o}), and whoever writes there runs code here. "
                f"Look through it, then: chmod 700 {self.folder}, or set {CACHE_VARIABLE} to a folder of your own."
            )

    def engine_path(self, key: EngineKey) -> Path:
        """Where the engine of a key is, if it was built."""
        return self.folder / f"{key.name}.engine"

    def load(self, key: EngineKey) -> bytes | None:
        """Read the engine of a key; None where there is none, or where it is refused with a line on stderr."""
        path = self.engine_path(key)
        record_path = path.with_suffix(".json")
        if not path.exists() and not path.is_symlink():
            return None
        try:
            plan = read_own(path)
            record = read_record(record_path)
            if record.get("key") != key.facts:
                raise UntrustedFile("its record names another device, TensorRT or graph")
            if record.get("sha256") != hashlib.sha256(plan).hexdigest():
                raise UntrustedFile("it is not the engine that was built here: its sha256 differs from its record")
        except UntrustedFile as error:
            say(f"the engine {path} is refused: {error}. Building it anew.")
            return None
        return plan

    def stamp(self, key: EngineKey) -> tuple[int, int] | None:
        """What changes when the engine of a key is stored anew; None where there is none."""
        try:
            found = self.engine_path(key).with_suffix(".json").lstat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def store(self, key: EngineKey, plan: bytes) -> Path:
        """Write an engine and its record, the record last, so that an engine without one is half written.

        Raises:
            ReidgeError: The folder cannot be written or has no room.
        """
        path = self.engine_path(key)
        record = {"key": key.facts, "sha256": hashlib.sha256(plan).hexdigest(), "bytes": len(plan)}
        self.discard(key)
        self._write(path, plan)
        self._write(path.with_suffix(".json"), json.dumps(record, indent=1).encode())
        return path

    def discard(self, key: EngineKey) -> None:
        """Forget the engine of a key."""
        path = self.engine_path(key)
        with explained(self.folder):
            path.with_suffix(".json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)

    def load_timing(self, key: EngineKey) -> bytes:
        """Timings of earlier builds on this GPU, which make the next one shorter; empty for none."""
        try:
            return read_own(self.folder / key.timing_name)
        except UntrustedFile:
            return b""

    def store_timing(self, key: EngineKey, timing: bytes) -> None:
        """Keep the timings of a build."""
        self._write(self.folder / key.timing_name, timing)

    def options_for(self, onnx_sha256: str) -> EngineOptions | None:
        """The options last chosen for a graph by `reidge engine`; None where none were."""
        try:
            return EngineOptions.model_validate(read_record(self._options_path(onnx_sha256)))
        except (UntrustedFile, ValidationError):
            return None

    def choose_options(self, onnx_sha256: str, options: EngineOptions | None) -> None:
        """Let later runs on this machine use these options for a graph; None forgets them."""
        path = self._options_path(onnx_sha256)
        if options is None:
            with explained(self.folder):
                path.unlink(missing_ok=True)
        else:
            self._write(path, options.model_dump_json().encode())

    def write_graph(self, name: str, graph: bytes) -> Path:
        """Keep a graph that was made for this machine's tools."""
        self._write(self.folder / name, graph)
        return self.folder / name

    def _options_path(self, onnx_sha256: str) -> Path:
        return self.folder / f"{onnx_sha256[:32]}.options.json"

    @contextmanager
    def lock(self, key: EngineKey) -> Iterator[None]:
        """Let one process at a time build the engine of a key; the others wait, and then find it built."""
        path = self.folder / f"{key.name}.lock"
        with explained(self.folder):
            # The file stays: removing it would let a third process lock a name that the second no longer holds.
            number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(number):
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("another process is building this engine; waiting for it.")
                fcntl.flock(number, fcntl.LOCK_EX)
            yield

    def require_room(self, onnx_bytes: int) -> None:
        """Refuse a build whose engine could not be kept, before the minutes it takes.

        Raises:
            ReidgeError: Too little space is left.
        """
        wanted = ROOM_FACTOR * onnx_bytes
        with explained(self.folder):
            free = shutil.disk_usage(self.folder).free
        if free < wanted:
            raise ReidgeError(
                f"the engine cache {self.folder} has room for {free / 2**20:.0f} MiB, an engine may need "
                f"{wanted / 2**20:.0f} MiB. Free some space or set {CACHE_VARIABLE} to a folder elsewhere."
            )

    def _write(self, path: Path, data: bytes) -> None:
        """Write a file of mode 0600 whole or not at all."""
        with explained(self.folder):
            number, partial = tempfile.mkstemp(dir=self.folder, prefix=".partial-")
            try:
                with os.fdopen(number, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                Path(partial).replace(path)
            except BaseException:
                Path(partial).unlink(missing_ok=True)
                raise


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn a failure of the file system into one line that says where the cache may go instead."""
    try:
        yield
    except OSError as error:
        raise ReidgeError(
            f"the engine cache {folder} cannot be used: {error.strerror}. Free some space, mend its permissions, or "
            f"set {CACHE_VARIABLE} to a folder that can be written."
        ) from error


def default_folder() -> Path:
    """`$REIDGE_CACHE/engines`, else `reidge/engines` in the user's cache folder.

    Raises:
        InputError: The user has no home folder.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen) / "engines"
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:
        raise InputError(f"there is no home folder to keep engines in. Set {CACHE_VARIABLE} to a folder.") from error
    return Path(base) / "reidge" / "engines"


def read_own(path: Path) -> bytes:
    """Read a file that nobody but this user can have written; what is checked is what is read.

    Raises:
        UntrustedFile: It is absent, no plain file, or can be written by others.
    """
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UntrustedFile(f"{path.name} cannot be read ({error.strerror})") from error
    with os.fdopen(number, "rb") as file:
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode):
            raise UntrustedFile(f"{path.name} is no plain file")
        if found.st_uid != os.geteuid() or found.st_mode & OTHERS_WRITE:
            raise UntrustedFile(
                f"{path.name} may have been written by others (owner {found.st_uid}, mode "
                f"{stat.S_IMODE(found.st_mode):o})"
            )
        return file.read()


def read_record(path: Path) -> dict[str, Any]:
    """Read a JSON object of the cache.

    Raises:
        UntrustedFile: It is absent, foreign or no such object.
    """
    try:
        content = json.loads(read_own(path))
    except (ValueError, RecursionError) as error:
        raise UntrustedFile(f"its record {path.name} is damaged") from error
    if not isinstance(content, dict):
        raise UntrustedFile(f"its record {path.name} is damaged")
    return content


def machine_of(path: Path = MACHINE_FILE) -> str:
    """A short hash of the machine's identity, so that a cache that was copied here as a whole is refused too.

    Empty where the system has none, as in many containers.
    """
    try:
        return hashlib.sha256(path.read_bytes().strip()).hexdigest()[:16]
    except OSError:
        return ""


def say(text: str) -> None:
    """Tell the user a line, on stderr."""
    tell(f"tensorrt: {text}")
