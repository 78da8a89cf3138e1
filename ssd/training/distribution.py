"""Devices, precision and determinism of this process. One device for now."""

import os
from dataclasses import dataclass

import keras

from ssd.console import warn
from ssd.errors import InputError

BF16_CPU_FLAGS = {"avx512_bf16", "amx_bf16"}
BF16_GPU = (8, 0)  # compute capability of the first GPUs that multiply bfloat16


@dataclass(frozen=True)
class Device:
    """What trains: `kind` "gpu" or "cpu", and its name for the banner."""

    kind: str
    name: str


def hide_other_gpus(gpu_index: list[int] | None) -> None:
    """Leaves the named GPU visible to this process; must come before the first tensor."""
    if gpu_index:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu_index[0])


def choose_device(gpu_index: list[int] | None) -> Device:
    """The GPU, or the CPU where there is none.

    Raises:
        InputError: a GPU was named that is not there.
    """
    # Asked for GPUs only, JAX fails where there are none.
    if any(device.startswith(("gpu", "cuda")) for device in keras.distribution.list_devices()):
        return Device("gpu", f"GPU {gpu_index[0] if gpu_index else 0}")
    if gpu_index:
        raise InputError(
            f"--gpu_index {gpu_index[0]}: no such GPU on this machine",
            hint="leave out --gpu_index to train on the CPU; `nvidia-smi -L` lists the GPUs",
        )
    return Device("cpu", f"CPU, {os.cpu_count()} cores (no GPU found)")


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


def seed(number: int, deterministic: bool) -> None:
    """Seeds Python, NumPy and the backend; `deterministic` forbids operations whose result depends on timing."""
    keras.utils.set_random_seed(number)
    if deterministic and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


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
