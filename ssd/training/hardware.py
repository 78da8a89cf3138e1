"""What a device can, and how it is used: precision, memory, determinism."""

import os
import resource
import subprocess

import keras

from ssd.console import warn
from ssd.memory import available_memory
from ssd.training.distribution import Device

BF16_CPU_FLAGS = {"avx512_bf16", "amx_bf16"}
BF16_GPU = (8, 0)  # compute capability of the first GPUs that multiply bfloat16


def set_precision(use_amp: bool, device: Device) -> str:
    """Sets the global dtype policy: bfloat16 where `use_amp` asks for it and the device multiplies it, else float32."""
    policy = "float32"
    if use_amp:
        if _multiplies_bfloat16(device):
            policy = "mixed_bfloat16"
        else:
            warn("--use_amp: this device has no bfloat16 arithmetic; training in float32")
    keras.config.set_dtype_policy(policy)
    return policy


def make_deterministic() -> None:
    """Forbids operations whose result depends on timing; must come before the first tensor."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    else:  # CPUs have none
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".strip()


def whole_step_by_xla(devices: int) -> bool:
    """Whether XLA compiles the whole step, as Keras would choose, but for the CPU."""
    if keras.backend.backend() != "tensorflow":
        return True
    import tensorflow as tf
    from tensorflow.python.framework.config import is_op_determinism_enabled

    # On a CPU, oneDNN's kernels are about twice as fast as what XLA makes of the same graph. Replicas talk within the
    # step, which XLA cannot do. On a GPU, TensorFlow takes int32 to the CPU for matching and negatives; XLA does not.
    return bool(tf.config.get_visible_devices("GPU")) and devices == 1 and not is_op_determinism_enabled()


def _multiplies_bfloat16(device: Device) -> bool:
    if device.kind == "cpu":
        try:
            with open("/proc/cpuinfo", encoding="utf-8") as file:
                flags = next((line.split() for line in file if line.startswith("flags")), [])
        except OSError:
            return False
        return bool(BF16_CPU_FLAGS & set(flags))
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        details = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])
        return details.get("compute_capability", (0, 0)) >= BF16_GPU
    import jax

    capability = getattr(jax.devices()[0], "compute_capability", "0.0")
    return tuple(int(part) for part in capability.split(".")) >= BF16_GPU


def free_memory(device: Device) -> int:
    """Bytes that a run may take on one device; of the machine or container for a CPU."""
    if device.kind == "cpu":
        return available_memory()
    if keras.backend.backend() == "jax":
        import jax

        return jax.local_devices()[0].memory_stats()["bytes_limit"]
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    query = ["nvidia-smi", f"--id={first}", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]) << 20


def peak_memory(device: Device) -> int:
    """Bytes: the most that this process has held on one device."""
    if device.kind == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    if keras.backend.backend() == "jax":
        import jax

        return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"]
    import tensorflow as tf

    return tf.config.experimental.get_memory_info("GPU:0")["peak"]


def fused(function):
    """A function of the step that XLA makes one pass of on a CPU, where the step itself is not for XLA."""
    if keras.backend.backend() != "tensorflow":
        return function  # all of the step is
    import tensorflow as tf

    if tf.config.get_visible_devices("GPU"):
        return function
    return tf.function(function, jit_compile=True, autograph=False)
