"""Device memory and a stream for engines, through pycuda where it is installed, else through cuda-python."""

import importlib.util
from dataclasses import dataclass

import numpy as np

from ssd.errors import InputError, RunError


@dataclass(frozen=True)
class Buffer:
    """Pinned memory here and as much on the device."""

    host: np.ndarray
    device: int  # address


def device_name() -> str:
    """The name and compute capability of the GPU that engines run on."""
    return memory().device_name()


def memory():
    """What allocates and copies.

    Raises:
        InputError: neither library is installed.
        RunError: there is no GPU.
    """
    if importlib.util.find_spec("pycuda") is not None:
        return _PyCuda()
    if importlib.util.find_spec("cuda") is not None:
        return _CudaPython()
    raise InputError(
        "engines run on a GPU, and need pycuda or cuda-python for its memory",
        hint="on the machine with the GPU: pip install cuda-python, or pycuda",
    )


class _PyCuda:
    """One context, one stream."""

    def __init__(self):
        try:
            import pycuda.autoinit  # noqa: F401 - makes the context
            import pycuda.driver as driver
        except Exception as error:  # pycuda's own kinds, and ImportError for a missing driver
            raise RunError(f"no GPU: {error}") from error
        self._driver = driver
        self._stream = driver.Stream()
        self._allocations = []

    @property
    def stream(self) -> int:
        return self._stream.handle

    def device_name(self) -> str:
        device = self._driver.Device(0)
        return f"{device.name()}, compute capability {'.'.join(map(str, device.compute_capability()))}"

    def allocate(self, shape: tuple[int, ...], dtype) -> Buffer:
        host = self._driver.pagelocked_empty(shape, dtype)
        device = self._driver.mem_alloc(max(host.nbytes, 1))
        self._allocations.append(device)
        return Buffer(host, int(device))

    def to_device(self, buffer: Buffer, count: int) -> None:
        self._driver.memcpy_htod_async(buffer.device, buffer.host[:count], self._stream)

    def to_host(self, buffer: Buffer, count: int) -> None:
        self._driver.memcpy_dtoh_async(buffer.host[:count], buffer.device, self._stream)

    def wait(self) -> None:
        self._stream.synchronize()


class _CudaPython:
    """The same through NVIDIA's own binding."""

    def __init__(self):
        from cuda.bindings import runtime

        self._runtime = runtime
        self._check(*runtime.cudaSetDevice(0))
        (self._stream,) = self._check(*runtime.cudaStreamCreate())
        self._copies = runtime.cudaMemcpyKind

    def _check(self, status, *values):
        if int(status) != 0:
            _, text = self._runtime.cudaGetErrorString(status)
            raise RunError(f"CUDA: {text.decode() if isinstance(text, bytes) else text}")
        return values

    @property
    def stream(self) -> int:
        return int(self._stream)

    def device_name(self) -> str:
        (facts,) = self._check(*self._runtime.cudaGetDeviceProperties(0))
        name = facts.name.decode() if isinstance(facts.name, bytes) else facts.name
        return f"{name.rstrip(chr(0))}, compute capability {facts.major}.{facts.minor}"

    def allocate(self, shape: tuple[int, ...], dtype) -> Buffer:
        import ctypes

        size = max(int(np.prod(shape)) * np.dtype(dtype).itemsize, 1)
        (address,) = self._check(*self._runtime.cudaMallocHost(size))
        pinned = (ctypes.c_byte * size).from_address(int(address))
        host = np.frombuffer(pinned, dtype=dtype, count=int(np.prod(shape))).reshape(shape)
        (device,) = self._check(*self._runtime.cudaMalloc(size))
        return Buffer(host, int(device))

    def to_device(self, buffer: Buffer, count: int) -> None:
        part = buffer.host[:count]
        kind = self._copies.cudaMemcpyHostToDevice
        self._check(*self._runtime.cudaMemcpyAsync(buffer.device, part.ctypes.data, part.nbytes, kind, self._stream))

    def to_host(self, buffer: Buffer, count: int) -> None:
        part = buffer.host[:count]
        kind = self._copies.cudaMemcpyDeviceToHost
        self._check(*self._runtime.cudaMemcpyAsync(part.ctypes.data, buffer.device, part.nbytes, kind, self._stream))

    def wait(self) -> None:
        self._check(*self._runtime.cudaStreamSynchronize(self._stream))
