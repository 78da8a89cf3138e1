"""All 14 networks by `arch` and `nlayers`, and their specs, for the tests that are run with `-m networks`."""

NETWORKS = [
    *(("resnet", depth) for depth in (10, 18, 34, 50, 101)),
    *(("vgg", depth) for depth in (16, 19)),
    *(("darknet", depth) for depth in (19, 53)),
    *((arch, None) for arch in ("googlenet", "mobilenet_v1", "mobilenet_v2", "squeezenet", "efficientnet_b0")),
]


def spec_of(text: str, arch: str, nlayers: int | None, dssd: bool = False):
    """The spec that the fixture `spec_text` makes, with this network."""
    from ssd.spec import experiment_from_text

    text = text.replace('arch: "resnet" nlayers: 10', f'arch: "{arch}" ' + (f"nlayers: {nlayers}" if nlayers else ""))
    if dssd:
        text = text.replace("ssd_config {", "dssd_config { pred_num_channels: 256", 1)
    return experiment_from_text(text, "spec.txt", "inference")


def forget() -> None:
    """Frees a network with all that was compiled for it: the next one is to find room."""
    import gc

    import keras

    keras.backend.clear_session()
    gc.collect()  # compiled functions and their models hold each other
