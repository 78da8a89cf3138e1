"""What the benchmarks share: workers that take turns, medians with their spread, and what machine it was.

Standard library only: the PyTorch peer runs in an environment without anything else of ours.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

PACKAGES = ("tensorflow", "keras", "jax", "onnxruntime", "numpy", "torch", "torchvision")
# Workers live side by side: none may take all of a GPU's memory.
WORKERS_ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}
HERE = Path(__file__).resolve().parent


def machine() -> dict:
    """CPU, cores that may be used, GPUs, and versions of what is installed here."""
    found = {"cpu": _cpu_model(), "cores": cores(), "gpus": _gpus()}
    return {**found, "load": round(os.getloadavg()[0], 2), "versions": versions()}


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine_line(about: dict) -> str:
    installed = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    gpus = "".join(f"{name}, " for name in about["gpus"])
    return f"{about['cpu']}, {about['cores']} cores, {gpus}load {about['load']} at the start; {installed}"


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _gpus() -> list[str]:
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return []


def spread(values: Sequence[float]) -> dict:
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "rounds": list(values)}


def spread_text(found: dict | None, digits: int = 2) -> str:
    """`1.04 (0.98-1.10)`, or `-`."""
    if found is None:
        return "-"
    return "{median:.{0}f} ({low:.{0}f}-{high:.{0}f})".format(digits, **found)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict:
    """Of rates, taken within each round: other load on the machine falls on both."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


def timed(run: Callable[[], object], calls: int = 1, wait: Callable[[], object] = lambda: None) -> dict:
    """Seconds of one call by the clock, and of all threads' processor time, as means; `wait` is for the device."""
    wait()
    clock, processor = time.perf_counter(), time.process_time()
    for _ in range(calls):
        run()
    wait()
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    return {"seconds": clock / calls, "processor": processor / calls}


def arguments(description: str, rounds: int) -> argparse.ArgumentParser:
    """A parser with the flags that every benchmark has."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")
    return parser


def add_torch_python(parser: argparse.ArgumentParser) -> None:
    default = os.environ.get("TORCH_PYTHON", sys.executable)
    text = "an interpreter with PyTorch; default: $TORCH_PYTHON, or the one that runs this"
    parser.add_argument("--torch-python", default=default, metavar="PYTHON", help=text)


def write_json(path: Path | None, content: dict) -> None:
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n")


class Worker:
    """A script in a process of its own, measured whenever it is asked: `serve` is the other end.

    Args:
        script: in this folder.
        python: the interpreter.
        options: what `serve` hands to the script; JSON.
        environment: variables beside those of this process.

    Attributes:
        facts: what the script says of itself once it is warm; under "error" why it cannot run.
    """

    def __init__(self, script: str, options: dict, *, python: str = sys.executable, environment: dict | None = None):
        command = [python, str(HERE / script), "--worker", json.dumps(options)]
        # Libraries chat; it is read only where the process dies.
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                text=True,
                env={**os.environ, **WORKERS_ENVIRONMENT, **(environment or {})},
            )
        except OSError as error:
            self._process, self.facts = None, {"error": f"{python}: {error.strerror}"}
        else:
            self.facts = self._answer()

    @property
    def usable(self) -> bool:
        return "error" not in self.facts

    def measure(self) -> dict:
        """One round."""
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        answer = self._answer()
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def close(self) -> None:
        if self._process is None:
            return
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict:
        # Libraries print to stdout too; answers are the lines that start with a mark.
        for line in self._process.stdout:
            if line.startswith(MARK):
                return json.loads(line[len(MARK) :])
        status = self._process.wait()
        self._stderr.seek(0)
        last = [line.strip() for line in self._stderr if line.strip()][-1:]
        return {"error": f"the process ended with {status}: {' '.join(last)}"}


MARK = "@@ "


def serve(prepare: Callable[[dict], tuple[dict, Callable[[], dict]]]) -> None:
    """A worker's life: `prepare(options)` gives facts and the function that measures one round."""

    def say(answer: dict) -> None:
        print(MARK + json.dumps(answer), flush=True)

    try:
        facts, measure = prepare(json.loads(sys.argv[2]))
    except Exception as error:
        say({"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()})
        return
    say(facts)
    for _ in sys.stdin:
        say(measure())
