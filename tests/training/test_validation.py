"""The validation loss: over images, with the objects that training learns from."""

import keras
import numpy as np
import pytest

from ssd.data.share import ALONE
from ssd.spec.config import Dataset, Evaluation, Experiment, Nms
from ssd.training.validation import Validator

ANCHORS = np.array([(x, y, x + 0.5, y + 0.5) for y in (0, 0.5) for x in (0, 0.5)], np.float32)
EASY, DIFFICULT = (0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0)


class Loader:
    """Batches of 2 and 1 images of one object; the first image may have a second, difficult one."""

    samples, steps, share = 3, 2, ALONE

    def __init__(self, with_difficult: bool):
        self.with_difficult = with_difficult

    def names(self, indices):
        return [str(index) for index in indices]

    def epoch(self, epoch: int):
        for indices in ([0, 1], [2]):
            count = len(indices)
            boxes, classes = np.zeros((count, 16, 4), np.float32), np.zeros((count, 16), np.int32)
            boxes[:, 1], classes[:, 1] = EASY, 1
            if self.with_difficult and indices[0] == 0:
                boxes[0, 0], classes[0, 0] = DIFFICULT, 2
            images = np.stack([np.full((4, 4, 3), index, np.float32) for index in indices])
            size = np.full((count, 2), 4, np.int32)
            index = np.array(indices, np.int32)
            yield images, {"boxes": boxes, "classes": classes, "difficult": classes == 2, "index": index, "size": size}


@pytest.fixture
def validator(network):
    keras.utils.set_random_seed(0)
    images = keras.Input((4, 4, 3))
    x = keras.layers.AveragePooling2D(2)(images)
    logits = keras.layers.Reshape((-1, 3))(keras.layers.Conv2D(3, 1)(x))
    offsets = keras.layers.Reshape((-1, 4))(keras.layers.Conv2D(4, 1)(x))
    detector = keras.Model(images, {"class_logits": logits, "offsets": offsets})

    def make(loader, include_difficult: bool) -> Validator:
        dataset = Dataset((), (), ("car", "dog"), (), include_difficult)
        evaluation, nms = Evaluation(1, "SAMPLE", 2, 0.5, False), Nms(0.01, 0.5, 5, 0)
        return Validator(detector, ANCHORS, Experiment(0, network(), None, nms, evaluation, dataset, None, ""), loader)

    return make


def test_difficult_objects_count_where_they_do_in_training(validator):
    without = validator(Loader(False), False).run(0.0).loss
    assert validator(Loader(True), False).run(0.0).loss == pytest.approx(without, rel=1e-6)
    assert validator(Loader(True), True).run(0.0).loss != pytest.approx(without, rel=1e-3)


def test_the_loss_is_a_mean_over_images_and_the_penalty_is_added(validator):
    # The second batch alone, then both: the short batch counts for one image of three.
    whole = validator(Loader(False), True)
    losses = []
    scorer = whole.scorer.predict_on_batch
    whole.scorer.predict_on_batch = lambda batch: losses.append(scorer(batch)) or losses[-1]
    found = whole.run(0.25).loss
    first, second = (float(scored["loss"][0]) for scored in losses)
    assert found == pytest.approx((2 * first + second) / 3 + 0.25, rel=1e-6)
