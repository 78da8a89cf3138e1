"""Devices and processes that train together.

Every batch is cut into equal parts, one a device, and a step computes what one device would: batch statistics, hard
negatives and the loss's normaliser are those of the whole batch. With the TensorFlow backend the devices of one machine
train together under MirroredStrategy, with JAX those of any number of machines as one program
(`keras.distribution.DataParallel`).
"""

import atexit
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256

import keras

from ssd.console import log, say
from ssd.data.share import ALONE, Share
from ssd.errors import InputError, RunError, SsdError
from ssd.training.interrupt import Stopped

# What JAX and the libraries below it say when another process does not answer any more.
LOST_PROCESS = ("Gloo", "NCCL", "coordination service", "heartbeat", "Connection reset by peer", "Connection closed")
PATIENCE = 300  # seconds for all processes to come
# Seconds that process 0 stays after an error: with it JAX ends the others, who may be about to say the same.
PARTING = 3
AUTO = "auto"  # in place of an address: what started the processes tells JAX


@dataclass(frozen=True)
class Cluster:
    """Processes that train together, on one machine or several.

    `coordinator` is HOST:PORT of process 0, or "auto": then JAX finds out all three by itself, under SLURM or Open MPI.
    """

    coordinator: str
    processes: int | None = None
    process: int | None = None


@dataclass(frozen=True)
class Device:
    """What trains: `kind` "gpu" or "cpu", its name for the banner, how many of all processes, what part each gets."""

    kind: str
    name: str
    count: int = 1
    share: Share = ALONE


def gpus_shown(gpus: int, gpu_index: list[int] | None) -> str:
    """What CUDA_VISIBLE_DEVICES has to be, before the first tensor, for a process to see the wanted GPUs only, of those
    that it shows now. Raises InputError where it does not show one that was named."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    wanted = gpu_index or range(gpus)
    if shown is None:
        return ",".join(map(str, wanted))
    names = [name for name in shown.split(",") if name]
    if gpu_index and max(gpu_index) >= len(names):
        raise InputError(
            f"--gpu_index {' '.join(map(str, gpu_index))}: no such GPU among those of CUDA_VISIBLE_DEVICES={shown}",
            hint="indices count from 0 within CUDA_VISIBLE_DEVICES; unset it to count all GPUs of the machine",
        )
    return ",".join(names[number] for number in wanted if number < len(names))


def join(cluster: Cluster) -> None:
    """Makes this process one of the cluster; must come before the first tensor.

    Raises:
        InputError: the backend is not JAX, there is no such address, or no cluster to be found.
        RunError: the others cannot be reached.
    """
    if keras.backend.backend() != "jax":
        raise InputError(
            f"several processes train together with the JAX backend only, not with {keras.backend.backend()}",
            hint="set KERAS_BACKEND=jax (pip install 'jax[cuda13]'); the GPUs of a machine need one process: --gpus N",
        )
    named = cluster.coordinator != AUTO
    if named:
        _check_address(cluster)
    import jax

    # Two steps under way at once would mix up their messages on CPUs.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    shown = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    where = cluster.coordinator if named else "as SLURM or Open MPI say"
    say(f"waiting for the other processes, {PATIENCE} s at most: {where}")
    try:
        with _interruptible(), _impatient(cluster):
            jax.distributed.initialize(
                coordinator_address=cluster.coordinator if named else None,
                num_processes=cluster.processes,
                process_id=cluster.process,
                # Else what started the processes would decide which GPUs are theirs, even where they are named.
                cluster_detection_method="deactivate" if named else None,
                # Else JAX takes the process' number on its machine for its GPU's, though only one is shown to it.
                local_device_ids=[0] if not named and len(shown) == 1 else None,
                initialization_timeout=2 * PATIENCE,  # at which it would abort
            )
            with _without_stdout():  # with the first message between CPUs, Gloo says there that it is connected
                agreed(0)
    except (RuntimeError, ValueError) as error:
        if not named and "should be defined" in str(error):
            raise InputError(
                "--coordinator auto: this process was started by neither SLURM nor Open MPI, as far as JAX can see",
                hint="start it with srun or mpirun, or name HOST:PORT, --num_processes and --process_id",
            ) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        hint = "is process 0 running, its port reachable, and --gpu_index another for each process of a machine?"
        raise RunError(
            f"--coordinator {cluster.coordinator}: the processes did not meet: {reason}", hint=hint if named else None
        ) from error


@contextlib.contextmanager
def _impatient(cluster: Cluster) -> Iterator[None]:
    """Within, the process ends in a line once it has waited too long."""

    error = RunError(
        f"--coordinator {cluster.coordinator}: not all processes came within {PATIENCE} s",
        hint="all need the same --coordinator and --num_processes, and one has --process_id 0",
    )

    def give_up():
        log.error("%s", error)
        sys.stderr.flush()
        os._exit(error.exit_code)

    timer = threading.Timer(PATIENCE, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def _without_stdout() -> Iterator[None]:
    """Within, what native code prints is lost."""
    try:
        kept = os.dup(1)
    except OSError:  # closed
        yield
        return
    if sys.stdout:
        sys.stdout.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _check_address(cluster: Cluster) -> None:
    """Raises InputError where the host is unknown, or its port is taken and it is this process that is to listen."""
    host, _, port = cluster.coordinator.rpartition(":")
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except OSError as error:
        raise InputError(
            f"--coordinator {cluster.coordinator}: unknown host {host} ({error.strerror})",
            hint="the name or address of the machine of process 0, as the others see it",
        ) from error
    if cluster.process == 0:
        try:
            socket.create_server(("", int(port))).close()
        except OSError as error:
            reason = os.strerror(error.errno)
            raise InputError(
                f"--coordinator {cluster.coordinator}: port {port} of this machine cannot be had ({reason})",
                hint="name another port, above 1023, the same to all processes",
            ) from error


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM end the process as it is: native code waits, and Python would not hear of them."""
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def among_others(cluster: Cluster | None, saved: Callable[[], list]) -> Iterator[None]:
    """Within, an error of one process soon is one of all: JAX would say goodbye to the others before this process ends,
    while they wait for its part of a step. `Stopped` comes to all of them, and they part as friends.

    Args:
        saved: gives the checkpoints of the run, to go on from.
    """
    try:
        yield
    except Stopped:
        raise
    except BaseException as error:
        if cluster is None:
            raise
        code = 128 + getattr(error, "number", signal.SIGINT) if isinstance(error, KeyboardInterrupt) else 1
        # The last function registered is the first one called.
        atexit.register(_end, getattr(error, "exit_code", code))
        if was_loss(error):
            raise lost(bool(saved())) from error
        raise


def _end(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    if _is_first():
        time.sleep(PARTING)
    os._exit(code)


def _is_first() -> bool:
    jax = sys.modules.get("jax")  # not imported where the error came before it
    return jax is not None and jax.distributed.is_initialized() and jax.process_index() == 0


def was_loss(error: BaseException) -> bool:
    """Whether it came since another process of the run does not answer any more."""
    text = f"{type(error).__name__}: {error}"
    return not isinstance(error, SsdError) and any(sign in text for sign in LOST_PROCESS)


def lost(saved: bool) -> RunError:
    """What is said then."""
    onward = "the last whole checkpoint is kept: go on with --resume, with as many processes as you like"
    return RunError(
        "another process of the run was lost; if it was not killed, its output says why",
        hint=onward if saved else "there is no checkpoint yet: start again",
    )


@contextlib.contextmanager
def in_step(device: Device) -> Iterator[None]:
    """Around what each process does by itself: bad input of one ends all of them, with the same exit code."""
    bad = None
    try:
        yield
    except InputError as error:
        bad = error
    if device.share.processes > 1 and agreed(int(bad is not None)) and bad is None:
        raise InputError("another process of the run cannot use its input; its output says why")
    if bad is not None:
        raise bad


def check_alike(what: dict[str, object], device: Device) -> None:
    """Raises the same InputError in all processes where they differ in one of the values of `what`, by name."""
    if device.share.processes == 1:
        return
    import numpy as np
    from jax.experimental import multihost_utils

    digests = [int(sha256(repr(value).encode()).hexdigest()[:7], 16) for value in what.values()]
    everybodys = multihost_utils.process_allgather(np.array(digests, np.int32))
    different = [name for name, column in zip(what, everybodys.T, strict=True) if len(set(column.tolist())) > 1]
    if different:
        raise InputError(
            f"the processes of the run differ in: {', '.join(different)}",
            hint="all need the same flags, files and kind of machine, and the results on a disk that they share",
        )


def choose_device(gpus: int, gpu_index: list[int] | None, cluster: Cluster | None = None) -> Device:
    """The GPUs, or the CPU where there are none. Where the CPU shows as several devices, it can be several, for trying.

    Raises:
        InputError: more were asked for than there are, or one that is not there; processes with unlike numbers of them.
    """
    _keep_tensorflow_off()
    # Asked for GPUs only, JAX fails where there are none.
    names = keras.distribution.list_devices()
    kind = "gpu" if any(name.startswith(("gpu", "cuda")) for name in names) else "cpu"
    processes, process = _place() if cluster else (1, 0)
    here = len(names) // processes
    wanted = len(gpu_index) if gpu_index else gpus
    if len(names) % processes:
        raise InputError(f"{len(names)} devices on {processes} processes: each must have the same number")
    if gpu_index and (kind == "cpu" or here < wanted):
        raise InputError(
            f"--gpu_index {' '.join(map(str, gpu_index))}: no such GPU on this machine",
            hint="leave out --gpu_index to train on the CPU; `nvidia-smi -L` lists the GPUs",
        )
    if here < wanted:
        found = f"{here} GPU{'s' * (here > 1)}" if kind == "gpu" else "no GPU"
        hint = (
            "leave out --gpus to train on one device, on a machine without GPU its CPU; `nvidia-smi -L` lists the GPUs"
        )
        raise InputError(f"--gpus {wanted}: this machine has {found}", hint=hint)
    count = wanted * processes
    numbers = gpu_index or list(range(wanted))
    name = f"GPU {', '.join(map(str, numbers))}" if kind == "gpu" else f"CPU, {os.cpu_count()} cores (no GPU found)"
    if count > 1:
        name += f"; {count} devices" + (f" of {processes} processes" if processes > 1 else "")
    share = ALONE
    if count > 1 and keras.backend.backend() == "jax":
        share = Share(process, processes, count)
    return Device(kind, name, count, share)


def _keep_tensorflow_off() -> None:
    """TensorFlow reads the data for JAX too; then the GPUs are none of its business."""
    if keras.backend.backend() == "tensorflow":
        return
    with contextlib.suppress(ImportError):  # the core runs without it
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")


def _place() -> tuple[int, int]:
    """How many processes the cluster has, and which of them this is."""
    import jax

    return jax.process_count(), jax.process_index()


@contextlib.contextmanager
def together(device: Device) -> Iterator[None]:
    """Models that are built within train on all of the devices. Nothing changes where it is one."""
    if device.count == 1:
        yield
        return
    names = [name for name in keras.distribution.list_devices() if name.startswith((device.kind, "cuda"))]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.distribute.MirroredStrategy([f"/{name.upper()}" for name in names[: device.count]]).scope():
            yield
        return
    # Our loaders share the batches out themselves.
    whole = keras.distribution.DataParallel(devices=_evenly(names, device), auto_shard_dataset=False)
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(whole)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


def _evenly(names: list[str], device: Device) -> list[str]:
    """As many of the devices of each process as are wanted."""
    here, wanted = len(names) // device.share.processes, device.count // device.share.processes
    return [name for number, name in enumerate(names) if number % here < wanted]


def dealt_out(batch):
    """The rows of a batch's arrays on the devices that train together; as they are where it is one."""
    if keras.backend.backend() == "tensorflow":
        return _to_replicas(batch)
    whole = keras.distribution.distribution()
    if whole is None:
        return batch
    import jax

    def place(values):
        return jax.make_array_from_process_local_data(whole.get_data_layout(values.shape).backend_layout, values)

    return keras.tree.map_structure(place, batch)


def _to_replicas(batch):
    import numpy as np
    import tensorflow as tf

    strategy = tf.distribute.get_strategy()
    count = strategy.num_replicas_in_sync
    if count == 1:
        return batch

    def deal(values):
        # A replica without a row fails. Where there are too few rows each has all of them: every mean stays what it is.
        parts = [values] * count if len(values) < count else np.array_split(values, count)

        def part(context):
            number = context.replica_id_in_sync_group
            with tf.device(strategy.extended.worker_devices[number]):  # else all go to the first one
                return tf.convert_to_tensor(parts[number])

        return strategy.experimental_distribute_values_from_function(part)

    return keras.tree.map_structure(deal, batch)


def everywhere(values):
    """Arrays that every process has whole, though the step that made them was cut into parts."""
    whole = keras.distribution.distribution()
    if whole is None:
        return values

    def spread(value):
        layout = keras.distribution.TensorLayout([None] * len(value.shape), whole.device_mesh)
        return keras.distribution.distribute_tensor(value, layout)

    return keras.tree.map_structure(spread, values)


def agreed(number: int) -> int:
    """The largest number that any of several processes has come with; all must ask."""
    import numpy as np
    from jax.experimental import multihost_utils

    return int(np.max(multihost_utils.process_allgather(np.array(number, np.int32))))
