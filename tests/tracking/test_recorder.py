import json

import numpy as np
import pytest

from cnn_jax.core.errors import UserError
from cnn_jax.tracking.recorder import Recorder, read_jsonl, scalars


def test_records_are_lines_of_json_in_the_order_of_writing(tmp_path):
    with Recorder(tmp_path, step=0) as recorder:
        recorder.write("train", 10, 0.5, loss=1.25, images_per_second=None)
        recorder.write("validation", 20, 1.0, error=0.5, class_accuracy=[1.0, 0.0])
    assert read_jsonl(tmp_path / "metrics.jsonl") == [
        {"kind": "train", "step": 10, "epoch": 0.5, "loss": 1.25, "images_per_second": None},
        {"kind": "validation", "step": 20, "epoch": 1.0, "error": 0.5, "class_accuracy": [1.0, 0.0]},
    ]


def test_numbers_that_are_not_finite_stay_valid_json(tmp_path):
    with Recorder(tmp_path, step=0) as recorder:
        recorder.write("validation", 1, 1.0, loss=float("nan"), class_accuracy=[float("nan"), 1.0])

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    record = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert record["loss"] == "nan" and record["class_accuracy"] == ["nan", 1.0]
    assert np.isnan(float(record["loss"]))


def test_resuming_truncates_the_records_to_the_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"kind": "train", "step": step} for step in (1, 2, 3)] + [{"kind": "test", "step": 2}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "tr')
    with Recorder(tmp_path, step=2) as recorder:
        recorder.write("train", 3, 1.0, loss=0.5)
    assert [record["step"] for record in read_jsonl(path)] == [1, 2, 3]
    assert read_jsonl(path)[-1]["loss"] == 0.5


def test_a_damaged_line_in_the_middle_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "train", "step": 1}\n{"st\n{"kind": "train", "step": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged: line 2 is not a record, '{\"st'"):
        read_jsonl(path)


def test_a_record_of_an_evaluation_has_no_matrix():
    metrics = {"error": 0.5, "class_accuracy": np.array([0.123456789, 1.0]), "confusion": np.eye(2)}
    assert scalars(metrics) == {"error": 0.5, "class_accuracy": [0.123457, 1.0]}
