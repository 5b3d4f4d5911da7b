"""The little of CUDA's runtime that running an engine takes, by ctypes: no package to install, no compiler.

A machine may hold several copies of the library (the system's, those that came with Python packages), and a copy newer
than the driver does not work. So each is asked for a GPU, and the first that has one is taken.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reidge.edge.errors import ReidgeError

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import DTypeLike, NDArray

SONAMES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
SYSTEM_FOLDERS = ("/usr/local/cuda/lib64", "/usr/local/cuda/targets/aarch64-linux/lib")
DEVICE = 0
"""Of the GPUs that CUDA_VISIBLE_DEVICES leaves visible."""

# From driver_types.h; these numbers are part of CUDA's ABI.
HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2
NON_BLOCKING = 1
MULTIPROCESSORS, CAPABILITY_MAJOR, CAPABILITY_MINOR = 16, 75, 76
NAME_BYTES = 256
PROPERTIES_BYTES = 8192
"""Larger than `cudaDeviceProp` ever was (about 1 KiB); the name stands first in every version."""

SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cudaGetDeviceCount": (ctypes.POINTER(ctypes.c_int),),
    "cudaGetDeviceProperties": (ctypes.c_void_p, ctypes.c_int),
    "cudaDeviceGetAttribute": (ctypes.POINTER(ctypes.c_int), ctypes.c_int, ctypes.c_int),
    "cudaMalloc": (ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t),
    "cudaFree": (ctypes.c_void_p,),
    "cudaHostAlloc": (ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t, ctypes.c_uint),
    "cudaFreeHost": (ctypes.c_void_p,),
    "cudaMemcpyAsync": (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p),
    "cudaStreamCreateWithFlags": (ctypes.POINTER(ctypes.c_void_p), ctypes.c_uint),
    "cudaStreamSynchronize": (ctypes.c_void_p,),
    "cudaStreamDestroy": (ctypes.c_void_p,),
}


class CudaError(ReidgeError):
    """CUDA is missing, finds no GPU, or refuses a call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """What decides whether an engine fits."""

    name: str
    capability: str
    """Compute capability, e.g. `8.7`."""
    multiprocessors: int
    """Tells apart modules of one name, such as the Orins of a Jetson family."""


class Cuda:
    """CUDA's runtime library, its calls checked.

    Args:
        library: An opened `libcudart`.

    Raises:
        CudaError: It lacks a function.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        try:
            for name, arguments in SIGNATURES.items():
                getattr(library, name).argtypes = arguments
            library.cudaGetErrorString.restype = ctypes.c_char_p
        except AttributeError as error:
            raise CudaError(f"{library._name} is no CUDA runtime ({error}). Reinstall CUDA.") from error

    def call(self, name: str, *arguments: Any, to: str) -> None:
        """Call a function of the runtime.

        Args:
            name: Of the function.
            arguments: As C takes them.
            to: What the call is for, in words, for the message.

        Raises:
            CudaError: It returned an error.
        """
        status = getattr(self._library, name)(*arguments)
        if status != 0:
            reason = (self._library.cudaGetErrorString(status) or b"unknown error").decode(errors="replace")
            raise CudaError(f"CUDA could not {to}: {reason} (error {status} of {name}). Check the GPU with: nvidia-smi")

    def count(self) -> int:
        """Number of GPUs."""
        found = ctypes.c_int()
        self.call("cudaGetDeviceCount", ctypes.byref(found), to="find a GPU")
        return found.value

    def gpu(self) -> Gpu:
        """Describe the GPU that is used."""
        properties = ctypes.create_string_buffer(PROPERTIES_BYTES)
        self.call("cudaGetDeviceProperties", properties, DEVICE, to="describe the GPU")
        major, minor, multiprocessors = map(self._attribute, (CAPABILITY_MAJOR, CAPABILITY_MINOR, MULTIPROCESSORS))
        name = properties.raw[:NAME_BYTES].split(b"\0", 1)[0].decode(errors="replace")
        return Gpu(name=name, capability=f"{major}.{minor}", multiprocessors=multiprocessors)

    def _attribute(self, number: int) -> int:
        value = ctypes.c_int()
        self.call("cudaDeviceGetAttribute", ctypes.byref(value), number, DEVICE, to="describe the GPU")
        return value.value


class Stream:
    """A queue of work on the GPU that waits for no other; use it in a `with`."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self._handle = ctypes.c_void_p()

    def __enter__(self) -> Stream:
        self.cuda.call("cudaStreamCreateWithFlags", ctypes.byref(self._handle), NON_BLOCKING, to="open a stream")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cuda.call("cudaStreamDestroy", self._handle, to="close a stream")

    @property
    def handle(self) -> int:
        """The stream as TensorRT takes it."""
        return self._handle.value or 0

    def synchronize(self) -> None:
        """Wait until all queued work is done; a CPU-GPU sync point."""
        self.cuda.call("cudaStreamSynchronize", self._handle, to="compute")


class TwinArray:
    """An array in page-locked memory and its twin on the GPU, allocated once; use it in a `with`.

    Page-locked, since copies from ordinary memory are staged by the driver and do not run beside other work.
    """

    def __init__(self, stream: Stream, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self._stream = stream
        self._shape, self._dtype = shape, np.dtype(dtype)
        self._bytes = max(int(np.prod(shape, dtype=np.int64)) * self._dtype.itemsize, 1)
        self._device, self._pinned = ctypes.c_void_p(), ctypes.c_void_p()
        self.host: NDArray[Any] = np.empty(0, dtype=self._dtype)

    def __enter__(self) -> TwinArray:
        mib = self._bytes / 2**20
        call = self._stream.cuda.call
        call("cudaMalloc", ctypes.byref(self._device), self._bytes, to=f"take {mib:.1f} MiB on the GPU")
        try:
            call("cudaHostAlloc", ctypes.byref(self._pinned), self._bytes, 0, to=f"lock {mib:.1f} MiB of memory")
        except CudaError:
            call("cudaFree", self._device, to="free memory on the GPU")
            raise
        block = (ctypes.c_ubyte * self._bytes).from_address(self._pinned.value or 0)
        self.host = np.frombuffer(memoryview(block), dtype=self._dtype).reshape(self._shape)
        self.host[:] = 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.host = np.empty(0, dtype=self._dtype)  # the memory under it goes away
        try:
            self._stream.cuda.call("cudaFreeHost", self._pinned, to="unlock memory")
        finally:
            self._stream.cuda.call("cudaFree", self._device, to="free memory on the GPU")

    @property
    def address(self) -> int:
        """Of the twin on the GPU."""
        return self._device.value or 0

    def upload(self, rows: int) -> None:
        """Queue the copy of the first rows to the GPU."""
        self._copy(self._device, self._pinned, rows, HOST_TO_DEVICE)

    def download(self, rows: int) -> None:
        """Queue the copy of the first rows from the GPU; they are there after `Stream.synchronize`."""
        self._copy(self._pinned, self._device, rows, DEVICE_TO_HOST)

    def _copy(self, target: ctypes.c_void_p, source: ctypes.c_void_p, rows: int, kind: int) -> None:
        size = self._bytes * rows // self._shape[0]
        call = self._stream.cuda.call
        call("cudaMemcpyAsync", target, source, size, kind, self._stream.handle, to="copy between memory and GPU")


def candidates() -> list[str]:
    """Names and paths under which CUDA's runtime may be found, the system's first."""
    found = list(SONAMES)
    folders = [Path(folder) for folder in SYSTEM_FOLDERS]
    packages = importlib.util.find_spec("nvidia")
    for place in (packages.submodule_search_locations or []) if packages is not None else []:
        folders += sorted(Path(place).glob("*/lib"))
    for folder in folders:
        found += sorted(map(str, folder.glob("libcudart.so*")))
    return found


@functools.cache
def open_cuda() -> Cuda:
    """Load the first CUDA runtime that finds a GPU.

    Raises:
        CudaError: There is none.
    """
    reason = "its runtime library libcudart is not installed"
    for name in candidates():
        try:
            cuda = Cuda(ctypes.CDLL(name))
            if cuda.count() > 0:
                return cuda
            reason = "it finds no GPU"
        except OSError:
            continue
        except CudaError as error:
            reason = str(error)
    raise CudaError(f"TensorRT needs CUDA and an NVIDIA GPU: {reason}. See what is there with: reidge doctor")
