"""`ssd_config` and `dssd_config`: the backbone's name, the anchors' lists, and what they allow."""

from google.protobuf.message import Message

from ssd.spec.config import FEATURE_MAPS, Network
from ssd.spec.literals import Literal, LiteralError, parse_literal
from ssd.spec.messages import decimal, given
from ssd.spec.source import Findings

# arch: depths that exist (none where there is no choice), ids that freeze_blocks may name
ARCHITECTURES = {
    "resnet": ((10, 18, 34, 50, 101), range(0, 5)),
    "vgg": ((16, 19), range(1, 6)),
    "darknet": ((19, 53), range(0, 6)),
    "googlenet": ((), range(0, 10)),
    "mobilenet_v1": ((), range(0, 12)),
    "mobilenet_v2": ((), range(0, 14)),
    "squeezenet": ((), range(0, 9)),
    "efficientnet_b0": ((), range(0, 9)),
}
WITHOUT_BATCH_NORM = ("squeezenet",)
PREDICTION_CHANNELS = (0, 256, 512, 1024)
SCALES = FEATURE_MAPS + 1

RATIOS_HINT = 'for example aspect_ratios_global: "[1.0, 2.0, 0.5, 3.0, 1.0/3.0]"'
SCALES_HINT = 'for example "[0.05, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85]"'
VARIANCES_HINT = 'for example "[0.1, 0.1, 0.2, 0.2]"'


class _WrongError(Exception):
    """A literal does not fit; the text goes after the field's path."""


def check_network(config: Message, path: str, findings: Findings) -> None:
    """Finds problems of a filled SSDConfig; takes out what another field overrides, with a warning."""
    _check_backbone(config, path, findings)
    _override(config, path, findings, "aspect_ratios", ["aspect_ratios_global"])
    _override(config, path, findings, "scales", ["min_scale", "max_scale"])
    for name, reader, hint in (
        ("aspect_ratios", _ratios_per_map, RATIOS_HINT),
        ("aspect_ratios_global", _ratios, RATIOS_HINT),
        ("scales", _scales, SCALES_HINT),
        ("steps", _steps, 'for example "[8, 16, 32, 64, 100, 300]"'),
        ("offsets", _offsets, 'for example "[0.5, 0.5, 0.5, 0.5, 0.5, 0.5]"'),
        ("variances", _variances, VARIANCES_HINT),
    ):
        if config.HasField(name):
            try:
                reader(_literal(getattr(config, name)))
            except _WrongError as error:
                findings.wrong(f"{path}.{name}", str(error), hint)
    if not config.HasField("aspect_ratios") and not config.HasField("aspect_ratios_global"):
        findings.absent(path, "has neither aspect_ratios nor aspect_ratios_global: one is needed", RATIOS_HINT)
    if not config.HasField("variances"):
        findings.absent(f"{path}.variances", "is missing: four positive numbers for cx, cy, w, h", VARIANCES_HINT)
    if not config.HasField("scales"):
        _check_scale_range(config, path, findings)
    if config.neg_iou_thresh > config.pos_iou_thresh:
        findings.wrong(
            f"{path}.neg_iou_thresh",
            f"is {decimal(config.neg_iou_thresh)}, allowed: at most pos_iou_thresh, {decimal(config.pos_iou_thresh)}",
        )


def build_network(config: Message, *, dssd: bool) -> Network:
    """The resolved form of an SSDConfig in which check_network found nothing wrong."""
    if config.HasField("aspect_ratios"):
        ratios = _ratios_per_map(_literal(config.aspect_ratios))
    else:
        ratios = (_ratios(_literal(config.aspect_ratios_global)),) * FEATURE_MAPS
    return Network(
        dssd=dssd,
        arch=config.arch,
        nlayers=given(config, "nlayers"),
        aspect_ratios=ratios,
        scales=_scales(_literal(config.scales)) if config.HasField("scales") else _even_scales(config),
        two_boxes_for_ar1=config.two_boxes_for_ar1,
        steps=_steps(_literal(config.steps)) if config.HasField("steps") else None,
        offsets=_offsets(_literal(config.offsets)) if config.HasField("offsets") else None,
        clip_boxes=config.clip_boxes,
        variances=_variances(_literal(config.variances)),
        pred_num_channels=config.pred_num_channels,
        alpha=decimal(config.alpha),
        neg_pos_ratio=decimal(config.neg_pos_ratio),
        pos_iou_thresh=decimal(config.pos_iou_thresh),
        neg_iou_thresh=decimal(config.neg_iou_thresh),
        freeze_blocks=tuple(config.freeze_blocks),
        freeze_bn=config.freeze_bn,
    )


def _check_backbone(config: Message, path: str, findings: Findings) -> None:
    if config.pred_num_channels not in PREDICTION_CHANNELS:
        findings.wrong(
            f"{path}.pred_num_channels",
            f"is {config.pred_num_channels}, allowed: 256, 512, 1024, or 0 for no prediction module",
        )
    if config.arch not in ARCHITECTURES:
        findings.wrong(f"{path}.arch", f"is {config.arch!r}, allowed: {', '.join(ARCHITECTURES)}")
        return
    depths, blocks = ARCHITECTURES[config.arch]
    nlayers = given(config, "nlayers")
    allowed = ", ".join(map(str, depths))
    if not depths:
        if nlayers:
            findings.warn(f"{path}.nlayers", f"has no effect: {config.arch} has one depth only")
        config.ClearField("nlayers")
    elif nlayers is None:
        findings.absent(f"{path}.nlayers", f"is missing, allowed for {config.arch}: {allowed}")
    elif nlayers not in depths:
        findings.wrong(f"{path}.nlayers", f"is {nlayers}, allowed for {config.arch}: {allowed}")
    for index, block in enumerate(config.freeze_blocks):
        if block == 0 and 0 not in blocks:
            findings.warn(f"{path}.freeze_blocks[{index}]", f"is 0 and has no effect: {config.arch} has no block 0")
        elif block not in blocks:
            text = f"is {block}, allowed for {config.arch}: {blocks[0]} to {blocks[-1]}"
            findings.wrong(f"{path}.freeze_blocks[{index}]", text)
    if config.freeze_bn and config.arch in WITHOUT_BATCH_NORM:
        findings.warn(f"{path}.freeze_bn", f"has no effect: {config.arch} has no batch normalisation")
    config.freeze_blocks[:] = sorted(set(config.freeze_blocks) & set(blocks))


def _check_scale_range(config: Message, path: str, findings: Findings) -> None:
    low, high = given(config, "min_scale"), given(config, "max_scale")
    if low is None and high is None:
        findings.absent(path, "has neither scales nor min_scale and max_scale: scales are needed", SCALES_HINT)
    elif low is None or high is None:
        missing = "min_scale" if low is None else "max_scale"
        findings.absent(f"{path}.{missing}", "is missing: min_scale and max_scale go together")
    elif not 0 < low <= high:
        findings.wrong(f"{path}.min_scale", f"is {low} and max_scale {high}, allowed: 0 < min_scale <= max_scale")
    else:
        try:
            _scales(_even_scales(config))
        except _WrongError as error:
            findings.wrong(f"{path}.max_scale", f"is {high}, too large: of the evenly spaced scales, one {error}")


def _override(config: Message, path: str, findings: Findings, winner: str, losers: list[str]) -> None:
    for loser in losers:
        if config.HasField(winner) and config.HasField(loser):
            findings.warn(f"{path}.{loser}", f"has no effect: {winner} is given too")
            config.ClearField(loser)


def _even_scales(config: Message) -> tuple[float, ...]:
    low, high = decimal(config.min_scale), decimal(config.max_scale)
    return tuple(low + (high - low) * index / (SCALES - 1) for index in range(SCALES))


def _literal(text: str) -> Literal:
    try:
        return parse_literal(text)
    except LiteralError as error:
        raise _WrongError(f"is no list of numbers: {error} of {text!r}") from error


def _list(value: Literal, length: int | None, what: str) -> tuple:
    if not isinstance(value, tuple):
        raise _WrongError(f"is a number, needed: {what}")
    if length is not None and len(value) != length:
        raise _WrongError(f"has {len(value)} value{'s' * (len(value) != 1)}, {length} are needed: {what}")
    if not value:
        raise _WrongError(f"is empty, needed: {what}")
    return value


def _number(value: Literal, high: float, rule: str) -> float:
    if isinstance(value, tuple):
        raise _WrongError(f"has a list where a number is needed: {_shown(value)}")
    if not 0 < value < high:
        raise _WrongError(f"has the value {value:.6g}, allowed: {rule}")
    return value


def _positive(value: Literal) -> float:
    return _number(value, float("inf"), "more than 0")


def _ratios(value: Literal) -> tuple[float, ...]:
    ratios = tuple(_positive(ratio) for ratio in _list(value, None, "a list of aspect ratios"))
    if len(set(ratios)) < len(ratios):
        twice = next(ratio for ratio in ratios if ratios.count(ratio) > 1)
        raise _WrongError(f"has the ratio {twice:.6g} twice in a list")
    return ratios


def _ratios_per_map(value: Literal) -> tuple[tuple[float, ...], ...]:
    maps = _list(value, FEATURE_MAPS, "a list of aspect ratios for each feature map")
    return tuple(_ratios(ratios) for ratios in maps)


def _scales(value: Literal) -> tuple[float, ...]:
    what = "one per feature map and one more for the last map's second square box"
    scales = tuple(_positive(scale) for scale in _list(value, SCALES, what))
    for scale in scales[:-1]:
        if scale > 1:
            raise _WrongError(f"has the value {scale:.6g}, allowed: at most 1, but for the last")
    return scales


def _variances(value: Literal) -> tuple[float, float, float, float]:
    return tuple(_positive(variance) for variance in _list(value, 4, "for cx, cy, w and h"))


def _steps(value: Literal) -> tuple[tuple[float, float], ...]:
    return _pairs(value, _positive)


def _offsets(value: Literal) -> tuple[tuple[float, float], ...]:
    return _pairs(value, lambda offset: _number(offset, 1, "more than 0 and less than 1"))


def _pairs(value: Literal, number) -> tuple[tuple[float, float], ...]:
    """(vertical, horizontal) per feature map, from numbers or pairs."""
    pairs = []
    for item in _list(value, FEATURE_MAPS, "a number or a pair [vertical, horizontal] for each feature map"):
        if isinstance(item, tuple) and len(item) != 2:
            raise _WrongError(f"has {_shown(item)}, needed is a number or a pair [vertical, horizontal]")
        pairs.append(tuple(map(number, item)) if isinstance(item, tuple) else (number(item),) * 2)
    return tuple(pairs)


def _shown(value: Literal) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return f"{value:.6g}"
