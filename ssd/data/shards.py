"""Writing record shards, in this process or in several. Nothing here imports TensorFlow."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

import google_crc32c

from ssd.data import kitti, records
from ssd.data.audit import LabelProblem
from ssd.data.image_header import BadImage, read_header
from ssd.data.partition import Frame
from ssd.data.sample import DONT_CARE, place
from ssd.errors import RunError
from ssd.spec.config import class_key

# Fewer images than this are done before the first worker process has started.
WORTH_WORKERS = 2000
# How often the progress bar moves while workers write, seconds.
TICK_S = 0.2
# Bytes that go to the file in one piece: several records.
WRITE_BUFFER = 1 << 20


@dataclass(frozen=True)
class ShardTask:
    """One shard to write: `path` is where, an `idx-` file goes beside it."""

    path: Path
    fold: int
    frames: tuple[Frame, ...]
    indices: dict[str, int]  # sample.class_indices


@dataclass
class ShardResult:
    """What became of a shard."""

    fold: int
    name: str
    records: int = 0
    size: int = 0  # bytes
    crc32c: str = ""
    without_objects: int = 0
    max_objects: int = 0
    objects: Counter = field(default_factory=Counter)  # class index -> boxes
    labels: Counter = field(default_factory=Counter)  # class name in the labels -> boxes
    notes: Counter = field(default_factory=Counter)  # what is no problem and still worth a line
    problems: list[LabelProblem] = field(default_factory=list)


def write_shard(task: ShardTask, on_image: Callable[[], None] = lambda: None) -> ShardResult:
    """Writes the records of a shard and its index, and reports. Images that cannot be used are left out."""
    result = ShardResult(task.fold, task.path.name)
    crc, index = 0, []
    with open(task.path, "wb", buffering=WRITE_BUFFER) as file:
        for frame in task.frames:
            payload = _payload(frame, task.indices, result)
            on_image()
            if payload is None:
                continue
            for part in records.frame_parts(payload):
                file.write(part)
                crc = google_crc32c.extend(crc, part)
            size = len(payload) + records.OVERHEAD
            index.append(f"{result.size} {size}\n")
            result.size += size
            result.records += 1
        _to_disk(file)
    with open(records.index_path(task.path), "w", encoding="ascii") as file:
        file.write("".join(index))
        _to_disk(file)
    result.crc32c = f"{crc:08x}"
    return result


def _payload(frame: Frame, indices: dict[str, int], result: ShardResult) -> bytes | None:
    """The record of one image, or None; adds to the result's counts and problems."""
    rows, problems = (frame.rows, []) if frame.rows is not None else kitti.read_label(frame.annotation)
    result.problems += problems
    if any(problem.loses == "image" for problem in problems):
        return None
    try:
        with open(frame.image, "rb", buffering=0) as file:
            image = file.read()
        header = read_header(image)
    except FileNotFoundError:
        result.problems.append(LabelProblem(frame.image, None, "missing image", "there is no such image", "image"))
        return None
    except (OSError, BadImage) as error:
        detail = f"cannot read the image: {error.strerror if isinstance(error, OSError) else error}"
        result.problems.append(LabelProblem(frame.image, None, "unreadable image", detail, "image"))
        return None
    size = (header.height, header.width)
    if frame.stated_size not in (None, size):
        detail = f"{frame.image} is {size[1]}x{size[0]}, not {frame.stated_size[1]}x{frame.stated_size[0]}"
        result.problems.append(LabelProblem(frame.annotation, None, "other image size", detail, "nothing"))
    kept, objects, problems = place(rows, size, indices, frame.annotation)
    result.problems += problems
    result.labels.update(row.name for row in rows)
    result.notes["DontCare regions left out"] += sum(
        class_key(row.name) == DONT_CARE and DONT_CARE not in indices for row in rows
    )
    result.notes["labels with a score column, which is ignored"] += sum(row.score is not None for row in rows)
    result.notes["images turned upright by their EXIF orientation"] += header.orientation != 1
    result.objects.update(objects.classes.tolist())
    result.without_objects += not kept
    result.max_objects = max(result.max_objects, len(kept))
    return records.encode_example(frame_id=frame.frame_id, image=image, size=size, rows=kept, objects=objects)


def _to_disk(file) -> None:
    file.flush()
    os.fsync(file.fileno())


def write_shards(tasks: Sequence[ShardTask], processes: int, on_images: Callable[[int], None]) -> list[ShardResult]:
    """Writes all shards, results in the order of the tasks; `on_images(n)` tells of n more images.

    Raises:
        RunError: the disk is full, a worker died.
    """
    images = sum(len(task.frames) for task in tasks)
    try:
        if processes < 2 or len(tasks) < 2 or images < WORTH_WORKERS:
            return [write_shard(task, lambda: on_images(1)) for task in tasks]
        return _in_workers(tasks, min(processes, len(tasks)), on_images)
    except OSError as error:
        raise RunError(f"cannot write the records: {error.strerror or error}", where=error.filename) from error
    except BrokenProcessPool as error:
        raise RunError(
            "a worker process died, perhaps for lack of memory", hint="try again with --processes 1"
        ) from error


def _in_workers(tasks: Sequence[ShardTask], processes: int, on_images: Callable[[int], None]) -> list[ShardResult]:
    # Not fork: the parent may hold threads (TensorFlow, progress bars) whose locks a forked child inherits.
    context = multiprocessing.get_context("spawn")
    done_images = context.Value("q", 0)
    executor = ProcessPoolExecutor(processes, context, _start_worker, (done_images,))
    try:
        # The largest first, so that none starts last.
        order = sorted(range(len(tasks)), key=lambda number: -len(tasks[number].frames))
        futures = {number: executor.submit(_work, tasks[number]) for number in order}
        waiting, shown = set(futures.values()), 0
        while waiting:
            finished, waiting = wait(waiting, timeout=TICK_S, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()  # raises what the worker raised
            on_images(done_images.value - shown)
            shown = done_images.value
        return [futures[number].result() for number in range(len(tasks))]
    except BaseException:
        for worker in list((executor._processes or {}).values()):
            worker.terminate()
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


_images_done = None  # of a worker process: the counter that it shares with its parent


def _start_worker(done_images) -> None:
    global _images_done
    _images_done = done_images
    # Ctrl-C reaches the whole process group; the parent ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A parent that is killed cannot: then the worker ends itself, before the next run finds it still writing.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    with contextlib.suppress(Exception):
        parent.join()
    os._exit(1)


def _work(task: ShardTask) -> ShardResult:
    return write_shard(task, _count_image)


def _count_image() -> None:
    with _images_done.get_lock():
        _images_done.value += 1
