"""The peer: the same SSD networks as plain PyTorch modules, with matching, loss and SGD as one would write them there.

Layers, channels, strides, heads and anchors are those of `ssd.models`; the benchmarks compare the numbers of
parameters. Run by `training_step.py` and `inference.py` as a worker; needs nothing but PyTorch.
"""

import contextlib
import itertools
import json
import math
import sys
from pathlib import Path

import torch
from timing import cores, serve, timed, versions
from torch import nn
from torch.nn import functional

RESNETS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
VGGS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
CANDIDATES = 1000  # of an image, in NMS
SMALL = (None, (64, 128, 2), (64, 128, 2), (64, 128, 2), (64, 128, 2))
MEDIUM = ((256, 256, 1), (128, 256, 2), (64, 128, 2), (64, 128, 2), (64, 128, 2))
LARGE = ((512, 512, 1), (256, 512, 2), (128, 256, 2), (128, 256, 2), (128, 256, 2))
EXPANSION = {"resnet": {10: SMALL, 18: MEDIUM, 34: MEDIUM, 50: LARGE, 101: LARGE}, "vgg": {16: LARGE, 19: LARGE}}


def conv_bn(channels: int, filters: int, kernel: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels, filters, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(filters, eps=1e-3, momentum=0.01))


def conv_bn_relu(*arguments) -> nn.Sequential:
    return nn.Sequential(*conv_bn(*arguments), nn.ReLU(inplace=True))


class Unit(nn.Module):
    """A residual unit with a projection in its shortcut."""

    def __init__(self, channels: int, filters: int, stride: int, bottleneck: bool):
        super().__init__()
        self.filters = 4 * filters if bottleneck else filters
        if bottleneck:
            first, middle = conv_bn_relu(channels, filters, 1, stride), conv_bn_relu(filters, filters, 3)
            self.branch = nn.Sequential(first, middle, conv_bn(filters, self.filters, 1))
        else:
            self.branch = nn.Sequential(conv_bn_relu(channels, filters, 3, stride), conv_bn(filters, filters, 3))
        self.shortcut = conv_bn(channels, self.filters, 1, stride)

    def forward(self, x):
        return functional.relu(self.branch(x) + self.shortcut(x), inplace=True)


def resnet(depth: int) -> tuple[nn.Module, nn.Module, int, int]:
    """(up to the first feature map, the rest, channels of that map, channels of the last tensor)."""
    stages, channels, at_map = [conv_bn_relu(3, 64, 7, 2)], 64, 0
    parts = list(zip(RESNETS[depth], (64, 128, 256, 512), (2, 2, 2, 1), strict=True))
    for stage, (units, filters, stride) in enumerate(parts, start=1):
        for index in range(units):
            stages.append(Unit(channels, filters, stride if index == 0 else 1, depth >= 50))
            channels = stages[-1].filters
        if stage == 2:
            at_map, map_channels = len(stages), channels
    return nn.Sequential(*stages[:at_map]), nn.Sequential(*stages[at_map:]), map_channels, channels


def vgg(depth: int) -> tuple[nn.Module, nn.Module, int, int]:
    stages, channels, at_map = [], 3, 0
    parts = list(zip(VGGS[depth], (64, 128, 256, 512, 512), (1, 2, 2, 2, 2), strict=True))
    for stage, (units, filters, stride) in enumerate(parts, start=1):
        for index in range(units):
            stages.append(conv_bn_relu(channels, filters, 3, stride if index == 0 else 1))
            channels = filters
        if stage == 4:
            at_map = len(stages)
    return nn.Sequential(*stages[:at_map]), nn.Sequential(*stages[at_map:]), channels, channels


class Expansion(nn.Sequential):
    def __init__(self, channels: int, squeeze: int, filters: int, stride: int):
        first = nn.Conv2d(channels, squeeze, 1)
        super().__init__(first, nn.ReLU(inplace=True), conv_bn_relu(squeeze, filters, 3, stride))


class Detector(nn.Module):
    """Images `(B,3,H,W)` to class logits `(B,A,1+classes)` and offsets `(B,A,4)`."""

    def __init__(self, arch: str, depth: int, boxes_per_cell: list[int], classes: int):
        super().__init__()
        self.lower, self.upper, map_channels, channels = {"resnet": resnet, "vgg": vgg}[arch](depth)
        widths, blocks = [map_channels], []
        for block in EXPANSION[arch][depth]:
            blocks.append(nn.Identity() if block is None else Expansion(channels, *block))
            channels = channels if block is None else block[1]
            widths.append(channels)
        self.blocks, self.scores = nn.ModuleList(blocks), 1 + classes
        pairs = list(zip(widths, boxes_per_cell, strict=True))
        self.conf = nn.ModuleList(nn.Conv2d(width, boxes * self.scores, 3, padding=1) for width, boxes in pairs)
        self.loc = nn.ModuleList(nn.Conv2d(width, boxes * 4, 3, padding=1) for width, boxes in pairs)

    def forward(self, images):
        maps = [self.lower(images)]
        x = self.upper(maps[0])
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return self._joined(maps, self.conf, self.scores), self._joined(maps, self.loc, 4)

    def _joined(self, maps, heads, values: int):
        rows = [
            head(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, values) for x, head in zip(maps, heads, strict=True)
        ]
        return torch.cat(rows, 1).float()


def count_parameters(model: nn.Module) -> int:
    """Weights and batch statistics, as Keras counts."""
    statistics = [value for name, value in model.named_buffers() if "running" in name]
    return sum(value.numel() for value in [*model.parameters(), *statistics])


def iou(boxes, others):
    """`(..., N, 4)` and `(M, 4)` corners to `(..., N, M)`."""
    near = torch.maximum(boxes[..., :, None, :2], others[:, :2])
    far = torch.minimum(boxes[..., :, None, 2:], others[:, 2:])
    shared = (far - near).clamp(min=0).prod(-1)
    area, other_area = ((each[..., 2:] - each[..., :2]).prod(-1) for each in (boxes, others))
    return shared / (area[..., :, None] + other_area - shared).clamp(min=1e-9)


@torch.no_grad()
def match(boxes, classes, anchors, threshold: float = 0.5):
    """Labels and index of the ground truth `(B, A)`: each ground truth its best anchor, then all above `threshold`."""
    batch, rows = classes.shape
    overlaps = iou(boxes, anchors)
    best, matched = overlaps.max(1)
    # Padding is scattered into a column that is cut off again.
    own = torch.where(classes > 0, overlaps.argmax(2), len(anchors))
    matched = functional.pad(matched, (0, 1)).scatter(1, own, torch.arange(rows, device=own.device).expand(batch, rows))
    best = functional.pad(best, (0, 1)).scatter(1, own, 2.0)
    matched, best = matched[:, :-1], best[:, :-1]
    return torch.where(best >= threshold, classes.gather(1, matched), 0), matched


def encode(boxes, anchors):
    size, anchor_size = boxes[:, 2:] - boxes[:, :2], anchors[:, 2:] - anchors[:, :2]
    shift = ((boxes[:, 2:] + boxes[:, :2]) - (anchors[:, 2:] + anchors[:, :2])) / 2 / anchor_size
    return torch.cat([shift / 0.1, torch.log(size.clamp(min=1e-7) / anchor_size) / 0.2], 1)


def ssd_loss(logits, offsets, boxes, classes, anchors):
    labels, matched = match(boxes, classes, anchors)
    positive = labels > 0
    share = max(int(positive.sum()), 1)
    losses = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    with torch.no_grad():
        background = torch.where(positive.flatten(), -1.0, losses)
        hard = background.topk(min(3 * share, len(background) - share), sorted=False).indices
    image, anchor = positive.nonzero(as_tuple=True)
    targets = encode(boxes[image, matched[image, anchor]], anchors[anchor])
    localisation = functional.smooth_l1_loss(offsets[image, anchor], targets, reduction="sum")
    return (losses[positive.flatten()].sum() + losses[hard].sum() + localisation) / share


def detect(logits, offsets, anchors, least: float = 0.01, overlap: float = 0.6, most: int = 200):
    """Detections of each image: boxes, scores and classes from 1, best first, after greedy NMS per class."""
    size = anchors[:, 2:] - anchors[:, :2]
    centers = (anchors[:, 2:] + anchors[:, :2]) / 2 + offsets[..., :2] * 0.1 * size
    half = size * torch.exp(offsets[..., 2:] * 0.2) / 2
    boxes, found = torch.cat([centers - half, centers + half], -1), []
    for scores, corners in zip(logits.softmax(-1)[..., 1:], boxes, strict=True):
        anchor, kind = (scores > least).nonzero(as_tuple=True)
        score, order = scores[anchor, kind].sort(descending=True, stable=True)
        score, order = score[:CANDIDATES], order[:CANDIDATES]
        corners, kind = corners[anchor[order]], kind[order]
        kept = greedy(corners, kind, overlap)[:most]
        found.append((corners[kept].clamp(0, 1), score[kept], kind[kept] + 1))
    return found


def greedy(boxes, classes, overlap: float):
    """Indices of what the greedy loop keeps: by iteration to a fixed point, which takes a few rounds, not N."""
    clash = ((iou(boxes, boxes) > overlap) & (classes[:, None] == classes)).tril(-1).float()
    kept, before = torch.ones(len(boxes), device=boxes.device), None
    while before is None or not torch.equal(kept, before):
        before, kept = kept, (clash @ kept < 0.5).float()
    return kept.nonzero()[:, 0]


# The workers.


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def about(**more) -> dict:
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"device": name, "versions": versions(), **more}


def fresh(options: dict) -> Detector:
    torch.manual_seed(0)
    return Detector(options["arch"], options["nlayers"], options["boxes_per_cell"], options["classes"]).to(device())


def batch_of(options: dict) -> tuple:
    """Images, boxes and classes as `training_step.py` makes them."""
    images = torch.randn(options["batch"], 3, options["side"], options["side"]) * 60
    truth = json.loads(Path(options["truth"]).read_text())
    return images.to(device()), torch.tensor(truth["boxes"]).to(device()), torch.tensor(truth["classes"]).to(device())


def training(options: dict):
    """Steps per round of forward, loss, backward and update."""
    if options.get("torchvision"):
        return torchvision_training(options)
    images, boxes, classes = batch_of(options)
    anchors = torch.tensor(json.loads(Path(options["anchors"]).read_text()), device=device())
    reduced = options["precision"] == "bfloat16"

    def stepper(layout):
        model = fresh(options).train().to(memory_format=layout)
        kernels = [weight for weight in model.parameters() if weight.ndim == 4]
        others = [weight for weight in model.parameters() if weight.ndim != 4]
        decay = [{"params": kernels, "weight_decay": 2 * options["l2"]}, {"params": others}]
        optimizer = torch.optim.SGD(decay, lr=1e-3, momentum=0.9, fused=True)
        inputs = images.contiguous(memory_format=layout)
        forward = torch.compile(model) if device() == "cuda" else model

        def step():
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device(), torch.bfloat16) if reduced else contextlib.nullcontext():
                logits, offsets = forward(inputs)
            ssd_loss(logits, offsets, boxes, classes, anchors).backward()
            optimizer.step()

        return step, count_parameters(model)

    step, parameters, layout = faster(stepper)
    return about(parameters=parameters, layout=layout), lambda: timed(step, options["steps"], wait)


def faster(stepper) -> tuple:
    """The step in the memory layout that is quicker here, warm."""
    tried = []
    for layout in (torch.contiguous_format, torch.channels_last):
        step, parameters = stepper(layout)
        for _ in range(2):
            step()
        seconds = min(timed(step, 1, wait)["seconds"] for _ in range(2))
        tried.append((seconds, step, parameters, str(layout)))
    return min(tried, key=lambda each: each[0])[1:]


def torchvision_training(options: dict):
    """torchvision's own SSD300 with VGG-16: another network and loss, the usual yardstick on a GPU."""
    from torchvision.models.detection import ssd300_vgg16

    images, boxes, classes = batch_of(options)
    model = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=1 + options["classes"]).to(device())
    model.backbone = torch.compile(model.train().to(memory_format=torch.channels_last).backbone)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4, fused=True)
    pictures = list(images.abs() / 255)
    targets = [
        {"boxes": box[kind > 0] * options["side"], "labels": kind[kind > 0]}
        for box, kind in zip(boxes, classes, strict=True)
    ]

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device(), torch.bfloat16, enabled=options["precision"] == "bfloat16"):
            losses = sum(model(pictures, targets).values())
        losses.backward()
        optimizer.step()

    for _ in range(3):
        step()
    return about(parameters=None, layout="channels_last"), lambda: timed(step, options["steps"], wait)


@torch.inference_mode()
def inference(options: dict):
    """Seconds of a batch, network alone and with decoding and NMS: eager, frozen, and compiled where that works."""
    anchors = torch.tensor(json.loads(Path(options["anchors"]).read_text()), device=device())
    model = fresh(options).eval().to(memory_format=torch.channels_last)
    batches = {size: pictures(options, size) for size in options["batches"]}
    make_sparse(model, batches[max(batches)], options["candidates"])
    networks, faults = {"PyTorch": model}, {}
    for name, transform in {"PyTorch, frozen": frozen, "PyTorch, compiled": torch.compile}.items():
        try:
            network = transform(model) if transform is torch.compile else transform(model, batches[max(batches)])
            for batch in batches.values():
                network(batch)
            networks[name] = network
        except Exception as error:
            faults[name] = str(error).strip().splitlines()[0][:200]

    @torch.inference_mode()
    def measure():
        times = {}
        for (name, network), (size, batch) in itertools.product(networks.items(), batches.items()):
            calls = max(options["images"] // size, 1)
            for part, run in {
                "network": lambda network=network, batch=batch: network(batch),
                "with NMS": lambda network=network, batch=batch: detect(*network(batch), anchors),
            }.items():
                times[f"{name}|{part}|{size}"] = timed(run, calls, wait)
        return times

    measure()
    return about(parameters=count_parameters(model), faults=faults), measure


def pictures(options: dict, size: int):
    images = torch.randn(size, 3, options["side"], options["side"]) * 60
    return images.to(device()).contiguous(memory_format=torch.channels_last)


def frozen(model: nn.Module, example):
    return torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(model, example)))


def make_sparse(model: Detector, images, share: float) -> None:
    """Moves the scores of background until `share` of the anchors have a candidate, as in a trained network."""
    logits = model(images)[0]
    margins = (logits[..., 1:].amax(-1) - logits[..., 0]).flatten().sort().values
    lift = margins[int(len(margins) * (1 - share))] - math.log(0.01 / 0.99)
    for head in model.conf:
        head.bias[:: model.scores] += lift


if __name__ == "__main__":
    torch.set_num_threads(cores())
    serve({"training": training, "inference": inference}[json.loads(sys.argv[2])["what"]])
