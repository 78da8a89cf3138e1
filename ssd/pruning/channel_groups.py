"""Which channels of a network live and die together.

Every channel of every tensor gets a number; layers that hand channels on hand their numbers on, layers that bring
channels of several tensors together bind their numbers, and a convolution makes new ones. What is bound directly or by
way of others is one channel to the pruner. A new network needs no code here as long as it is made of layers that the
table below knows; any other layer is refused by name, since silently wrong channels cost days.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import keras
import numpy as np

from ssd.errors import ModelError
from ssd.models.graph import Call, Tensor, calls, outputs

Layer = keras.layers
# Channel i of the output comes from channel i of the input and no other.
PASSING = (
    Layer.BatchNormalization,
    Layer.ReLU,
    Layer.LeakyReLU,
    Layer.ELU,
    Layer.Dropout,
    Layer.SpatialDropout2D,
    Layer.MaxPooling2D,
    Layer.AveragePooling2D,
    Layer.GlobalMaxPooling2D,
    Layer.GlobalAveragePooling2D,
    Layer.ZeroPadding2D,
    Layer.Cropping2D,
    Layer.UpSampling2D,
)
# Channel i of the output comes from channel i of every input.
ELEMENTWISE = (Layer.Add, Layer.Subtract, Layer.Multiply, Layer.Average, Layer.Maximum, Layer.Minimum)
MIXING_ACTIVATIONS = ("softmax", "log_softmax", "sparsemax", "glu")


@dataclass(frozen=True)
class Member:
    """A convolution in a group.

    Args:
        channels: `(n,)` its output channel in each place of the group.
    """

    layer: str
    channels: np.ndarray


@dataclass(frozen=True)
class Group:
    """Output channels of convolutions that stay or go together, place by place.

    Args:
        ids: `(n,)` numbers of the channels.
        members: the convolutions that make them.
        whole: why none of them may go; empty where they may.
    """

    ids: np.ndarray
    members: tuple[Member, ...]
    whole: str = ""


@dataclass(frozen=True)
class Channels:
    """The channels of a network.

    Args:
        count: of the numbers, from 0.
        groups: every convolution's output channels, each in one of them.
        inputs: layer name -> number of each channel that it takes, of the layers with weights.
        outputs: the same for what it gives.
    """

    count: int
    groups: tuple[Group, ...]
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


def channel_groups(model: keras.Model, excluded: Sequence[str] = ()) -> Channels:
    """Follows the channels through `model`.

    Args:
        model: functional, channels last.
        excluded: layers whose output channels all stay, whoever makes them: behind a padding it is the layer before.
            Those of the network's outputs stay in any case.

    Raises:
        ModelError: a layer, or a way to use one, whose channels cannot be followed.
    """
    trace = _Trace()
    for call in calls(model):
        trace.follow(call)
    for tensor in outputs(model):
        trace.keep(trace.tensors[tensor], "an output of the network")
    for name in excluded:
        trace.keep(trace.outputs[name] if name in trace.outputs else trace.tensors[name, 0], "excluded")
    roots = _roots(trace.count, trace.bound)
    whole: dict[int, str] = {}
    for ids, reason in trace.whole:
        for root in np.unique(roots[ids]).tolist():
            whole.setdefault(root, reason)
    return Channels(
        count=trace.count,
        groups=_grouped({name: roots[trace.outputs[name]] for name in trace.makers}, whole),
        inputs={name: roots[ids] for name, ids in trace.inputs.items()},
        outputs={name: roots[ids] for name, ids in trace.outputs.items()},
    )


@dataclass
class _Trace:
    """What is known of the channels so far."""

    count: int = 0
    tensors: dict[Tensor, np.ndarray] = field(default_factory=dict)
    inputs: dict[str, np.ndarray] = field(default_factory=dict)  # of layers with weights
    outputs: dict[str, np.ndarray] = field(default_factory=dict)
    makers: list[str] = field(default_factory=list)  # layers with filters
    bound: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    whole: list[tuple[np.ndarray, str]] = field(default_factory=list)

    def follow(self, call: Call) -> None:
        layer, taken = call.layer, [self.tensors[tensor] for tensor in call.inputs]
        given = self._through(call, taken)
        if layer.weights:
            if layer.name in self.inputs:  # called before, with the same weights
                self.bind(self.inputs[layer.name], taken[0])
            self.inputs.setdefault(layer.name, taken[0])
            self.outputs.setdefault(layer.name, given)
        self.tensors[call.output] = given

    def _through(self, call: Call, taken: list[np.ndarray]) -> np.ndarray:
        """The channels of a call's output."""
        layer = call.layer
        if isinstance(layer, Layer.InputLayer):
            return self._unprunable(call.shapes[0][-1], "an input of the network")
        _check_format(layer)
        if isinstance(layer, Layer.DepthwiseConv2D):
            if layer.depth_multiplier != 1:
                raise _unknown(layer, f"a depth multiplier of {layer.depth_multiplier}; only 1 can be followed")
            self._makes(layer)
            return taken[0]
        if isinstance(layer, Layer.Conv2D | Layer.Conv2DTranspose):
            if getattr(layer, "groups", 1) != 1:
                raise _unknown(layer, f"{layer.groups} groups; only 1 can be followed")
            self._makes(layer)
            return self.outputs[layer.name] if layer.name in self.outputs else self._new(layer.filters)
        if isinstance(layer, PASSING) or _passing_activation(layer):
            return taken[0]
        if isinstance(layer, ELEMENTWISE):
            return self._together(taken)
        if isinstance(layer, Layer.Concatenate):
            last = len(call.shapes[0]) - 1
            return np.concatenate(taken) if layer.axis in (-1, last) else self._together(taken)
        if isinstance(layer, Layer.Reshape):
            width = layer.compute_output_shape(call.shapes[0])[-1]
            if layer.target_shape[-1] == -1 and width == len(taken[0]):
                return taken[0]
            # Its channels end up in other places, or its configuration counts on all of them.
            self.keep(taken[0], f"reshaped by {layer.name}")
            return self._unprunable(width, f"reshaped by {layer.name}")
        raise _unknown(layer, f"a layer of type {type(layer).__name__}, whose channels cannot be followed")

    def _makes(self, layer: keras.Layer) -> None:
        if layer.name not in self.makers:
            self.makers.append(layer.name)

    def _new(self, count: int) -> np.ndarray:
        ids = np.arange(self.count, self.count + count)
        self.count += count
        return ids

    def _unprunable(self, count: int, reason: str) -> np.ndarray:
        ids = self._new(count)
        self.keep(ids, reason)
        return ids

    def _together(self, taken: list[np.ndarray]) -> np.ndarray:
        """Binds tensors channel by channel. One channel that is spread over all others stays."""
        width = max(map(len, taken))
        full = [ids for ids in taken if len(ids) == width]
        for ids in taken:
            if len(ids) < width:
                self.keep(ids, "spread over the channels of another tensor")
        for ids in full[1:]:
            self.bind(full[0], ids)
        return full[0]

    def bind(self, one: np.ndarray, other: np.ndarray) -> None:
        self.bound.append((one, other))

    def keep(self, ids: np.ndarray, reason: str) -> None:
        self.whole.append((ids, reason))


def _roots(count: int, bound: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """`(count,)`: for each number the smallest that it is bound to, directly or by way of others."""
    roots = np.arange(count)
    if not bound:
        return roots
    one, other = (np.concatenate(side) for side in zip(*bound, strict=True))
    while True:
        least = np.minimum(roots[one], roots[other])
        before = roots.copy()
        # Both ends and what they were bound to before take the smaller number; then ways are shortened.
        for ends in (one, other, before[one], before[other]):
            np.minimum.at(roots, ends, least)
        roots = roots[roots]
        if np.array_equal(roots, before):
            return roots


def _grouped(made: dict[str, np.ndarray], whole: dict[int, str]) -> tuple[Group, ...]:
    """Groups out of the numbers that each layer makes: those with the same layers behind them belong together.

    Usually whole layers do. Where a concatenation is added to something, parts of a layer go with other layers.
    """
    behind: dict[int, list[tuple[str, int]]] = {}  # number -> the layers that make it, and where
    for name, ids in made.items():
        for place, number in enumerate(ids.tolist()):
            behind.setdefault(number, []).append((name, place))
    together: dict[tuple[str, ...], list[int]] = {}
    for number, sources in behind.items():
        together.setdefault(tuple(name for name, _ in sources), []).append(number)
    groups = []
    for names, numbers in together.items():
        places = np.array([[place for _, place in behind[number]] for number in numbers])
        members = tuple(Member(name, places[:, index]) for index, name in enumerate(names))
        reason = next((whole[number] for number in numbers if number in whole), "")
        groups.append(Group(np.array(numbers), members, reason))
    return tuple(groups)


def _passing_activation(layer: keras.Layer) -> bool:
    if not isinstance(layer, Layer.Activation):
        return False
    return getattr(layer.activation, "__name__", "") not in MIXING_ACTIVATIONS


def _check_format(layer: keras.Layer) -> None:
    if getattr(layer, "data_format", "channels_last") == "channels_first":
        raise _unknown(layer, "channels first; only channels last can be followed")
    activation = getattr(layer, "activation", None)
    if getattr(activation, "__name__", "") in MIXING_ACTIVATIONS and not isinstance(layer, Layer.Activation):
        raise _unknown(layer, f"the activation {activation.__name__}, which mixes channels")


def _unknown(layer: keras.Layer, what: str) -> ModelError:
    return ModelError(
        f"layer {layer.name} is or has {what}: the network cannot be pruned",
        hint="networks that ssd builds can",
    )
