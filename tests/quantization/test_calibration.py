"""Ranges from pictures against numpy on the graph's own tensors, and thresholds against their definitions in loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper, numpy_helper

from ssd.errors import InputError
from ssd.quantization.calibration import (
    BINS,
    CANDIDATE_STEP,
    CODES_OF_ONE_SIGN,
    LEAST_INSIDE,
    SMOOTH,
    calibrate,
    entropy_threshold,
    percentile_threshold,
)
from ssd.quantization.qdq import insert_qdq, quantized_edges

# What convolutions and the sum take, above the pool; what is joined has the range of the whole.
TENSORS = ("Input", "relu1", "join", "conv3", "sum")


def graph(parts=("conv1", "relu1", "conv2", "join", "pool", "conv3", "sum", "ssd_loc"), pixels=False):
    """conv1, relu1, conv2; both joined, pooled, conv3; the sum of pool and conv3; a head; decoding."""
    rng = np.random.default_rng(0)
    inputs = {"conv1": 2, "conv2": 3, "conv3": 6, "ssd_loc": 6}
    outputs = {"conv1": 3, "conv2": 3, "conv3": 6, "ssd_loc": 4}
    taken = {
        "conv1": ["preprocess/sub" if pixels else "Input"],
        "relu1": ["conv1"],
        "conv2": ["relu1"],
        "join": ["relu1", "conv2"],
        "pool": ["join"],
        "conv3": ["pool"],
        "sum": ["pool", "conv3"],
        "ssd_loc": ["sum"],
    }
    kinds = {"relu1": "Relu", "join": "Concat", "pool": "MaxPool", "sum": "Add"}
    nodes, weights = [], []
    if pixels:
        weights.append(numpy_helper.from_array(np.float32(100), "mean"))
        nodes.append(helper.make_node("Sub", ["Input", "mean"], ["preprocess/sub"], name="preprocess/Sub"))
    for name in parts:
        kind = kinds.get(name, "Conv")
        given_to = list(taken[name])
        options = {"Concat": {"axis": 1}, "MaxPool": {"kernel_shape": [2, 2], "strides": [2, 2]}}.get(kind, {})
        if kind == "Conv":
            kernel = rng.normal(size=(outputs[name], inputs[name], 1, 1)).astype("float32")
            weights.append(numpy_helper.from_array(kernel, f"{name}/kernel"))
            given_to.append(f"{name}/kernel")
        nodes.append(helper.make_node(kind, given_to, [name], name=f"{name}/{kind}", **options))
    nodes.append(helper.make_node("Identity", [parts[-1]], ["boxes"], name="decode/Identity"))
    source = helper.make_tensor_value_info("Input", TensorProto.FLOAT, ("batch", 2, 8, 8))
    result = helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [None] * 4)
    made = helper.make_graph(nodes, "g", [source], [result], weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def batches():
    """The largest numbers are in the second of three batches, those of the third are small."""
    rng = np.random.default_rng(1)
    sizes = ((4, 1.0), (3, 7.0), (2, 0.1))
    found = [(rng.laplace(size=(count, 2, 8, 8)) * scale).astype("float32") for count, scale in sizes]
    found[1][0, 0, 0, 0] = -60
    return found


@pytest.fixture(scope="module")
def values(small, batches):
    """Tensor -> all its numbers over the batches."""
    proto = graph()
    runs = [small.run(small.watched(proto, TENSORS[1:]), batch, optimized=False) for batch in batches]
    found = {name: np.concatenate([each[name].ravel() for each in runs]) for name in TENSORS[1:]}
    return {"Input": np.concatenate([batch.ravel() for batch in batches]), **found}


def test_max_is_the_largest_absolute_value_over_all_batches(batches, values):
    table = calibrate(graph(), iter(batches), "max")
    assert table.amax == pytest.approx({name: float(np.abs(value).max()) for name, value in values.items()}, rel=1e-6)
    assert table.amax["Input"] == 60 and values["Input"].max() < 60
    assert table.convolutions == ("conv1", "conv2", "conv3", "ssd_loc")


@pytest.mark.parametrize("method", ["max", "percentile", "entropy"])
def test_every_tensor_that_is_rounded_has_a_range_and_no_other(method, batches):
    proto = graph()
    table = calibrate(proto, batches, method)
    assert list(table.amax) == list(dict.fromkeys(edge.range for edge in quantized_edges(proto)[0]))
    assert set(table.amax) == set(TENSORS)
    assert all(type(value) is float and value > 0 for value in table.amax.values())
    insert_qdq(proto, table)


def test_layers_that_stay_in_float_need_no_ranges(batches):
    table = calibrate(graph(), batches, "max", keep_float=("conv1", "ssd_*"))
    assert set(table.amax) == {"relu1", "join", "conv3"}
    assert table.convolutions == ("conv2", "conv3")


def test_pixels_behind_preprocessing_have_the_name_of_the_input(batches):
    pixels = [batch + 100 for batch in batches]
    table = calibrate(graph(pixels=True), pixels, "max")
    assert table.amax == pytest.approx(calibrate(graph(), batches, "max").amax, rel=1e-4)


def test_a_network_that_rounds_nothing_but_its_input(batches):
    table = calibrate(graph(("conv1",)), batches, "max")
    assert table.amax == {"Input": float(np.abs(batches[1]).max())}


# Percentiles


@pytest.mark.parametrize("percentile", [50.0, 99.0, 99.9])
def test_percentile_is_the_range_that_so_many_numbers_are_under(percentile, batches, values):
    table = calibrate(graph(), batches, "percentile", percentile=percentile)
    for name, value in values.items():
        if name == "Input":  # keeps its largest value
            continue
        size, width = np.abs(value), 2 * np.abs(value).max() / BINS
        # To the width of a bin; the range grew by doubling.
        assert np.mean(size <= table.amax[name] * (1 + 1e-6)) >= percentile / 100
        assert np.mean(size <= table.amax[name] - width) < percentile / 100


def test_the_hundredth_percentile_is_the_largest_value(batches):
    exact = calibrate(graph(), batches, "max").amax
    assert calibrate(graph(), batches, "percentile", percentile=100.0).amax == exact


def test_the_order_of_the_batches_hardly_matters(batches):
    there = calibrate(graph(), batches, "percentile", percentile=99.0).amax
    back = calibrate(graph(), batches[::-1], "percentile", percentile=99.0).amax
    exact = calibrate(graph(), batches, "max").amax
    for name, value in there.items():
        assert abs(back[name] - value) < 4 * exact[name] / BINS


@given(
    counts=arrays.arrays(np.int64, st.integers(1, 40), elements=st.integers(0, 9)).filter(np.any),
    percentile=st.floats(0.5, 100),
)
def test_the_percentile_of_a_histogram_is_that_of_its_numbers(counts, percentile):
    numbers = np.repeat(np.arange(len(counts)), counts)  # bin of each
    wanted = percentile / 100 * len(numbers)
    first = next(bin_ for bin_ in range(len(counts)) if np.sum(numbers <= bin_) >= wanted)
    assert percentile_threshold(counts, 0.25, percentile) == 0.25 * (first + 1)


# Entropy


def slow_entropy_threshold(counts):
    """In bins, by the paper's loops: what is rounded to one code is shared by its bins that were not empty."""
    counts = [0.0, *map(float, counts[1:])]
    best = (math.inf, None)
    for bins in range(len(counts), CODES_OF_ONE_SIGN - 1, -CANDIDATE_STEP):
        before = counts[:bins]
        after = [0.0] * bins
        for code in range(CODES_OF_ONE_SIGN):
            members = [bin_ for bin_ in range(bins) if bin_ * CODES_OF_ONE_SIGN // bins == code and before[bin_]]
            for bin_ in members:
                after[bin_] = sum(before[member] for member in members) / len(members)
        if sum(before) < LEAST_INSIDE * sum(counts):
            break
        before[-1] += sum(counts[bins:])
        if before[-1]:
            after[-1] = max(after[-1], SMOOTH)
        pairs = [(p / sum(before), q / sum(after)) for p, q in zip(before, after, strict=True) if p]
        divergence = sum(p * math.log(p / q) for p, q in pairs)
        if divergence < best[0] - 1e-12:
            best = divergence, bins
    return best[1]


@settings(max_examples=25)
@given(
    length=st.integers(CODES_OF_ONE_SIGN, 230), tail=st.floats(0.005, 0.2), seed=st.integers(0, 999), far=st.booleans()
)
def test_the_entropy_threshold_is_that_of_the_papers_loops(length, tail, seed, far):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(200 * np.exp(-tail * np.arange(length)))
    if far:
        counts[-1] += 1
    counts[3] += 1  # never empty
    expected = slow_entropy_threshold(counts)
    assert entropy_threshold(counts, 0.5) == 0.5 * expected


def histogram(numbers):
    top = np.abs(numbers).max()
    return np.histogram(np.abs(numbers), BINS, (0, top))[0], top / BINS


def test_entropy_ignores_a_number_far_beyond_the_others_and_keeps_a_uniform_distribution_whole():
    rng = np.random.default_rng(2)
    normal, even = rng.normal(size=50000), rng.uniform(-3, 3, size=200000)
    assert 3 < entropy_threshold(*histogram(np.append(normal, 100))) < 10
    assert entropy_threshold(*histogram(even)) > 2.9


@pytest.mark.parametrize(("middle", "spread"), [(3, 0.5), (6, 0.5), (10, 1.0)])
def test_entropy_holds_numbers_that_are_all_far_from_zero(middle, spread):
    """A range below them all would have them in its last bin, before rounding and after it."""
    numbers = np.maximum(np.random.default_rng(5).normal(middle, spread, 50000), 0)
    assert np.mean(numbers <= entropy_threshold(*histogram(numbers))) >= LEAST_INSIDE


@pytest.mark.parametrize("method", ["max", "percentile", "entropy"])
def test_the_input_keeps_its_largest_value_however_flat_the_pictures_are(method):
    flat = np.full((2, 2, 8, 8), 27, np.float32)
    flat[0, 0, 0, :2] = -122
    assert calibrate(graph(), [flat], method).amax["Input"] == 122
    assert calibrate(graph(pixels=True), [flat + 100], method).amax["Input"] == 122


def test_entropy_does_not_count_zeros():
    numbers = np.random.default_rng(3).laplace(size=20000)
    assert entropy_threshold(*histogram(numbers)) == entropy_threshold(*histogram(np.append(numbers, np.zeros(90000))))


def test_entropy_of_one_batch_is_less_than_the_largest_value_where_tails_are_long():
    """Laplace's tails are long, and a range that holds them all wastes codes."""
    batch = np.random.default_rng(4).laplace(size=(400, 2, 8, 8)).astype("float32")
    exact, found = (calibrate(graph(), [batch], method).amax for method in ("max", "entropy"))
    assert all(found[name] <= exact[name] for name in exact)
    assert found["relu1"] < 0.95 * exact["relu1"] and found["Input"] == exact["Input"]


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_ranges_grow_with_the_numbers_by_powers_of_two(method, batches):
    """Scaled by 8, whatever grew in between: the bins are where they were."""
    one = calibrate(graph(), batches, method).amax
    other = calibrate(graph(), [batch * 8 for batch in batches], method).amax
    assert other == pytest.approx({name: 8 * value for name, value in one.items()}, rel=1e-5)


@pytest.mark.parametrize("method", ["max", "percentile", "entropy"])
def test_a_tensor_of_zeros_has_the_range_zero_until_numbers_come(method, batches):
    zeros = np.zeros((2, 2, 8, 8), np.float32)
    assert set(calibrate(graph(), [zeros, zeros], method).amax.values()) == {0.0}
    late = calibrate(graph(), [zeros, batches[0]], method).amax
    if method == "percentile":
        assert all(value > 0 for value in late.values())
    else:
        assert late == calibrate(graph(), batches[:1], method).amax


def test_a_first_batch_of_hardly_anything_costs_neither_bins_nor_precision(batches):
    tiny = batches[0] * np.float32(1e-20)
    found = calibrate(graph(), [tiny, batches[1]], "percentile", percentile=99.0).amax
    alone = calibrate(graph(), batches[1:2], "max").amax
    assert all(0.05 * alone[name] < value <= alone[name] for name, value in found.items())


# Refused


def test_no_batch_is_refused():
    for method in ("max", "percentile", "entropy"):
        with pytest.raises(InputError, match="no image to calibrate with") as caught:
            calibrate(graph(), iter(()), method, where="tensors.h5")
        assert caught.value.where == "tensors.h5" and "--cal_image_dir" in caught.value.hint


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused_with_tensor_and_batch(value, batches):
    bad = batches[0].copy()
    bad[1, 0, 3, 3] = value
    with pytest.raises(InputError, match="tensor Input is not finite for calibration batch 2"):
        calibrate(graph(), [batches[0], bad], "max")
    # Finite pixels of which the network makes infinity.
    with pytest.raises(InputError, match=r"tensor (relu1|join|conv3|sum) is not finite for calibration batch 1"):
        calibrate(graph(), [np.sign(batches[0]) * np.float32(3e38)], "entropy", keep_float=("conv1",))
