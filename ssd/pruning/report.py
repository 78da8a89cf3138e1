"""What a pruning removed: a row per layer, the sums, as text, JSON and picture."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import keras

from ssd.files import whole_file
from ssd.models.macs import layer_macs
from ssd.pruning.channel_groups import Group
from ssd.tables import count, table

Pair = tuple[int, int]  # before, after


@dataclass(frozen=True)
class LayerChange:
    """A layer with filters, before and after. `whole`: why it could lose none; `bound`: layers that it goes with."""

    name: str
    filters: Pair
    parameters: Pair
    macs: Pair
    whole: str
    bound: tuple[str, ...]


@dataclass(frozen=True)
class PruningReport:
    """`parameters` and `macs` are those of the whole networks, MACs for one image."""

    name: str
    threshold: float
    layers: tuple[LayerChange, ...]
    parameters: Pair
    macs: Pair

    @property
    def ratio(self) -> float:
        """Parameters of the pruned network as a share of the original's."""
        return self.parameters[1] / self.parameters[0]

    @property
    def removed(self) -> dict[str, int]:
        """Filters that went, by layer."""
        return {
            each.name: each.filters[0] - each.filters[1] for each in self.layers if each.filters[0] > each.filters[1]
        }


def compare(before: keras.Model, after: keras.Model, groups: Sequence[Group], threshold: float) -> PruningReport:
    """Reads the two networks."""
    whole, bound = {}, {}
    for group in groups:
        names = [member.layer for member in group.members]
        for name in names:
            whole.setdefault(name, group.whole)
            bound.setdefault(name, set()).update(other for other in names if other != name)
    changes = []
    for layer in before.layers:
        if layer.name in whole:
            pair = (layer, after.get_layer(layer.name))
            changes.append(
                LayerChange(
                    name=layer.name,
                    filters=tuple(each.output.shape[-1] for each in pair),
                    parameters=tuple(each.count_params() for each in pair),
                    macs=tuple(map(layer_macs, pair)),
                    whole=whole[layer.name],
                    bound=tuple(sorted(bound[layer.name])),
                )
            )
    models = (before, after)
    macs = tuple(sum(map(layer_macs, model.layers)) for model in models)
    parameters = tuple(model.count_params() for model in models)
    return PruningReport(before.name, threshold, tuple(changes), parameters, macs)


def text(report: PruningReport) -> str:
    """The table for the terminal."""
    rows = []
    for each in report.layers:
        before, after = each.filters
        filters = str(before) if before == after else f"{before} -> {after}"
        rows.append((each.name, filters, *(_pair(pair) for pair in (each.parameters, each.macs)), each.whole))
    return table(("layer", "filters", "parameters", "MACs", "kept whole"), rows)


def totals(report: PruningReport) -> list[str]:
    """One line each for parameters and multiply-accumulates."""
    return [
        f"{name}: {count(before)} -> {count(after)}, {1 - after / before:.1%} removed"
        for name, (before, after) in (("parameters", report.parameters), ("MACs", report.macs))
    ]


def as_json(report: PruningReport) -> dict:
    """What the text says, for programs."""
    return {**asdict(report), "pruning_ratio": report.ratio}


def draw(report: PruningReport, path: str | os.PathLike) -> None:
    """Writes a PNG: the filters of every layer, what is left of them in front."""
    from matplotlib.figure import Figure

    changes = [each for each in report.layers if not each.whole]
    figure = Figure(figsize=(9, 1.6 + 0.17 * len(changes)), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    places = range(len(changes))
    axes.barh(places, [each.filters[0] for each in changes], color="#d5dbe1", label="before")
    axes.barh(places, [each.filters[1] for each in changes], color="#1f4e79", label="after")
    axes.set_yticks(places, [each.name for each in changes], fontsize=7)
    axes.set(
        xlabel="filters",
        ylim=(len(changes) - 0.5, -0.5),
        title=f"{report.name} pruned at {report.threshold:.3g}: {report.ratio:.1%} of the parameters left",
    )
    axes.legend(loc="lower right")
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _pair(pair: Pair) -> str:
    before, after = pair
    return count(before) if before == after else f"{count(before)} -> {count(after)}"
