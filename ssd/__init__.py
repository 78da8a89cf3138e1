"""SSD object detectors from a prototxt spec: train, prune, quantize, deploy."""

__version__ = "0.1.0"
