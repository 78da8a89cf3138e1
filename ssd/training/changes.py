"""What differs between the spec of a checkpoint and the spec of today."""

import dataclasses

from ssd.errors import ModelError
from ssd.spec.config import Experiment

# Names as the user wrote them, for the parts of Experiment.
SPEC_NAMES = {
    "training": "training_config",
    "augmentation": "augmentation_config",
    "nms": "nms_config",
    "evaluation": "eval_config",
    "dataset": "dataset_config",
    "network": "ssd_config",
}
# A checkpoint does not fit another value of these.
FIXED = (
    "ssd_config.dssd",
    "ssd_config.arch",
    "ssd_config.nlayers",
    "ssd_config.aspect_ratios",
    "ssd_config.two_boxes_for_ar1",
    "ssd_config.pred_num_channels",
    "augmentation_config.channels",
    "dataset_config.classes",
    "training_config.optimizer.kind",
)


def changes(old: Experiment, new: Experiment) -> list[tuple[str, object, object]]:
    """(field, old value, new value) of every field that differs."""
    found: list[tuple[str, object, object]] = []
    _compare(old, new, "", found)
    return found


def check_resumable(old: Experiment, new: Experiment) -> list[str]:
    """One line for each changed field.

    Raises:
        ModelError: a change that the checkpoint's weights or optimizer cannot follow.
    """
    found = changes(old, new)
    fixed = [change for change in found if change[0].startswith(FIXED)]
    if fixed:
        raise ModelError(
            "the run cannot be resumed with a changed " + "; ".join(_line(*change) for change in fixed),
            hint="put the old value back, or start a new run with -m for the weights that still fit",
        )
    return [_line(*change) for change in found]


def _compare(old, new, path: str, found: list) -> None:
    if dataclasses.is_dataclass(old) and type(old) is type(new):
        for item in dataclasses.fields(old):
            if path or item.name != "text":
                name = SPEC_NAMES.get(item.name, item.name) if not path else f"{path}.{item.name}"
                _compare(getattr(old, item.name), getattr(new, item.name), name, found)
    elif old != new:
        found.append((path, old, new))


def _line(name: str, old, new) -> str:
    if name.endswith(".qat"):
        name, old, new = f"{name.removesuffix('qat')}enable_qat", old is not None, new is not None
    name = name.replace(".qat.", ".qat_config.")
    return f"{name}: {_text(old)} -> {_text(new)}"


def _text(value) -> str:
    """As a spec has it; a message that is there or not in a word."""
    if isinstance(value, bool) or value is None:
        return "none" if value is None else str(value).lower()
    return "set" if dataclasses.is_dataclass(value) else str(value)
