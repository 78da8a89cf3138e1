"""Who may import whom. The rooms of the package stay apart, the core runs without TensorFlow, help stays quick."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ssd"
BASE = {"errors", "files", "console", "status", "native_log", "tables", "encryption", "memory"}
# Room or module of ssd -> the others that it may import. Nobody may import commands, except the command line by name.
MAY_IMPORT = {
    **{module: BASE for module in BASE},
    "__main__": {"cli"},
    "cli": BASE,
    "spec": BASE,
    "boxes": {"errors"},
    "visualize": BASE,
    "data": BASE | {"spec", "boxes", "visualize"},
    "models": BASE | {"spec", "boxes", "quantization"},  # its layers, which files name
    "evaluation": BASE | {"spec", "boxes", "data", "visualize"},
    "inspection": BASE | {"spec", "boxes", "models", "data", "visualize"},
    "training": BASE | {"spec", "boxes", "models", "quantization", "data", "evaluation", "inspection", "visualize"},
    "pruning": BASE | {"models"},
    "quantization": BASE | {"models"},
    "deploy": BASE | {"spec", "boxes", "models", "quantization", "data", "evaluation"},
    "inference": BASE | {"spec", "data", "evaluation", "visualize"},
    "commands": BASE
    | {"spec", "boxes", "models", "data", "evaluation", "training", "pruning", "quantization"}
    | {"deploy", "inference", "visualize"},
}
BACKEND_AWARE = ("models/batch_norm.py", "models/depthwise.py", "models/replicas.py")
# TensorFlow reads the data, spreads its own training, and is converted to ONNX; two layers pick its faster operations
# where it is the backend, replicas of a step talk through it, and all three run without it elsewhere.
MAY_IMPORT_TENSORFLOW = (
    "data/",
    "training/distribution.py",
    "training/hardware.py",
    "training/profile.py",
    "deploy/onnx_export.py",
    *BACKEND_AWARE,
)
HEAVY = {"tensorflow", "keras", "jax", "matplotlib", "PIL", "pycocotools", "onnx", "onnxruntime", "scipy"}

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if not path.name.endswith("_pb2.py"))


def imports(path: Path) -> set[str]:
    """Full dotted names of all that a module imports, wherever in the file the statement stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_its_neighbours(path):
    own = room(path)
    if own == "__init__":
        assert not any(name.startswith("ssd.") for name in imports(path))
        return
    # `from ssd import __version__` names no room.
    used = {name.split(".")[1] for name in imports(path) if name.startswith("ssd.")} - {own, "__version__"}
    assert used <= MAY_IMPORT[own], f"{own} may not import {sorted(used - MAY_IMPORT[own])}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_tensorflow_stays_out_of_the_core(path):
    place = str(path.relative_to(PACKAGE))
    if not place.startswith(MAY_IMPORT_TENSORFLOW):
        assert not {name for name in imports(path) if name.split(".")[0] in ("tensorflow", "tf2onnx")}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_is_evaluated_or_unpickled(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec"), f"{path}:{node.lineno}"
    assert not {name for name in imports(path) if name.split(".")[0] in ("pickle", "dill", "cloudpickle", "joblib")}


def test_the_command_line_and_the_spec_language_import_nothing_heavy():
    names = [f"ssd.commands.{path.stem}" for path in (PACKAGE / "commands").glob("*.py") if path.stem != "__init__"]
    names += ["ssd.cli", "ssd.console", "ssd.errors", "ssd.status", "ssd.spec"]
    code = f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & HEAVY


def test_every_folder_with_code_is_a_package():
    assert not {path.parent for path in MODULES if not (path.parent / "__init__.py").exists()}
