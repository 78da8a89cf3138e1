# ruff: noqa: E501 - tables of cases, one a line
"""The resolved spec: it reads back as itself, it is light, and what has no effect is said."""

import dataclasses
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssd.spec import experiment_from_text
from ssd.spec.config import DataSource, class_key
from ssd.spec.messages import decimal
from ssd.spec.resolve import resolve_conversion, resolve_experiment


@st.composite
def good_specs(draw):
    """Experiment specs that are right, with most optional fields present or absent."""

    def unit(low=0.001, high=0.999):
        return st.floats(low, high).map(lambda value: float(f"{value:.4g}"))

    def maybe(name, values):
        value = draw(st.none() | values)
        return "" if value is None else f"{name}: {value}"

    flags = st.sampled_from(["true", "false"])
    low, high = sorted([draw(unit()), draw(unit())])
    soft, annealing = sorted(
        draw(st.lists(st.sampled_from([0.01, 0.1, 0.3, 1 / 3, 0.5, 0.77]), min_size=2, max_size=2, unique=True))
    )
    schedule, last = draw(
        st.sampled_from(
            [("soft_start_annealing_schedule", f"annealing: {annealing}"), ("soft_start_cosine_annealing_schedule", "")]
        )
    )
    classes = draw(
        st.dictionaries(
            st.sampled_from(["Car", "van", "a b", "Straße", 'qu"ote']),
            st.sampled_from(["car", "Bus", "x y"]),
            min_size=1,
        )
    )
    mapping = " ".join(f"target_class_mapping {{ key: '{key}' value: '{value}' }}" for key, value in classes.items())
    arch = draw(
        st.sampled_from(['arch: "resnet" nlayers: 50', "nlayers: 18", 'arch: "vgg" nlayers: 16', 'arch: "squeezenet"'])
    )
    scales = draw(st.sampled_from(['scales: "[.1,.2,.3,.4,.5,.6,.7]"', f"min_scale: {low * 0.5} max_scale: {low}"]))
    optimizer = draw(
        st.sampled_from(
            ["", "optimizer { adam { beta1: 0.7 } }", "optimizer { rmsprop { } }", "optimizer { sgd { momentum: 0 } }"]
        )
    )
    channels = draw(st.sampled_from([1, 3]))
    return f"""
    {maybe("random_seed", st.integers(0, 2**32 - 1))}
    {draw(st.sampled_from(["ssd_config", "dssd_config"]))} {{
      {arch} {scales}
      {draw(st.sampled_from(['aspect_ratios_global: "[1, 2, 1/3]"', 'aspect_ratios: "[[1],[1],[1],[1],[1],[2,3]]"']))}
      variances: "[0.1, 0.1, 0.2, 0.2]"
      {maybe("two_boxes_for_ar1", flags)} {maybe("freeze_blocks", st.integers(1, 4))} {maybe("alpha", unit())}
      {maybe("pos_iou_thresh", st.floats(0.5, 0.75, width=32))} {maybe("pred_num_channels", st.sampled_from([0, 256, 1024]))}
      {maybe("steps", st.just('"[8, 16, (32, 33), 64, 100, 300]"'))} {maybe("mean_color", st.just('"x"'))}
    }}
    training_config {{
      batch_size_per_gpu: {draw(st.integers(1, 2**32 - 1))} num_epochs: 3
      learning_rate {{
        {schedule} {{ min_learning_rate: {low * 1e-3} max_learning_rate: {high} soft_start: {soft} {last} }}
      }}
      regularizer {{ {draw(st.sampled_from(["", "type: NO_REG weight: 7", f"type: L2 weight: {low}"]))} }}
      {optimizer} {maybe("checkpoint_interval", st.integers(0, 9))} {maybe("n_workers", st.integers(0, 9))}
      {maybe("use_multiprocessing", flags)} {maybe("model_ema", flags)}
      {draw(st.sampled_from(["", "visualizer { enabled: true wandb_config { } }", "early_stopping { monitor: 'loss' }"]))}
    }}
    eval_config {{ {maybe("batch_size", st.integers(1, 99))} {maybe("average_precision_mode", st.sampled_from(["SAMPLE", "INTEGRATE"]))} }}
    nms_config {{ {maybe("clustering_iou_threshold", unit())} {maybe("top_k", st.integers(1, 999))} {maybe("force_on_cpu", flags)} }}
    augmentation_config {{
      output_width: {draw(st.integers(128, 2000))} output_height: 128 output_channel: {channels}
      {maybe("brightness", st.integers(0, 255))} {maybe("contrast", unit())} {maybe("random_flip", unit(0.0))}
      {maybe("zoom_out_max_scale", st.floats(1, 9, width=32))} {maybe("random_crop_min_scale", unit())}
    }}
    dataset_config {{
      data_sources {{ tfrecords_path: "a*" root_path: "root" }} data_sources {{ image_directory_path: "~/i" label_directory_path: "/l" }}
      {maybe("type", st.just('"kitti"'))} {maybe("include_difficult_in_training", flags)} {mapping}
    }}
    """


@given(good_specs())
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
def test_the_resolved_text_is_the_resolved_spec(text):
    spec, _ = resolve_experiment(text, "spec.txt", "inference")
    again, warnings = resolve_experiment(spec.text, "again.txt", "inference")
    assert again == spec
    assert warnings == []
    assert spec.evaluation.batch_size > 0
    assert all(class_key(source) == source for source, _ in spec.dataset.class_mapping)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_decimal_is_the_number_that_was_written(value):
    import struct

    assert struct.pack("f", decimal(value)) == struct.pack("f", value)
    assert len(repr(decimal(value))) <= len(repr(value))


@given(st.integers(-99999, 99999), st.integers(-30, 30))
def test_decimal_gives_back_short_numbers(digits, exponent):
    import struct

    written = float(f"{digits}e{exponent}")
    (stored,) = struct.unpack("f", struct.pack("f", written))
    assert decimal(stored) == written


# What is ignored, as the first line of which block.
IGNORED = {
    "ssd_config.mean_color": "mean_color: '[123, 117, 104]'",
    "training_config.cost_scaling": "cost_scaling { initial_exponent: 20.0 increment: 0.005 decrement: 1.0 }",
    "training_config.use_multiprocessing": "use_multiprocessing: true",
    "training_config.visualizer.wandb_config": "visualizer { enabled: true wandb_config { project: 'x' tags: ['a', 'b'] } }",
    "training_config.visualizer.clearml_config": "visualizer { clearml_config { task: 'x' } }",
    "nms_config.force_on_cpu": "force_on_cpu: true",
    "dataset_config.type": "type: 'kitti'",
}


@pytest.mark.parametrize(("path", "line"), IGNORED.items(), ids=IGNORED)
def test_what_is_ignored_is_said(small, folder, warnings, path, line):
    block = path.split(".")[0]
    spec = experiment_from_text(small.replace(f"{block} {{", f"{block} {{ {line} ", 1), "spec.txt", "train")
    number = small[: small.index(f"{block} {{")].count("\n") + 1
    assert warnings == [f"spec.txt:{number}: {path} has no effect here"]
    name = path.rsplit(".", maxsplit=1)[-1]
    assert name == "type" or name not in spec.text
    assert experiment_from_text(spec.text, "again", "train") == spec
    assert len(warnings) == 1


@pytest.mark.parametrize(
    ("old", "new", "warning"),
    [
        ("nlayers: 10", 'arch: "googlenet" nlayers: 18', "ssd_config.nlayers has no effect: googlenet has one depth only"),
        ("nlayers: 10", 'arch: "vgg" nlayers: 16 freeze_blocks: 0', "freeze_blocks[0] is 0 and has no effect: vgg has no"),
        ("nlayers: 10", 'nlayers: 10 aspect_ratios: "[[1],[1],[1],[1],[1],[1]]"', "aspect_ratios_global has no effect"),
        ("nlayers: 10", "nlayers: 10 min_scale: 0.1", "ssd_config.min_scale has no effect: scales is given too"),
        ("output_width: 128", "output_width: 130", "output_width is 130; multiples of 32 use the feature maps fully"),
        ("output_channel: 3", "output_channel: 1 image_mean { key: 'l' value: 3 } image_mean { key: 'b' value: 3 }",
         'augmentation_config.image_mean["b"] has no effect with output_channel 1'),
        ('tfrecords_path: "records/val"', 'tfrecords_path: "records/val" image_directory_path: "images"',
         "image_directory_path has no effect: tfrecords_path is given too"),
        ('key: "car" value: "car"', 'key: "car" value: "car" } target_class_mapping { key: "van" value: "Car"',
         "maps to 'Car', the same class as 'car', which is its name from here on"),
        ("eval_config { }", "eval_config { batch_size: 1 batch_size: 2 }", "eval_config.batch_size is given again"),
    ],
)  # fmt: skip
def test_other_warnings(small, folder, warnings, old, new, warning):
    assert old in small
    spec = experiment_from_text(small.replace(old, new), "spec.txt", "train")
    (line,) = [line for line in warnings if warning in line]
    assert line.startswith("spec.txt:")
    before = list(warnings)
    assert experiment_from_text(spec.text, "again", "train") == spec
    # The resolved spec gives no cause for warnings, but for the size, which is still what it is.
    assert [line for line in warnings[len(before) :] if "multiples of 32" not in line] == []


def test_conversion_warnings(small_kitti, folder):
    text = small_kitti.replace(
        "kitti_config {",
        "kitti_config { point_clouds_dir: 'velodyne' kitti_sequence_to_frames_file: 'x.json' ",
    )
    text += (
        "image_directory_path: 'elsewhere' sample_modifier_config { num_duplicates: 1 dominant_target_classes: 'car' }"
    )
    _, warnings = resolve_conversion(text, "spec.txt")
    said = "\n".join(warnings)
    for name in (
        "kitti_config.point_clouds_dir has no effect here",
        "kitti_config.kitti_sequence_to_frames_file has no effect with partition_mode random",
        "image_directory_path has no effect: kitti_config.root_directory_path, '.', is given",
        "sample_modifier_config.num_duplicates has no effect here",
        "sample_modifier_config.dominant_target_classes has no effect here",
    ):
        assert name in said
    assert len(warnings) == 5


def test_classes_are_sorted_without_case_and_keep_their_spelling(small):
    mapping = " ".join(
        f"target_class_mapping {{ key: '{key}' value: '{value}' }}"
        for key, value in {"b": "Zebra", "A": "apple", "C D": "Bus", "e": "Traffic Light"}.items()
    )
    text = small.replace('target_class_mapping { key: "car" value: "car" }', mapping)
    spec = experiment_from_text(text, "spec.txt", "inference")
    assert spec.classes == ("apple", "Bus", "Traffic Light", "Zebra")
    assert spec.dataset.class_mapping == (("a", "apple"), ("b", "Zebra"), ("cd", "Bus"), ("e", "Traffic Light"))


def test_paths_start_at_the_root_and_at_home(small, folder, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    text = small.replace('image_directory_path: "images"', 'root_path: "~/set" image_directory_path: "images"')
    text = text.replace('"labels"', '"/elsewhere/labels"')
    spec = experiment_from_text(text, "spec.txt", "inference")
    assert spec.dataset.training == (DataSource(image_dir="/home/me/set/images", label_dir="/elsewhere/labels"),)
    assert "root_path" not in spec.text


@pytest.mark.parametrize(
    "pattern", ["records", "records/val", "records/val*", "records/val-fold-000-of-002", "rec[o]rds/v?l*"]
)
def test_records_by_folder_prefix_pattern_and_file(small, folder, pattern):
    spec = experiment_from_text(small.replace("records/val", pattern), "spec.txt", "train")
    assert spec.dataset.validation == (DataSource(tfrecords=pattern),)


def test_blank_validation_sources_are_no_sources(small, folder):
    spec = experiment_from_text(
        small.replace('tfrecords_path: "records/val"', 'tfrecords_path: ""'), "spec.txt", "train"
    )
    assert spec.dataset.validation == ()


def test_the_resolved_spec_cannot_be_changed(small):
    spec = experiment_from_text(small, "spec.txt", "inference")
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.random_seed = 1
    hash(spec)


def test_reading_a_spec_needs_neither_numpy_nor_a_framework(small):
    code = (
        "import sys; from ssd.spec import experiment_from_text\n"
        "assert not any(name.startswith('google') for name in sys.modules)\n"
        "experiment_from_text(sys.stdin.read(), 'spec.txt', 'inference')\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=small, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"numpy", "keras", "tensorflow", "jax", "matplotlib", "PIL"}
