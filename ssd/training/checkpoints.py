"""The files in `results_dir/weights`: their names, their order of writing, and which one a run resumes from."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from ssd.console import warn
from ssd.encryption import is_encrypted
from ssd.errors import InputError, ModelError, RunError
from ssd.files import same_file
from ssd.models.checkpoint import Artifact, load_model, read_state, save_model
from ssd.spec.config import Network
from ssd.training.state import Progress


@dataclass(frozen=True)
class Checkpoints:
    """`weights/ssd_resnet18_{epoch_010,best,last}.keras` of one run."""

    folder: Path
    prefix: str

    @classmethod
    def of(cls, results_dir: Path, network: Network) -> "Checkpoints":
        return cls(Path(results_dir) / "weights", run_name(network))

    @property
    def last(self) -> Path:
        return self.folder / f"{self.prefix}_last.keras"

    @property
    def best(self) -> Path:
        return self.folder / f"{self.prefix}_best.keras"

    def numbered(self, epoch: int) -> Path:
        return self.folder / f"{self.prefix}_epoch_{epoch:03d}.keras"

    def present(self) -> list[Path]:
        """Every checkpoint file, of this network or another."""
        return sorted(path for path in self.folder.glob("*.keras") if not path.name.startswith(".tmp-"))

    def save(self, model, spec_text: str, state: dict, epoch: int, arrays: dict, *, keep: bool, best: bool) -> None:
        """Writes the state once and gives it its names: those that are missing after a kill in between are not needed
        to go on (`newest`, `settle_best`).

        Args:
            keep: under the epoch's number too.
            best: under the name of the best too.
        """
        names = [self.numbered(epoch)] * keep + [self.best] * best + [self.last]
        try:
            save_model(names[0], model, spec_text, state, arrays)
            for name in names[1:]:
                same_file(names[0], name)
        except OSError as error:
            kept = "the last whole one is kept" if self.present() else "there is none yet"
            raise RunError(
                f"cannot write the checkpoint: {error.strerror or error}; {kept}",
                where=str(names[0]),
                hint="make room, then go on with --resume" if self.present() else "make room, then start again",
            ) from error

    def sweep(self) -> None:
        """Removes what a killed run left half-written."""
        import shutil

        for path in self.folder.glob(".tmp-*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    path.unlink()

    def settle_best(self, path: str | os.PathLike, progress: Progress) -> None:
        """Makes `best` and what a resumed run remembers of it agree.

        They do not where a kill came before `best` got its name, or where the run goes on in another folder: then the
        checkpoint resumed from is the best, if it is of the best epoch and can be copied as it is; else the best is
        sought anew.
        """
        if progress.best_epoch is None:
            return
        with contextlib.suppress(ModelError):
            if read_state(self.best)[0].get("epoch") == progress.best_epoch:
                return
        if (progress.epoch, progress.position) == (progress.best_epoch, 0) and not is_encrypted(path):
            same_file(path, self.best)
        else:
            progress.best_map = progress.best_epoch = None

    def newest(self) -> tuple[Path, Artifact, Progress]:
        """The checkpoint that is furthest on and loads, with a warning for each that does not.

        Raises:
            InputError: there is none.
        """
        candidates = self.present()
        if not candidates:
            raise InputError(
                f"--resume: no checkpoint in {self.folder}",
                hint="leave out --resume to start, or name the folder of the run with -r",
            )
        ranked, failures = [], []
        for path in candidates:
            try:
                progress = Progress.from_json(read_state(path)[0])
                ranked.append(((progress.epoch, progress.position, path == self.last), path, progress))
            except ModelError as error:
                failures.append(_reason(path, error))
        for _, path, progress in sorted(ranked, key=lambda item: item[0], reverse=True):
            try:
                artifact = load_model(path, verb=None)
            except ModelError as error:
                failures.append(_reason(path, error))
                continue
            for failure in failures:
                warn(f"{failure}; resuming from {path.name}")
            return path, artifact, progress
        raise InputError(f"--resume: no checkpoint in {self.folder} loads", hint="\n    ".join(failures))


def run_name(network: Network) -> str:
    """`ssd_resnet18`, `dssd_mobilenet_v2`."""
    return f"{'dssd' if network.dssd else 'ssd'}_{network.name}"


def _reason(path: Path, error: ModelError) -> str:
    return f"{path.name} does not load ({error.message})"
