"""Model files: a Keras archive with the resolved spec and the state of training inside; and TAO's detectors, which open
beside them.

Members beside Keras' own: `ssd/spec.txt` (prototxt), `ssd/state.json`, `ssd/state.npz`. Stored networks are float32 and
made of stock layers, so that any Keras 3 opens them, but for those that round in quantization-aware networks. Loading
puts our fused layers and the asked-for precision in (`ssd.models.portable`).
"""

import contextlib
import io
import json
import os
import shutil
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from ssd.errors import ModelError
from ssd.files import whole_file
from ssd.models import portable
from ssd.models.formats import tao_detector
from ssd.models.formats.recognise import DARKNET, HDF5, KERAS, SAFETENSORS, recognise
from ssd.spec.config import Experiment

# Files with weights and no trained detector of ours.
NOT_TRAINED = {
    HDF5: "an HDF5 file",
    SAFETENSORS: "a safetensors file of weights only",
    DARKNET: "a Darknet file of weights only",
}
CONFIG = "config.json"
WEIGHTS = "model.weights.h5"
SPEC = "ssd/spec.txt"
STATE = "ssd/state.json"
ARRAYS = "ssd/state.npz"


@dataclass(frozen=True)
class Artifact:
    """A loaded model file. `spec` is None where it was not asked for."""

    model: keras.Model
    spec: Experiment | None
    spec_text: str
    state: dict
    arrays: dict[str, np.ndarray]


def save_model(
    path: str | os.PathLike,
    model: keras.Model,
    spec_text: str,
    state: dict | None = None,
    arrays: dict[str, np.ndarray] | None = None,
) -> None:
    """Writes a `.keras` file, whole or not at all.

    Args:
        path: ends in `.keras`.
        model: any functional Keras model; its compilation is not stored.
        spec_text: the resolved spec, prototxt.
        state: JSON values: epoch, step, seeds.
        arrays: number arrays by name: optimizer slots, averages.

    Raises:
        ModelError: `path` does not end in `.keras`.
        TypeError: an array of a kind that would need pickling or would come back as another kind.
    """
    path = Path(path)
    if path.suffix != ".keras":
        raise ModelError(f"a model file ends in .keras, not {path.suffix or 'without a suffix'}", where=str(path))
    arrays = {name: _plain_array(name, value) for name, value in (arrays or {}).items()}
    state_json = json.dumps(state or {})
    with whole_file(path) as temporary, tempfile.TemporaryDirectory(prefix=".tmp-", dir=path.parent) as folder:
        saved = Path(folder) / "model.keras"
        model.save(saved)
        with zipfile.ZipFile(saved) as source, zipfile.ZipFile(temporary, "w") as target:
            for member in source.infolist():
                if member.filename == CONFIG:
                    config = portable.to_stock(json.loads(source.read(member)))
                    target.writestr(CONFIG, json.dumps(config))
                else:
                    _copy(source, member, target)
            target.writestr(SPEC, spec_text)
            target.writestr(STATE, state_json)
            with target.open(ARRAYS, "w", force_zip64=True) as file:
                _write_arrays(file, arrays)


def load_model(
    path: str | os.PathLike,
    *,
    precision: str = "float32",
    verb: str | None = "evaluate",
    spec: Experiment | None = None,
) -> Artifact:
    """Opens a trained detector: a file of ours, or TAO's `.hdf5`.

    Args:
        path: a `.keras` or `.hdf5` file.
        precision: the dtype policy to run in, whatever it was trained in; "float32", "mixed_bfloat16", "mixed_float16".
        verb: what the stored spec is checked for; None leaves it unparsed.
        spec: gives TAO's model its anchors, classes and mean; one of ours has a spec inside, which is used.

    Raises:
        ModelError: not a file, not ours, damaged, or with layers that are not Keras' or ours; TAO's without a spec or
            with one that does not fit.
        SpecError: the stored spec does not serve `verb`.
    """
    path = Path(path).expanduser()
    if recognise(path) == HDF5:
        if spec is None:
            raise ModelError(
                "an HDF5 model has no spec inside, which tells anchors, classes and mean",
                where=str(path),
                hint="name the spec it was trained with: -e SPEC",
            )
        return Artifact(tao_detector.load(path, spec, precision), spec, spec.text, {}, {})
    with _open(path) as archive:
        spec_text, state, arrays = _read_extras(path, archive)
        spec = None
        if verb is not None:
            from ssd.spec import experiment_from_text

            spec = experiment_from_text(spec_text, f"{path}:{SPEC}", verb)
        model = _restore(path, archive, precision)
    return Artifact(model, spec, spec_text, state, arrays)


def read_state(path: str | os.PathLike) -> tuple[dict, dict[str, np.ndarray]]:
    """The state that was saved with a model, without building the network."""
    path = Path(path).expanduser()
    with _open(path) as archive:
        _, state, arrays = _read_extras(path, archive)
    return state, arrays


def read_spec_text(path: str | os.PathLike) -> str:
    """The resolved spec that was saved with a model, without building the network."""
    path = Path(path).expanduser()
    with _open(path) as archive:
        return _read(path, archive, SPEC).decode("utf-8")


def _restore(path: Path, archive: zipfile.ZipFile, precision: str) -> keras.Model:
    config = _read(path, archive, CONFIG)
    # HDF5 seeks back and forth, which a zip member answers by being read anew: a file of its own is faster.
    with tempfile.TemporaryDirectory(prefix="ssd-") as folder:
        weights = Path(folder) / WEIGHTS
        with _damage(path, WEIGHTS), archive.open(WEIGHTS) as source, open(weights, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        try:
            network = portable.from_stock(json.loads(config), precision)
            model = keras.saving.deserialize_keras_object(network, safe_mode=True)
            model.load_weights(weights)
        except ModelError as error:
            raise ModelError(error.message, where=str(path), hint=error.hint) from error
        except Exception as error:  # Keras and h5py raise every kind there is over a damaged file
            reason = _first_line(error)
            raise ModelError(f"the network inside cannot be restored: {reason}", where=str(path)) from error
    return model


def _open(path: Path) -> zipfile.ZipFile:
    """The archive of a model file of ours, or why it is none."""
    where = str(path)
    kind = recognise(path)
    if kind != KERAS:
        raise ModelError(
            f"{NOT_TRAINED[kind]}, not a model that was saved by ssd",
            where=where,
            hint="`ssd train -m` takes it for initial weights",
        )
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:  # it changed since
        raise ModelError(f"cannot be read: {error}", where=where) from error
    names = archive.namelist()
    if CONFIG not in names or SPEC not in names:
        archive.close()
        what = "a zip archive without a network" if CONFIG not in names else "a Keras model without a spec"
        raise ModelError(
            f"{what}: not saved by ssd",
            where=where,
            hint="use a file that `ssd train` wrote: it knows its classes, anchors and input size",
        )
    return archive


def _read(path: Path, archive: zipfile.ZipFile, member: str) -> bytes:
    with _damage(path, member):
        return archive.read(member)


@contextlib.contextmanager
def _damage(path: Path, member: str):
    """Turns what a zip archive raises over a member into a ModelError."""
    try:
        yield
    except KeyError as error:
        raise ModelError(f"damaged: {member} is missing inside", where=str(path)) from error
    except (zipfile.BadZipFile, EOFError, OSError, zlib.error) as error:
        raise ModelError(f"damaged: {member} inside cannot be read", where=str(path)) from error


def _read_extras(path: Path, archive: zipfile.ZipFile) -> tuple[str, dict, dict[str, np.ndarray]]:
    text, state, arrays = (_read(path, archive, member) for member in (SPEC, STATE, ARRAYS))
    try:
        with np.load(io.BytesIO(arrays), allow_pickle=False) as members:
            return text.decode("utf-8"), json.loads(state), {name: members[name] for name in members.files}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ModelError(f"damaged: the saved state is unreadable: {_first_line(error)}", where=str(path)) from error


def _write_arrays(file, arrays: dict[str, np.ndarray]) -> None:
    """What `np.savez` writes, for any array name."""
    with zipfile.ZipFile(file, "w") as target:
        for name, value in arrays.items():
            with target.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, value, allow_pickle=False)


def _plain_array(name: str, value) -> np.ndarray:
    value = np.asarray(value)
    if value.dtype.kind not in "biufc":  # bfloat16 is of kind V: a .npy file would forget what it is
        raise TypeError(f"array {name} has dtype {value.dtype}; store it as float32")
    return value


def _copy(source: zipfile.ZipFile, member: zipfile.ZipInfo, target: zipfile.ZipFile) -> None:
    with source.open(member) as reader, target.open(member.filename, "w", force_zip64=True) as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
