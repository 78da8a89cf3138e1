"""Initial weights from another model: layer by layer, by name and shape."""

from dataclasses import dataclass

import keras

from ssd.errors import ModelError


@dataclass(frozen=True)
class Transfer:
    """Layers with weights of the new model: those that took the file's, and why the others did not."""

    loaded: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]

    def lines(self, source: str) -> list[str]:
        """For the terminal."""
        total = len(self.loaded) + len(self.skipped)
        lines = [f"initial weights: {len(self.loaded)} of {total} layers from {source}"]
        return lines + [f"    not loaded: {name} ({reason})" for name, reason in self.skipped]


def transfer_weights(source: keras.Model, target: keras.Model, path: str) -> Transfer:
    """Copies the weights of every layer of `target` that `source` has under the same name and in the same shapes.

    Raises:
        ModelError: nothing fits.
    """
    theirs = {layer.name: layer for layer in source.layers}
    loaded, skipped = [], []
    for layer in target.layers:
        if not layer.weights:
            continue
        reason = _misfit(theirs.get(layer.name), layer)
        if reason is None:
            layer.set_weights(theirs[layer.name].get_weights())
            loaded.append(layer.name)
        else:
            skipped.append((layer.name, reason))
    if not loaded:
        raise ModelError(
            "no layer of this model has the name and shape of one of the spec's network",
            where=path,
            hint="check arch and nlayers in the spec",
        )
    return Transfer(tuple(loaded), tuple(skipped))


def _misfit(theirs, ours) -> str | None:
    if theirs is None:
        return "not in the file"
    shapes = [tuple(weight.shape) for weight in ours.weights]
    found = [tuple(weight.shape) for weight in theirs.weights]
    if len(found) != len(shapes):
        return f"the file's layer has {len(found)} weights, {len(shapes)} are needed"
    different = [(a, b) for a, b in zip(found, shapes, strict=True) if a != b]
    return f"shape {different[0][0]} in the file, {different[0][1]} here" if different else None
