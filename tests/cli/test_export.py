"""`ssd export` and what takes its results; keys; inputs that it refuses."""

import importlib.util
import json
import shutil

import keras
import numpy as np
import onnx
import pytest
from PIL import Image

from ssd.cli import main
from ssd.models.checkpoint import load_model, save_model
from ssd.quantization.calibration_cache import read_cache
from ssd.quantization.rewrite import quantize

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx_bindings") is None, reason="TensorRT-RTX is not installed"
)


def export(*flags):
    return main(["export", *map(str, flags)])


def evaluated(model, folder, *flags):
    assert main(["evaluate", "-m", str(model), "-r", str(folder), "--gallery", "0", *map(str, flags)]) == 0
    return json.loads((folder / "metrics.json").read_text())


def ops(path):
    return {node.op_type for node in onnx.load(path).graph.node}


@pytest.fixture(scope="module")
def keras_metrics(model_file, tmp_path_factory):
    return evaluated(model_file, tmp_path_factory.mktemp("keras"))


def test_a_graph_is_proven_evaluated_and_used(model_file, kitti_folder, keras_metrics, tmp_path, capsys):
    graph = tmp_path / "model.onnx"
    assert export("-m", model_file, "-o", graph) == 0
    out = capsys.readouterr().out
    assert "ONNX fp32" in out
    assert out.splitlines()[-1] == f"results: {tmp_path}"
    facts = json.loads((tmp_path / "export.json").read_text())
    assert [row["artifact"] for row in facts["proof"]] == ["Keras", "ONNX fp32"]
    assert facts["proof"][0]["mAP"] == pytest.approx(keras_metrics["mAP"], abs=1e-9)
    found = evaluated(graph, tmp_path / "e")
    assert found["mAP"] == pytest.approx(keras_metrics["mAP"], abs=1e-3)
    assert found["images"] == 10  # none is dropped: the batch is 4
    assert found["latency_ms"]["p50"] > 0
    image = kitti_folder / "images/000.jpg"
    flags = ["-m", str(graph), "-i", str(image), "-r", str(tmp_path / "i"), "-t", "0.01"]
    assert main(["inference", *flags]) == 0
    assert "predicting:" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "status.json").open()]
    assert [line["message"] for line in lines] == ["Export complete.", "Export finished successfully."]


def test_int8_by_pictures_then_by_the_cache_and_the_tensor_file(model_file, kitti_folder, tmp_path, capsys):
    flags = ["--data_type", "int8", "--nms", "none", "--batches", 2, "--batch_size", 4]
    cache, tensors = tmp_path / "cal.bin", tmp_path / "tensors.h5"
    images = ["--cal_image_dir", kitti_folder / "images"]
    files = ["--cal_cache_file", cache, "--cal_data_file", tensors]
    first, second, third = (tmp_path / f"{n}.onnx" for n in "123")
    assert export("-m", model_file, "-o", first, *flags, *images, *files) == 0
    assert {"QuantizeLinear", "DequantizeLinear"} <= ops(first)
    assert "ONNX int8" in capsys.readouterr().out
    assert read_cache(cache)["Input"] > 50
    # The cache instead of pictures gives the same graph; there need not be as many pictures then.
    more = [*flags, *images, "--batches", 99, "--calibrator", "max", "--cal_cache_file", cache, "--skip_proof"]
    assert export("-m", model_file, "-o", second, *more) == 0
    said = capsys.readouterr()
    assert f"ranges of {len(read_cache(cache))} tensors from {cache}" in said.out
    assert "--cal_image_dir, --batches, --batch_size, --calibrator: not used, the ranges are in --cal_cache" in said.err
    one, other = (onnx.load(path) for path in (first, second))
    assert [node.SerializeToString() for node in one.graph.node] == [n.SerializeToString() for n in other.graph.node]
    for a, b in zip(one.graph.initializer, other.graph.initializer, strict=True):
        assert a.name == b.name
        np.testing.assert_allclose(onnx.numpy_helper.to_array(a), onnx.numpy_helper.to_array(b), rtol=1e-6)
    # Not of other weights, though: of the same network, trained further.
    artifact = load_model(model_file)
    bias = artifact.model.get_layer("ssd_conf_0").bias
    bias.assign(bias + 1)
    further = tmp_path / "further.keras"
    save_model(further, artifact.model, artifact.spec_text)
    assert export("-m", further, "-o", third, *more) == 2
    assert f"{cache}: this calibration cache was written for another model, or for this one" in capsys.readouterr().err
    assert not third.exists()
    # And so does the tensor file without pictures.
    assert export("-m", model_file, "-o", third, *flags, "--cal_data_file", tensors, "--skip_proof") == 0
    said = capsys.readouterr()
    assert f"from {tensors} (entropy)" in said.out and "--batches, --batch_size: not used, the images" in said.err
    ranges, cached = json.loads((tmp_path / "export.json").read_text())["ranges"], read_cache(cache)
    for name, value in ranges.items():
        assert cached[name] == pytest.approx(value, rel=1e-5)
    assert set(ranges) <= set(cached)


@pytest.fixture(scope="module")
def qat_file(model_file, kitti_folder):
    """The model with ranges of its pictures, as the first step of quantization-aware training finds them."""
    artifact = load_model(model_file)
    size = artifact.spec.augmentation
    model = quantize(artifact.model, ["ssd_conf_*"])
    for layer in model.layers:  # statistics stay as they are
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    images = [Image.open(path).convert("RGB") for path in sorted((kitti_folder / "images").iterdir())]
    pixels = [np.asarray(image.resize((size.width, size.height)), np.float32)[..., ::-1] for image in images]
    model(np.stack(pixels) - np.asarray(size.mean, np.float32), training=True)
    path = model_file.parent / "qat.keras"
    save_model(path, model, artifact.spec_text)
    return path


def test_a_quantization_aware_model_brings_its_ranges(qat_file, tmp_path, capsys):
    scales, graph = tmp_path / "scales.json", tmp_path / "q.onnx"
    cache = tmp_path / "cal.bin"
    cache.write_text("TRT-8503-EntropyCalibration2\nInput: 3d418306\n")
    flags = ["--data_type", "int8", "--cal_json_file", scales, "--cal_cache_file", cache, "--calibrator", "max"]
    assert export("-m", qat_file, "-o", graph, *flags) == 0
    said = capsys.readouterr()
    assert "from quantization-aware training" in said.out and f"calibration cache: {cache}, replaced" in said.out
    assert "--calibrator: not used, the model knows its ranges" in said.err
    assert len(read_cache(cache)) > 10
    amax = json.loads(scales.read_text())["tensor_scales"]
    model = load_model(qat_file, verb=None).model
    assert amax["block_1a_relu"] == pytest.approx(float(model.get_layer("block_1a_relu_qdq").get_weights()[0]))
    # A BN that was folded: its tensor is now the convolution's.
    assert amax["block_1a_conv_2"] == pytest.approx(float(model.get_layer("block_1a_bn_2_qdq").get_weights()[0]))
    kernels = {tensor.name for tensor in onnx.load(graph).graph.initializer if tensor.name.endswith("kernel_codes")}
    assert "ssd_loc_0/kernel_codes" in kernels
    assert "ssd_conf_0/kernel_codes" not in kernels
    proof = json.loads((tmp_path / "export.json").read_text())["proof"]
    assert proof[0]["mAP"] == pytest.approx(proof[-1]["mAP"], abs=0.02)


def test_ranges_for_a_static_batch_come_from_batches_of_any_size(model_file, kitti_folder, tmp_path, capsys):
    flags = ["--data_type", "int8", "--batches", 2, "--batch_size", 4, "--cal_image_dir", kitti_folder / "images"]
    graph = tmp_path / "static.onnx"
    assert export("-m", model_file, "-o", graph, *flags, "--static_batch_size", 3, "--force_ptq") == 0
    assert "--force_ptq has no effect: the model has no ranges of its own" in capsys.readouterr().err
    assert onnx.load(graph).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3


def test_half_precision_preprocessing_and_a_static_batch(model_file, keras_metrics, tmp_path):
    graph = tmp_path / "half.onnx"
    flags = ["--data_type", "fp16", "--embed_preprocess", "--static_batch_size", 3, "--max_map_drop", 0.05]
    assert export("-m", model_file, "-o", graph, *flags) == 0
    proto = onnx.load(graph)
    source = proto.graph.input[0].type.tensor_type
    assert source.elem_type == onnx.TensorProto.UINT8
    assert [dim.dim_value for dim in source.shape.dim] == [3, 128, 128, 3]
    assert evaluated(graph, tmp_path / "e")["mAP"] == pytest.approx(keras_metrics["mAP"], abs=0.02)


def test_a_loss_beyond_the_limit_ends_the_export_and_names_layers(
    model_file, kitti_folder, tmp_path, monkeypatch, capsys
):
    from ssd.deploy import proof

    monkeypatch.setattr(proof, "voc_report", lambda *args, _values=[0.5, 0.5, 0.3]: Report(_values.pop(0)))
    kept = ["ssd_*", "block_2*", "block_3*", "block_4*", "conv1"]
    flags = ["--data_type", "int8", "--batches", 1, "--batch_size", 4, "--max_map_drop", 0.1, "--keep_fp", *kept]
    graph = tmp_path / "g.onnx"
    assert export("-m", model_file, "-o", graph, *flags, "--cal_image_dir", kitti_folder / "images") == 1
    err = capsys.readouterr().err
    assert "loses 0.2000 of mAP, --max_map_drop allows 0.1; rounding hurts most in" in err
    assert "--keep_fp 'ssd_*' 'block_2*' 'block_3*' 'block_4*' conv1 " in err
    worst = err.partition("hurts most in ")[2].splitlines()[0].split(", ")
    assert worst and not [name for name in worst if any(map(name.startswith, ("ssd_", "block_2", "conv1")))]
    assert not graph.exists()


class Report:
    def __init__(self, mean):
        self.mean = mean


def test_files_for_deepstream_and_triton(model_file, tmp_path, capsys):
    graph = tmp_path / "d" / "ssd.onnx"
    static = ["--static_batch_size", 4, "--skip_proof"]
    assert export("-m", model_file, "-o", graph, "--nms", "efficient_nms", "--gen_ds_config", *static) == 0
    assert "EfficientNMS_TRT" in ops(graph)
    assert (tmp_path / "d/labels.txt").read_text().split() == ["disc", "square", "star"]
    config = (tmp_path / "d/nvinfer_config.txt").read_text()
    assert "infer-dims=3;128;128\n" in config and "batch-size=4\n" in config
    assert main(["evaluate", "-m", str(graph), "-r", str(tmp_path / "e")]) == 2
    assert "EfficientNMS_TRT, which only TensorRT runs" in capsys.readouterr().err
    assert export("-m", model_file, "-o", graph, "--nms", "standard", "--triton", tmp_path / "t", *static) == 0
    assert (tmp_path / "t/ssd/1/model.onnx").exists()
    config = (tmp_path / "t/ssd/config.pbtxt").read_text()
    assert "detection_boxes" in config and "max_batch_size: 0\n" in config and "dims: [ 4, 3, 128, 128 ]" in config


@needs_rtx
def test_an_engine_for_another_machine(model_file, tmp_path, capsys):
    engine = tmp_path / "m.engine"
    flags = ["--nms", "none", "--skip_proof", "--engine_file", engine, "--compute_capability", "8.6"]
    assert export("-m", model_file, "-o", tmp_path / "m.onnx", *flags, "--max_batch_size", 4) == 0
    assert "SM86" in capsys.readouterr().out
    assert json.loads((tmp_path / "m.engine.json").read_text())["batches"]["most"] == 4
    assert main(["evaluate", "-m", str(engine), "-r", str(tmp_path / "e")]) in (1, 2)
    assert "Traceback" not in capsys.readouterr().err


def test_encrypted_models_open_with_their_key_in_every_verb(
    model_file, kitti_folder, spec_file, keras_metrics, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("ssd.encryption.SCRYPT", (4, 8, 1))
    monkeypatch.setattr("ssd.models.latency.RUNS", 1)
    sealed, graph = tmp_path / "p.tlt", tmp_path / "p.etlt"
    assert main(["prune", "-m", str(model_file), "-o", str(sealed), "-pth", "0", "-k", "secret"]) == 0
    assert "not needed" not in capsys.readouterr().err  # the key is for what is written
    assert not sealed.read_bytes().startswith(b"PK")
    assert evaluated(sealed, tmp_path / "e", "-k", "secret")["mAP"] == pytest.approx(keras_metrics["mAP"], abs=1e-9)
    assert export("-m", sealed, "-o", graph, "-k", "secret", "--skip_proof") == 0
    assert evaluated(graph, tmp_path / "f", "-k", "secret")["mAP"] == pytest.approx(keras_metrics["mAP"], abs=1e-3)
    image = str(kitti_folder / "images/000.jpg")
    assert (
        main(["inference", "-m", str(graph), "-i", image, "-r", str(tmp_path / "i"), "-k", "secret", "-t", "0.01"]) == 0
    )
    assert main(["train", "-e", str(spec_file), "-m", str(sealed), "-k", "secret", "-r", str(tmp_path / "t")]) == 0
    capsys.readouterr()
    for flags, message in ((["-k", "wrong"], "the key (-k) is not the one"), ([], "encrypted, and no key was given")):
        assert main(["evaluate", "-m", str(sealed), "-r", str(tmp_path / "n"), *flags]) == 2
        assert message in capsys.readouterr().err
    changed = bytearray(sealed.read_bytes())
    changed[-40] ^= 1
    sealed.write_bytes(changed)
    assert main(["evaluate", "-m", str(sealed), "-r", str(tmp_path / "n"), "-k", "secret"]) == 2
    assert "or the file was changed since" in capsys.readouterr().err
    assert not (tmp_path / "n").exists()


@pytest.fixture(scope="module")
def odd_files(model_file, kitti_folder, tmp_path_factory):
    """Files to export from and with, good and bad, by name."""
    folder = tmp_path_factory.mktemp("odd")
    shutil.copy(model_file, folder / "good.keras")
    (folder / "text.keras").write_text("no model")
    (folder / "cut.keras").write_bytes(model_file.read_bytes()[:20_000])
    (folder / "model.pth").write_bytes(b"\x80\x02}q\x00.")
    (folder / "file").write_text("")
    shutil.copytree(kitti_folder / "images", folder / "images")
    (folder / "empty").mkdir()
    (folder / "labelled").mkdir()
    (folder / "labelled/labels.txt").write_text("somebody's\n")
    (folder / "good.onnx").write_bytes(b"")
    (folder / "broken").mkdir()
    for number in range(4):
        (folder / f"broken/{number}.png").write_bytes(b"no picture")
    (folder / "cache.txt").write_text("TRT-8503-EntropyCalibration2\nelsewhere: 3d418306\n")
    (folder / "nocache.txt").write_text("scales\n")
    (folder / "badcache.txt").write_text("TRT-8503-EntropyCalibration2\nInput: 3d418306\nconv1: many\n")
    (folder / "tensors.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 64)
    (folder / "spec_text.txt").write_text("ssd_config {")
    return folder


INT8 = ["--data_type", "int8", "--batches", 1, "--batch_size", 4, "--skip_proof"]
SEALED = ["-o", "out.etlt", "-k", "secret"]
BAD = {
    "no model": (["-m", "none.keras"], "no such model file"),
    "a text": (["-m", "text.keras"], "text.keras: a text file, not a model file"),
    "a truncated model": (["-m", "cut.keras"], "the end of the file is missing"),
    "a pickle": (["-m", "model.pth"], "not opened"),
    "a folder": (["-m", "."], "a folder"),
    "a graph of another suffix": (["-o", "out.pb"], "a graph is .onnx, or .etlt with a key"),
    "an encrypted graph without a key": (["-o", "out.etlt"], "an .etlt is encrypted"),
    "a folder for a graph": (["-o", "folder.onnx"], "is a folder"),
    "a graph in a file": (["-o", "file/out.onnx"], "-o/--output_file: file is a file, a folder is needed"),
    "a graph in no folder": (["-o", "/proc/no/out.onnx", "--skip_proof"], "-o/--output_file /proc/no: cannot"),
    "results in a file": (["-r", "file"], "-r/--results_dir: file is a file, a folder is needed"),
    "an engine in a file": (["--engine_file", "file/e"], "--engine_file: file is a file, a folder is needed"),
    "a folder for an engine": (["--engine_file", "empty"], "--engine_file empty: is a folder"),
    "graph and engine in one": (["--engine_file", "out.onnx"], "named twice: -o/--output_file and --engine_file"),
    "ranges in the report": (["--cal_json_file", "export.json"], "named twice: the report of the export and --cal"),
    "the model's own name": (["-m", "good.onnx", "-o", "./good.onnx"], "named twice: -m/--model and -o/--output_file"),
    "a spec that is not there": (["-e", "none.txt"], "none.txt"),
    "a spec that does not parse": (["-e", "spec_text.txt"], "spec_text.txt"),
    "an opset too old": (["--target_opset", 9], "--target_opset is 9, allowed: 13 to 18"),
    "an opset too new": (["--target_opset", 40], "--target_opset is 40"),
    "a batch of 0": (["--static_batch_size", 0], "--static_batch_size is 0"),
    "another NMS": (["--nms", "soft"], "invalid choice: 'soft'"),
    "another data type": (["--data_type", "int4"], "invalid choice: 'int4'"),
    "another calibrator": (["--calibrator", "mse"], "invalid choice: 'mse'"),
    "no batches": (["--batches", 0], "--batches is 0; at least 1 is needed"),
    "batches of 0": (["--batch_size", 0], "--batch_size is 0"),
    "an engine for 0 images": (["--max_batch_size", 0], "--max_batch_size is 0"),
    "no memory": (["--max_workspace_size", 0], "--max_workspace_size is 0"),
    "a negative drop": (["--max_map_drop", -1], "--max_map_drop is -1"),
    "a drop that nobody measures": (["--max_map_drop", 0.1, "--skip_proof"], "needs the proof"),
    "batches that fall": (["--min_batch_size", 8, "--max_batch_size", 2], "--min_batch_size 8, --max_batch_size 2: no"),
    "two kinds of batches": (["--static_batch_size", 4, "--max_batch_size", 2], "--static_batch_size fixes the batch"),
    **{
        f"{flags[0]} without {condition}": (flags, f"{flags[0]} has no effect without {condition}")
        for condition, given in {
            "--data_type int8": (
                ["--keep_fp", "conv1"], ["--cal_image_dir", "images"], ["--batches", 3], ["--calibrator", "max"],
                ["--cal_cache_file", "cal.bin"], ["--cal_data_file", "tensors.h5"], ["--force_ptq"],
            ),
            "--engine_file FILE": (
                ["--compute_capability", "8.6"], ["--min_batch_size", 2], ["--opt_batch_size", 2],
                ["--max_workspace_size", 9],
            ),
            "--engine_file FILE, --gen_ds_config or --triton DIR": (["--max_batch_size", 2],),
        }.items()
        for flags in given
    },
    "ranges of a float model": (["--cal_json_file", "scales.json"], "--cal_json_file: the model has no ranges"),
    "int8 from nothing": ([*INT8], "needs ranges: none are in the model"),
    "int8 from no folder": ([*INT8, "--cal_image_dir", "none"], "--cal_image_dir none: no such folder"),
    "int8 from an empty folder": ([*INT8, "--cal_image_dir", "empty"], "0 images"),
    "int8 from too few images": ([*INT8, "--batches", 9, "--cal_image_dir", "images"], "10 images (.jpg"),
    "int8 from broken images": ([*INT8, "--cal_image_dir", "broken"], "broken/"),
    "int8 from another network's cache": ([*INT8, "--cal_cache_file", "cache.txt"], "no range for tensor"),
    "int8 from no cache": ([*INT8, "--cal_cache_file", "nocache.txt"], "nocache.txt:1: no calibration cache"),
    "int8 from a damaged cache": ([*INT8, "--cal_cache_file", "badcache.txt"], "badcache.txt:3"),
    "int8 from a damaged tensor file": ([*INT8, "--cal_data_file", "tensors.h5"], "no tensor file"),
    "int8, a layer that is not": ([*INT8, "--cal_image_dir", "images", "--keep_fp", "conv_9"], "fits none of the"),
    "DeepStream without its NMS": (["--nms", "none", "--gen_ds_config", "--skip_proof"], "--nms efficient_nms"),
    "DeepStream with pixels": (["--nms", "efficient_nms", "--embed_preprocess", "--gen_ds_config"], "nvinfer"),
    "DeepStream and a key": ([*SEALED, "--nms", "efficient_nms", "--gen_ds_config"], "DeepStream reads no encrypted"),
    "DeepStream and other labels": (
        ["-o", "labelled/out.onnx", "--nms", "efficient_nms", "--gen_ds_config", "--skip_proof"], "has other content",
    ),
    "Triton with a plugin and no engine": (["--nms", "efficient_nms", "--triton", "t"], "engine only"),
    "Triton and a key": ([*SEALED, "--triton", "t"], "Triton reads no encrypted graph"),
    "Triton and TensorRT-RTX": (
        ["--nms", "none", "--engine_file", "e.trt", "--compute_capability", "8.6", "--triton", "t"], "TensorRT-RTX",
    ),
    "Triton and a name": (["-o", "my model (v2).onnx", "--triton", "t"], "cannot name a model"),
    "Triton and another folder": (["-o", "images.onnx", "--triton", "."], "is no Triton model"),
    "an engine of a graph with NMS": (["--engine_file", "e", "--compute_capability", "8.6"], "has no NMS"),
    "an unknown capability": (["--nms", "none", "--engine_file", "e", "--compute_capability", "9.9"], "builds for"),
}  # fmt: skip
NEEDS_RTX = ("an engine of a graph with NMS", "an unknown capability")


@pytest.mark.parametrize("case", [pytest.param(case, marks=needs_rtx) if case in NEEDS_RTX else case for case in BAD])
def test_bad_inputs_end_in_a_clear_line_and_leave_nothing(case, odd_files, monkeypatch, capsys):
    monkeypatch.chdir(odd_files)
    (odd_files / "folder.onnx").mkdir(exist_ok=True)
    flags, message = BAD[case]
    words = [word for flag in (["-m", "good.keras"], ["-o", "out.onnx"]) if flag[0] not in flags for word in flag]
    before = sorted(str(path) for path in odd_files.rglob("*"))
    try:
        code = export(*words, *flags)
    except SystemExit as stop:  # argparse
        code = stop.code
    err = capsys.readouterr().err
    assert code == 2, err
    assert message in err
    assert "Traceback" not in err
    left = set(map(str, odd_files.rglob("*"))) - set(before)
    assert not {path for path in left if not path.endswith("status.json")}
