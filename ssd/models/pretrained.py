"""Initial weights from files of any toolkit: what a file is, what of it goes into a network, and what does not."""

import os

import keras

from ssd.models.backbones import Backbone
from ssd.models.formats.weight_file import CONVENTIONS, Convention, WeightFile
from ssd.spec.config import Network

__all__ = ["CONVENTIONS", "Convention", "WeightFile", "read_weights", "transfer"]


def read_weights(path: str | os.PathLike, network: Network) -> WeightFile:
    """The weights of a file for the backbone of `network`, recognised by its content."""
    raise NotImplementedError


def transfer(file: WeightFile, model: keras.Model, family: Backbone, own: Convention):
    """Puts what fits of `file` into `model`, whose pixels come as `own`; reports on the rest."""
    raise NotImplementedError
