"""A small KITTI folder, a spec for it and a model that was never trained, for the commands that use models."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw


@pytest.fixture(scope="session")
def kitti_folder(tmp_path_factory) -> Path:
    """Ten images with squares and discs, of several sizes and suffixes; no star. The last one has no object."""
    folder = tmp_path_factory.mktemp("kitti")
    random = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for number in range(10):
        width, height = random.integers(90, 240, 2).tolist()
        image = Image.new("RGB", (width, height), (60, 90, 60))
        canvas, lines = ImageDraw.Draw(image), []
        for kind in ("square", "disc") if number < 9 else ():
            side = int(random.integers(20, 60))
            x, y = int(random.integers(0, width - side)), int(random.integers(0, height - side))
            shape = canvas.rectangle if kind == "square" else canvas.ellipse
            shape((x, y, x + side, y + side), fill=(220, 60, 60))
            occluded = 1 if number == 0 else 0
            lines.append(f"{kind} 0 {occluded} 0 {x} {y} {x + side} {y + side} 0 0 0 0 0 0 0\n")
        image.save(folder / "images" / f"{number:03}{('.jpg', '.png')[number % 2]}")
        (folder / "labels" / f"{number:03}.txt").write_text("".join(lines))
    return folder


@pytest.fixture(scope="session")
def spec_file(kitti_folder, spec_text) -> Path:
    path = kitti_folder / "spec.txt"
    path.write_text(spec_text(kitti_folder, kitti_folder))
    return path


@pytest.fixture(scope="session")
def thin_detector():
    """`thin_detector(experiment)`: its network with 16 filters in every layer, fresh, which makes short work of it."""

    def make(spec):
        import keras

        from ssd.models.detector import build_detector
        from ssd.models.widths import with_widths

        keras.utils.set_random_seed(0)
        size = spec.augmentation
        model = build_detector(spec.network, (size.height, size.width, size.channels), len(spec.classes))
        inner = [layer.name for layer in model.layers if hasattr(layer, "filters") and "ssd_" not in layer.name]
        return with_widths(model, dict.fromkeys(inner, 16))

    return make


@pytest.fixture(scope="session")
def model_file(spec_file, thin_detector) -> Path:
    from ssd.models.checkpoint import save_model
    from ssd.spec import load_experiment

    spec = load_experiment(spec_file, "train")
    model = thin_detector(spec)
    # Weak heads: scores near 1/4, as of a model at the start of its training.
    for layer in model.layers:
        if layer.name.startswith("ssd_conf"):
            layer.kernel.assign(layer.kernel * 0.01)
    path = spec_file.parent / "model" / "untrained.keras"
    save_model(path, model, spec.text)
    return path


@pytest.fixture
def unchanged(tmp_path):
    """Called at the end: nothing was written below `tmp_path` since the test began to run the command."""

    def listing():
        return sorted((str(path), path.stat().st_size) for path in tmp_path.rglob("*"))

    class Watch:
        def __enter__(self):
            self.before = listing()

        def __exit__(self, kind, error, trace):
            if kind is None:
                assert listing() == self.before

    return Watch()
