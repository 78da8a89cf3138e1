import json

from ssd.spec.config import EarlyStopping
from ssd.training.early_stopping import look


def stops_at(rule: EarlyStopping, values: dict[int, float]) -> int | None:
    memory: dict = {}
    for epoch, value in values.items():
        memory, stop = look(rule, json.loads(json.dumps(memory)), epoch, value)
        if stop:
            return epoch
    return None


def numbered(*values: float) -> dict[int, float]:
    return dict(enumerate(values, start=1))


def test_stops_after_patience_epochs_without_a_fall():
    assert stops_at(EarlyStopping("loss", 0.0, 2), numbered(3, 2, 2, 2, 1)) == 4


def test_a_fall_begins_the_patience_anew():
    assert stops_at(EarlyStopping("loss", 0.0, 2), numbered(3, 3, 2, 2, 1, 0.5)) is None


def test_a_fall_of_min_delta_or_less_is_none():
    assert stops_at(EarlyStopping("loss", 0.5, 2), numbered(3, 2.6, 2.5)) == 3
    assert stops_at(EarlyStopping("loss", 0.5, 2), numbered(3, 2.4, 1.8)) is None


def test_patience_counts_epochs_where_values_come_every_few():
    assert stops_at(EarlyStopping("validation_loss", 0.0, 10), {5: 2.0, 10: 2.1, 15: 2.2, 20: 1.0}) == 15


def test_no_patience_stops_at_the_first_epoch_that_is_no_better():
    assert stops_at(EarlyStopping("loss", 0.0, 0), numbered(3, 2, 2)) == 3


def test_another_monitor_forgets_the_old_one():
    memory, _ = look(EarlyStopping("loss", 0.0, 1), {}, 1, 0.1)
    memory, stop = look(EarlyStopping("validation_loss", 0.0, 1), memory, 2, 5.0)
    assert not stop
    assert memory["best"] == 5.0
