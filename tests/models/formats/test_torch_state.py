"""State dicts of torchvision and timm: plain PyTorch modules with their names give the same features here.

The modules have torchvision's parameter names and the original toolkit's strides, padding and ReLU; PyTorch computes
what is compared, from an RGB picture by ImageNet's mean and deviation.
"""

import functools
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from ssd.errors import ModelError
from ssd.models.formats import torch_state
from ssd.models.formats.source import Row
from ssd.models.formats.torch_networks import SOURCES

REAL = Path(__file__).parents[4] / "shared" / "data" / "weights"
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
BLACK = 255 * MEAN[::-1]  # as our mean: our zeros at the border are then theirs


@pytest.fixture(scope="module")
def zoo():
    """The modules: `zoo.resnet18()` and so on, with random weights and statistics."""
    torch = pytest.importorskip("torch")
    from torch import nn

    def unit(inputs, outputs, size, stride=1, groups=1, act=True):
        conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), *([nn.ReLU()] if act else []))

    class Basic(nn.Module):
        def __init__(self, inputs, outputs, stride, projected):
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(outputs)
            self.stride = stride
            if projected:
                self.downsample = unit(inputs, outputs, 1, stride, act=False)
            else:
                self.downsample = None

        def forward(self, x):
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            # An identity that strides takes every other pixel.
            shortcut = self.downsample(x) if self.downsample else x[..., :: self.stride, :: self.stride]
            return torch.relu(y + shortcut)

    class ResNet18(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
            self.bn1 = nn.BatchNorm2d(64)
            inputs = 64
            for stage, (width, stride) in enumerate(((64, 2), (128, 2), (256, 2), (512, 1)), start=1):
                units = [Basic(inputs, width, stride, stage > 1), Basic(width, width, 1, False)]
                setattr(self, f"layer{stage}", nn.Sequential(*units))
                inputs = width
            self.fc = nn.Linear(512, 10)

        def forward(self, x):
            x = torch.relu(self.bn1(self.conv1(x)))
            second = self.layer2(self.layer1(x))
            return second, self.layer4(self.layer3(second))

    class Fire(nn.Module):
        def __init__(self, inputs, squeezed, expanded):
            super().__init__()
            self.squeeze = nn.Conv2d(inputs, squeezed, 1)
            self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
            self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

        def forward(self, x):
            x = torch.relu(self.squeeze(x))
            return torch.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))

    class SqueezeNet(nn.Module):
        def __init__(self):
            super().__init__()
            pool = lambda: nn.MaxPool2d(3, 2, 1)  # noqa: E731
            fires = [Fire(96, 16, 64), Fire(128, 16, 64), Fire(128, 32, 128), pool(), Fire(256, 32, 128)]
            fires += [Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), pool(), Fire(512, 64, 256)]
            self.features = nn.Sequential(nn.Conv2d(3, 96, 7, 2, 3), nn.ReLU(), pool(), *fires)
            self.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(512, 10, 1))

        def forward(self, x):
            eighth = self.features[:11](x)
            return eighth, self.features[11:](eighth)

    class Inverted(nn.Module):
        def __init__(self, inputs, outputs, stride, expansion):
            super().__init__()
            width = inputs * expansion
            parts = [unit(inputs, width, 1)] if expansion > 1 else []
            parts += [unit(width, width, 3, stride, groups=width)]
            parts += [nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
            self.conv = nn.Sequential(*parts)
            self.adds = stride == 1 and inputs == outputs

        def forward(self, x):
            return x + self.conv(x) if self.adds else self.conv(x)

    class MobileNetV2(nn.Module):
        def __init__(self):
            super().__init__()
            blocks, inputs = [unit(3, 32, 3, 2)], 32
            for expansion, width, count, stride in (
                (1, 16, 1, 1),
                (6, 24, 2, 2),
                (6, 32, 3, 2),
                (6, 64, 4, 2),
                (6, 96, 3, 1),
                (6, 160, 3, 2),
                (6, 320, 1, 1),
            ):
                for i in range(count):
                    blocks.append(Inverted(inputs, width, stride if i == 0 else 1, expansion))
                    inputs = width
            self.features = nn.Sequential(*blocks, unit(320, 1280, 1))
            self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(1280, 10))

        def forward(self, x):
            x = self.features[:7](x)
            return self.features[7].conv[0](x), self.features[7:14](x)

    class Zoo:
        """Built once each: nobody changes them."""

    for name, kind in (("resnet18", ResNet18), ("squeezenet1_0", SqueezeNet), ("mobilenet_v2", MobileNetV2)):
        torch.manual_seed(3)
        module = kind().eval()
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.uniform_(part.weight, 0.5, 1.2)
                nn.init.uniform_(part.bias, -0.2, 0.3)
                nn.init.uniform_(part.running_mean, -0.2, 0.2)
                nn.init.uniform_(part.running_var, 1e-4, 1)  # so small that epsilon matters
        setattr(Zoo, name, module)
    return Zoo


def saved(module, path, prefix="", kind="float32"):
    tensors = {f"{prefix}{name}": tensor.numpy() for name, tensor in module.state_dict().items()}
    tensors = {name: tensor.astype(kind) if tensor.dtype.kind == "f" else tensor for name, tensor in tensors.items()}
    safetensors.numpy.save_file(tensors, path)
    return path


@pytest.mark.parametrize(
    "name, arch, nlayers",
    [("resnet18", "resnet", 18), ("squeezenet1_0", "squeezenet", None), ("mobilenet_v2", "mobilenet_v2", None)],
)
def test_a_module_gives_the_same_features_here(name, arch, nlayers, zoo, tmp_path, features, close, picture):
    import torch

    module = getattr(zoo, name)
    path = saved(module, tmp_path / "net.safetensors", prefix="module.")
    image = picture(64)
    pixels = ((image / 255 - MEAN) / STD).astype("float32").transpose(2, 0, 1)[None]
    with torch.no_grad():
        theirs = [tensor.permute(0, 2, 3, 1).numpy() for tensor in module(torch.from_numpy(pixels))]
    close(features(path, arch, nlayers, image, BLACK), theirs)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_other_precisions(kind, zoo, tmp_path, network):
    import ml_dtypes

    dtype = getattr(ml_dtypes, kind) if kind == "bfloat16" else kind
    tensors = {name: t.numpy() for name, t in zoo.squeezenet1_0.state_dict().items()}
    stored = {name: t.astype(dtype) for name, t in tensors.items()}
    safetensors.numpy.save_file(stored, tmp_path / "net.safetensors")
    file = torch_state.read(tmp_path / "net.safetensors", network(arch="squeezenet", nlayers=None))
    kernel, bias = file.layers["conv1"]
    assert kernel.dtype == bias.dtype == np.float32
    wanted = stored["features.0.weight"].astype("float32").transpose(2, 3, 1, 0)
    assert np.array_equal(kernel, wanted)


def made(source):
    """A state dict with the names of `source`, most kernels too small: for what is wrong with a file.

    Whether these names are the public ones is for `state_dicts` to say, which know nothing of `source`.
    """
    rng = np.random.default_rng(0)
    tensors = {}
    for row in source.rows:
        if not isinstance(row, Row):
            continue
        shape = (4, 1 if row.depthwise else 4, 3, 3)
        if row is source.rows[0]:
            size, filters = source.stem
            shape = (filters, 3, size, size)
        if row.source == source.probe[0]:
            h, w, i, o = source.probe[1]
            shape = (o, i, h, w)
        filters = shape[0]
        tensors[f"{row.source}.weight"] = rng.normal(size=shape).astype("float32")
        if row.source_bn:
            for part in ("weight", "bias", "running_mean", "running_var"):
                tensors[f"{row.source_bn}.{part}"] = rng.uniform(0.5, 1, filters).astype("float32")
            tensors[f"{row.source_bn}.num_batches_tracked"] = np.array(3)
        else:
            tensors[f"{row.source}.bias"] = rng.normal(size=filters).astype("float32")
    return tensors


def stored(tensors, tmp_path):
    safetensors.numpy.save_file(tensors, tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


# state dict: what the file is taken for, the spec's network, the prefixes of what has no place in it
PUBLIC = {
    "resnet18": ("torchvision or timm resnet18", "resnet", 18, "fc"),
    "resnet34": ("torchvision or timm resnet34", "resnet", 34, "fc"),
    "resnet50": ("torchvision or timm resnet50", "resnet", 50, "fc"),
    "resnet101": ("torchvision or timm resnet101", "resnet", 101, "fc"),
    "vgg16": ("torchvision or timm vgg16", "vgg", 16, "classifier"),
    "vgg16_bn": ("torchvision or timm vgg16_bn", "vgg", 16, "classifier"),
    "vgg19": ("torchvision or timm vgg19", "vgg", 19, "classifier"),
    "vgg19_bn": ("torchvision or timm vgg19_bn", "vgg", 19, "classifier"),
    "googlenet": ("torchvision googlenet", "googlenet", None, "fc aux1 aux2"),
    "efficientnet_b0 of torchvision": ("torchvision efficientnet_b0", "efficientnet_b0", None, "classifier"),
    "efficientnet_b0 of timm": ("timm efficientnet_b0", "efficientnet_b0", None, "classifier"),
    "mobilenetv2_100": ("timm mobilenetv2_100", "mobilenet_v2", None, "classifier conv_head bn2 blocks.5 blocks.6"),
    "darknet53": ("timm darknet53", "darknet", 53, "head"),
}
SLOW_TO_BUILD = ("resnet18", "resnet101", "vgg19", "vgg19_bn")


@pytest.fixture
def read_state(state_dicts, monkeypatch, network):
    """`read_state("resnet50", "resnet", 50)`: the file of a state dict that is too large to write out."""

    def read(name, arch, nlayers):
        monkeypatch.setattr(torch_state, "read_tensors", lambda _path: state_dicts[name]())
        return torch_state.read("net.safetensors", network(arch=arch, nlayers=nlayers))

    return read


@pytest.mark.parametrize("name", PUBLIC)
def test_every_network_is_told_from_the_others(name, read_state):
    kind, arch, nlayers, ends = PUBLIC[name]
    with pytest.raises(ModelError, match=f"the file is a {kind}, the spec says resnet10"):
        read_state(name, "resnet", 10)
    file = read_state(name, arch, nlayers)
    assert file.kind == kind
    assert file.assumed == f"as {kind.rpartition(' ')[0]}'s are"
    assert not file.reasons
    assert not any("left out" in note for note in file.notes)
    prefixes = tuple(ends.split())
    assert file.unused
    assert all(f"{layer}.".startswith(tuple(f"{prefix}." for prefix in prefixes)) for layer in file.unused)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.networks) if n in SLOW_TO_BUILD else n for n in PUBLIC]
)
def test_every_network_fills_its_backbone(name, read_state, shapes):
    _, arch, nlayers, _ = PUBLIC[name]
    file = read_state(name, arch, nlayers)
    assert {layer: [array.shape for array in arrays] for layer, arrays in file.layers.items()} == shapes(arch, nlayers)


@pytest.fixture(scope="module")
def shapes(backbone_model):
    """`shapes("resnet", 18)`: those of every layer of ours that has weights."""

    @functools.cache
    def of(arch, nlayers):
        layers = backbone_model(arch, nlayers, 64).layers
        return {layer.name: [tuple(weight.shape) for weight in layer.weights] for layer in layers if layer.weights}

    return of


@pytest.mark.parametrize(
    "name, arch, nlayers, told",
    [
        ("resnet34d", "resnet", 34, "a variant of torchvision or timm resnet34, with another stem"),
        ("resnet50d", "resnet", 50, "a variant of torchvision or timm resnet50, with another stem"),
        ("darknetaa53", "darknet", 53, "a variant of timm darknet53, with other units"),
        ("vgg13", "vgg", 16, "no known network"),
    ],
)
def test_variants_are_refused(name, arch, nlayers, told, read_state):
    with pytest.raises(ModelError, match=told) as caught:
        read_state(name, arch, nlayers)
    assert "\n" not in caught.value.message


def test_a_variant_with_other_shortcuts_is_refused(state_dicts, monkeypatch, network):
    """The usual stem, but a pooling before each projection."""
    state = state_dicts["resnet50d"]()
    plain = state_dicts["resnet50"]()
    state = {name: t for name, t in state.items() if not name.startswith("conv1.")}
    monkeypatch.setattr(torch_state, "read_tensors", lambda _: {**state, "conv1.weight": plain["conv1.weight"]})
    with pytest.raises(ModelError, match=r"a variant of .* with another layer1\.0\.downsample"):
        torch_state.read("net.safetensors", network(nlayers=50))


def test_attention_that_has_no_place_here_is_told(read_state):
    file = read_state("ecaresnet50", "resnet", 50)
    (note,) = (note for note in file.notes if "left out" in note)
    assert "layer1.0.se.conv, layer1.1.se.conv, layer1.2.se.conv and 13 more" in note
    assert not file.reasons


def test_kernels_of_three_stand_in_the_middle_of_googlenets_five(tmp_path, network):
    source = next(source for source in SOURCES if source.arch == "googlenet")
    tensors = made(source)
    file = torch_state.read(stored(tensors, tmp_path), network(arch="googlenet", nlayers=None))
    (kernel,) = file.layers["inception_3a_5x5"]
    wanted = tensors["inception3a.branch3.1.conv.weight"].transpose(2, 3, 1, 0)
    assert kernel.shape[:2] == (5, 5)
    assert np.array_equal(kernel[1:4, 1:4], wanted)
    assert np.abs(kernel).sum() == pytest.approx(np.abs(wanted).sum())
    assert file.convention.scale == 2 / 255  # what its published weights expect


def test_a_folded_file_gives_neutral_batch_norm_with_its_biases(tmp_path, network):
    source = SOURCES[0]
    tensors = {name: t for name, t in made(source).items() if "bn1" not in name or "layer1.0" not in name}
    tensors["layer1.0.conv1.bias"] = np.array([1, 2, 3, 4], "float32")
    file = torch_state.read(stored(tensors, tmp_path), network(nlayers=18))
    gamma, beta, mean, variance = file.layers["block_1a_bn_1"]
    assert np.allclose((0 - mean) / np.sqrt(variance + 1e-3) * gamma + beta, [1, 2, 3, 4])


def test_absent_layers_are_named(tmp_path, network):
    tensors = {name: t for name, t in made(SOURCES[0]).items() if not name.startswith("layer4.1.bn2")}
    file = torch_state.read(stored(tensors, tmp_path), network(nlayers=18))
    assert file.reasons == {"block_4b_bn_2": "the file has no layer4.1.bn2"}


def test_pictures_of_another_kind_leave_the_convention_open(tmp_path, network):
    """Somebody's SqueezeNet for gray pictures: ImageNet's RGB mean is not its."""
    source = next(source for source in SOURCES if source.arch == "squeezenet")
    tensors = made(source)
    tensors["features.0.weight"] = np.ones((96, 1, 7, 7), "float32")
    assert torch_state.read(stored(tensors, tmp_path), network(arch="squeezenet", nlayers=None)).convention is None


def changed(**tensors):
    return lambda found: {**found, **{name.replace("__", "."): t for name, t in tensors.items()}}


@pytest.mark.parametrize(
    "change, told",
    [
        (changed(conv1__weight=np.full((64, 3, 7, 7), np.nan, "float32")), "conv1 holds NaN"),
        (changed(conv1__weight=np.ones((4, 4), "float32")), "conv1 has the shape"),
        (changed(conv1__weight=np.ones((4, 4, 3, 3), "int8")), "conv1.weight is stored as I8"),
        (changed(bn1__weight=np.ones(9, "float32")), "bn1 has 9 values for 64 filters"),
        (changed(bn1__running_var=-np.ones(64, "float32")), "negative variance"),
        (changed(conv1__weight_scale=np.ones(4, "float32")), "conv1 has the tensors"),
        (lambda found: {name: t for name, t in found.items() if "running_var" not in name}, "has 3 tensors"),
        (changed(conv1__weight=np.ones((32, 3, 3, 3), "float32")), "with another stem: conv1 is 3x3x3x32"),
        (
            changed(layer4__1__conv2__weight=np.ones((1024, 1024, 3, 3), "float32")),
            "layer4.1.conv2 has a kernel of 3x3x1024x1024",
        ),
        (changed(model__conv1__weight=np.ones((4, 4, 3, 3), "float32")), "two tensors are called conv1.weight"),
        (lambda found: {name: t for name, t in found.items() if "layer2" in name}, "no known network"),
        (lambda _: {"vgg.0.weight": np.ones(3, "float32"), "loc.0.weight": np.ones(3, "float32")}, "of a detector"),
        (lambda _: {}, "holds no tensors"),
    ],
)
def test_what_does_not_fit_is_told_in_a_line(change, told, tmp_path, network):
    path = stored(change(made(SOURCES[0])), tmp_path)
    with pytest.raises(ModelError, match=told) as caught:
        torch_state.read(path, network(nlayers=18))
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("keep", [0, 5, 100, 20_000, -1])
def test_truncated_files(keep, tmp_path, network):
    path = stored(made(SOURCES[0]), tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"no whole \.safetensors"):
        torch_state.read(path, network(nlayers=18))


def test_other_depths_of_a_family_are_not_taken_for_a_known_one(tmp_path, network):
    """A resnet152 has all the names of a resnet101."""
    source = next(source for source in SOURCES if source.nlayers == 101)
    tensors = made(source)
    for stage, units in ((2, range(4, 8)), (3, range(23, 36))):
        for index in units:
            for i in (1, 2, 3):
                tensors[f"layer{stage}.{index}.conv{i}.weight"] = np.ones((4, 4, 1, 1), "float32")
                tensors[f"layer{stage}.{index}.bn{i}.weight"] = np.ones(4, "float32")
    with pytest.raises(ModelError, match="no known network"):
        torch_state.read(stored(tensors, tmp_path), network(nlayers=101))


@pytest.mark.parametrize(
    "name, arch, theirs, ours",
    [
        ("squeezenet1_0.safetensors", "squeezenet", "features.12.expand3x3.weight", "fire9_expand_conv3x3"),
        ("mobilenet_v2_1.0_224.safetensors", "mobilenet_v2", "features.13.conv.2.weight", "block_12_project"),
    ],
)
def test_real_files_fill_the_backbone(name, arch, theirs, ours, features, picture, network):
    if not (REAL / name).exists():
        pytest.skip("no public weights at hand")
    (kernel, *_) = torch_state.read(REAL / name, network(arch=arch, nlayers=None)).layers[ours]
    stored = safetensors.numpy.load_file(REAL / name)[theirs]
    assert np.array_equal(kernel, stored.astype("float32").transpose(2, 3, 1, 0))
    maps = features(REAL / name, arch, None, picture(64), (103.939, 116.779, 123.68))
    assert all(np.isfinite(tensor).all() and tensor.std() > 0 for tensor in maps)
