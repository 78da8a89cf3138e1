"""TensorRT engines on a GPU: pinned buffers made once, one stream, any batch up to the largest."""

import os
from pathlib import Path

import numpy as np

from ssd.console import warn
from ssd.deploy.cuda import memory
from ssd.deploy.graph_predictor import Runner
from ssd.deploy.onnx_metadata import Metadata
from ssd.deploy.tensorrt_engine import PYTHON_MODULES, Batches, installed, read_sidecar, start
from ssd.errors import InputError, ModelError, RunError


def open_engine(path: str | os.PathLike) -> tuple[Runner, Metadata]:
    """An engine that `ssd export` built, ready to run. Warns of another GPU of the kind that it was built for.

    Raises:
        InputError: the library it was built with, or one for the GPU's memory, is not installed.
        ModelError: no engine, not of its JSON file, or of a GPU or version that the library refuses.
        RunError: there is no GPU.
    """
    sidecar, metadata = read_sidecar(path)
    trt = installed(sidecar.builder)
    if trt is None:
        raise InputError(f"the engine needs {' or '.join(PYTHON_MODULES[sidecar.builder])}", where=str(path))
    device = memory()
    logger, messages = start(trt)
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(Path(path).read_bytes())
    if engine is None:
        reason = messages[0] if messages else "TensorRT does not say why"
        raise ModelError(
            f"it cannot be opened here: {reason}; built with {sidecar.builder} {sidecar.builder_version} for "
            f"{sidecar.built_for}",
            where=str(path),
            hint="build it anew on this machine",
        )
    here = device.device_name()
    if sidecar.builder == "tensorrt" and here != sidecar.built_for:
        warn(f"{path} was built for {sidecar.built_for}, this is {here}: it may be slower than one built here")
    execution = _Execution(trt, runtime, engine, device, sidecar.batches, messages)
    return Runner(execution.run, largest=sidecar.batches.most), metadata


class _Execution:
    """The buffers of an engine and one run of it.

    Args:
        runtime: kept, since the engine needs it as long as it lives.
        batches: that the engine was built for.
        messages: where the library's errors end up.
    """

    def __init__(self, trt, runtime, engine, device, batches: Batches, messages: list[str]):
        self._runtime, self._engine, self._device = runtime, engine, device
        self._least, self._messages = batches.least, messages
        self._context = engine.create_execution_context()
        self._buffers, self._outputs = {}, []
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            shape = (batches.most, *tuple(engine.get_tensor_shape(name))[1:])
            self._buffers[name] = device.allocate(shape, trt.nptype(engine.get_tensor_dtype(name)))
            self._context.set_tensor_address(name, self._buffers[name].device)
            if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT:
                self._outputs.append(name)
            else:
                self._input = name

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """One batch through the engine.

        Raises:
            RunError: TensorRT cannot run it.
        """
        count, source = len(images), self._buffers[self._input]
        taken = max(count, self._least)  # the engine takes no fewer
        source.host[:count] = images
        source.host[count:taken] = 0
        ready = self._context.set_input_shape(self._input, (taken, *images.shape[1:]))
        self._device.to_device(source, taken)
        if not (ready and self._context.execute_async_v3(self._device.stream)):
            reason = self._messages[-1] if self._messages else "TensorRT does not say why"
            raise RunError(f"the engine cannot run {count} images: {reason}")
        for name in self._outputs:
            self._device.to_host(self._buffers[name], count)
        self._device.wait()
        return {name: self._buffers[name].host[:count].copy() for name in self._outputs}
