import csv
import json

import pytest
from PIL import Image

from ssd.status import StatusLog
from ssd.training import history

TRAINED = {
    "epoch": 1,
    "loss": 35.21,
    "classification_loss": 30.0,
    "localisation_loss": 5.0,
    "regularisation_loss": 0.21,
    "lr": 5.12e-05,
    "images_per_second": 54.14,
    "data_wait": 0.03,
    "seconds": 62.3,
}
VALIDATED = {**TRAINED, "epoch": 2, "mAP": 0.7123, "validation_loss": 3.9, "AP_car": 0.7123, "AP_tree": None}


def test_csv_has_the_original_columns_first_in_ascii_order(tmp_path):
    names = history.columns(("tree", "car"), validated=True)
    assert names[:7] == ["epoch", "AP_car", "AP_tree", "loss", "lr", "mAP", "validation_loss"]
    history.write_csv(tmp_path / "log.csv", [TRAINED, VALIDATED], names)
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert rows[0]["mAP"] == rows[0]["AP_car"] == rows[1]["AP_tree"] == "nan"
    assert (rows[1]["AP_car"], rows[1]["loss"], rows[1]["lr"]) == ("0.7123", "35.21", "5.12e-05")


def test_without_validation_data_the_csv_has_no_columns_for_it():
    assert history.columns(("car",), validated=False)[:3] == ["epoch", "loss", "lr"]
    assert "mAP" not in history.columns(("car",), validated=False)


def test_the_line_of_an_epoch_says_everything():
    assert history.line(VALIDATED, 80, 723) == (
        "epoch 2/80  loss 35.21 (cls 30.00 loc 5.00 reg 0.21)  lr 5.1e-05  54.1 img/s  data wait 3 %"
        "  mAP 0.712  val loss 3.90  eta 12:03"
    )
    assert "mAP" not in history.line(TRAINED, 80, 723)
    assert "eta" not in history.line(VALIDATED, 2, 0)
    assert "mAP n/a" in history.line({**VALIDATED, "mAP": None}, 80, 1)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (723, "12:03"), (3723, "1:02:03")])
def test_clock(seconds, text):
    assert history.clock(seconds) == text


def test_status_has_numbers_and_null(tmp_path):
    status = StatusLog(tmp_path)
    history.report_status(status, TRAINED, 80, 100.5)
    history.report_status(status, {**VALIDATED, "validation_loss": float("inf")}, 80, 50.0)
    lines = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "status.json").open()]
    first, second, metrics = lines
    assert list(first)[:6] == ["epoch", "max_epoch", "time_per_epoch", "eta", "date", "time"]
    assert (first["epoch"], first["max_epoch"], first["status"]) == (1, 80, "RUNNING")
    assert (first["time_per_epoch"], first["eta"]) == ("0:01:02.300000", "0:01:40.500000")
    assert first["graphical"] == {
        "loss": 35.21,
        "learning_rate": 5.12e-05,
        "mean average precision": None,
        "validation_loss": None,
    }
    assert second["kpi"] == {"mean average precision": 0.7123}
    assert metrics["message"] == "Evaluation metrics generated."
    assert metrics["graphical"] == {"validation loss": None, "mean average precision": 0.7123}


def test_curves_are_a_picture(tmp_path):
    history.draw_curves(tmp_path / "curve.png", [TRAINED, VALIDATED, {**TRAINED, "epoch": 3}], "ssd_resnet18")
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.size == (1100, 650)
