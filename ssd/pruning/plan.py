"""What a pruning does to a network, before it is done: which channels of each group stay."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import keras
import numpy as np

from ssd.errors import InputError
from ssd.pruning import surgery
from ssd.pruning.channel_groups import Channels, Group, channel_groups
from ssd.pruning.importance import filter_norms, merged, normalized, selected


@dataclass(frozen=True)
class Rules:
    """How channels are chosen, see `ssd.pruning.importance`.

    Args:
        normalizer: "max" or "L2".
        criterion: how the norms of layers that are bound to each other become one.
        granularity: filter counts are multiples of it.
        minimum: filters that every layer keeps.

    Where a concatenation is added to something, a layer's parts go with different layers: the last two then hold for
    each part, and each keeps a filter at least.
    """

    normalizer: str = "max"
    criterion: str = "union"
    granularity: int = 8
    minimum: int = 16


class Pruner:
    """The channels of a network with their importance; makes smaller networks by threshold.

    Args:
        model: functional, channels last.
        excluded: names of layers that keep all their filters.

    Raises:
        ModelError: the channels of a layer cannot be followed.
    """

    def __init__(self, model: keras.Model, rules: Rules, excluded: Sequence[str] = ()):
        self.model = model
        self.rules = rules
        self.channels: Channels = channel_groups(model, excluded)
        norms = {
            member.layer: normalized(filter_norms(model.get_layer(member.layer)), rules.normalizer)
            for group in self.channels.groups
            for member in group.members
        }
        # One vector per group, in the order of `channels.groups`.
        self.importance = [
            merged([norms[member.layer][member.channels] for member in group.members], rules.criterion)
            for group in self.channels.groups
        ]

    def keeps(self, threshold: float) -> dict[str, surgery.Keep]:
        """Which channels of each layer stay at `threshold`.

        Raises:
            InputError: a layer would lose all its filters.
        """
        kept = [
            np.ones(len(group.ids), bool) if group.whole else self._selected(group, importance, threshold)
            for group, importance in zip(self.channels.groups, self.importance, strict=True)
        ]
        return surgery.kept_channels(self.channels, kept)

    def _selected(self, group: Group, importance: np.ndarray, threshold: float) -> np.ndarray:
        kept = selected(importance, threshold, self.rules.granularity, self.rules.minimum)
        if not kept.any():
            names = ", ".join(member.layer for member in group.members)
            raise InputError(
                f"at threshold {threshold:g} nothing is left of {names}: the largest norm is {importance.max():.3g}",
                hint="lower -pth, raise -nf, or keep the layer whole with -el",
            )
        return kept

    @cached_property
    def parameters(self) -> int:
        return self.model.count_params()

    def threshold_for(self, ratio: float) -> float:
        """The lowest threshold that leaves at most the share `ratio` of the parameters.

        Raises:
            InputError: no threshold does.
        """
        steps = self._steps()
        low, high = 0, len(steps) - 1
        if self.share(steps[high]) > ratio:
            raise InputError(
                f"--target_ratio {ratio:g}: at most {1 - self.share(steps[high]):.1%} of the parameters can go, "
                f"{self.share(steps[high]):.3f} would be left",
                hint="lower -nf or -pg, or exclude fewer layers",
            )
        while low < high:
            middle = (low + high) // 2
            if self.share(steps[middle]) <= ratio:
                high = middle
            else:
                low = middle + 1
        return float(steps[low])

    def _steps(self) -> np.ndarray:
        """The thresholds that differ, ascending: between two neighbouring norms nothing changes."""
        prunable = [
            values for group, values in zip(self.channels.groups, self.importance, strict=True) if not group.whole
        ]
        steps = np.unique(np.concatenate([np.zeros(1), *prunable]))
        if self.rules.minimum or not prunable:
            return steps
        # A group is empty from its largest norm on. At 0 `keeps` says which it is.
        within = steps[steps < min(values.max() for values in prunable)]
        return within if len(within) else np.zeros(1)

    def share(self, threshold: float) -> float:
        """Parameters left at `threshold`, as a share of all."""
        return surgery.parameters(self.model, self.keeps(threshold)) / self.parameters

    def prune(self, threshold: float) -> keras.Model:
        """The smaller network."""
        return surgery.prune(self.model, self.keeps(threshold))
