import json
import re

import numpy as np
import pytest
from PIL import Image

from cnn_jax.reporting import curves
from run_folders import make


def run(folder, *, errors, losses=(2.0, 1.0, 0.5)):
    """Writes the folder of a run whose epochs have these validation errors."""
    make(folder)
    records = [dict(kind="train", step=i, epoch=i, loss=loss, error=loss / 4) for i, loss in enumerate(losses, 1)]
    records += [dict(kind="validation", step=i, epoch=i, loss=1.0, error=error) for i, error in enumerate(errors, 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def colors_of(path):
    with Image.open(path) as picture:
        return set(map(tuple, np.asarray(picture.convert("RGB")).reshape(-1, 3)))


def test_each_run_has_its_own_color_and_the_page_its_numbers(tmp_path, call):
    first = run(tmp_path / "a" / "first", errors=(0.5, 0.125, 0.25))
    second = run(tmp_path / "b" / "second", errors=(0.75,))
    blue, orange, green = (31, 119, 180), (255, 127, 14), (44, 160, 44)
    printed = call("report", first, second, f"--curves={tmp_path / 'curves.html'}")
    assert printed.out.strip() == str(tmp_path / "curves.html") and printed.err == ""
    found = colors_of(tmp_path / "curves.png")
    assert {blue, orange} <= found and green not in found
    page = (tmp_path / "curves.html").read_text()
    rows = [re.findall("<td>(.*?)</td>", row) for row in re.findall("<tr>(.*?)</tr>", page, re.DOTALL)]
    assert ["a/first", "resnet34", "3", "12.50", "2", ""] in rows and [
        "b/second",
        "resnet34",
        "3",
        "75.00",
        "1",
        "",
    ] in rows
    assert 'src="data:image/png;base64,' in page


def test_a_run_without_records_is_left_out(tmp_path, call):
    first, empty = run(tmp_path / "first", errors=(0.5,)), tmp_path / "empty"
    empty.mkdir()
    printed = call("report", first, empty, f"--curves={tmp_path / 'curves.png'}")
    assert printed.err == f"{empty}: left out, it has no records of training\n"
    assert not (tmp_path / "curves.html").exists()


def test_more_than_ten_runs_have_distinct_colors():
    found = {tuple(np.round(color, 3)) for color in curves.colors(curves.MOST)}
    assert len(found) == curves.MOST and len(set(curves.colors(10))) == 10


@pytest.mark.parametrize(
    ("flag", "message"),
    [("--curves=x.jpg", "must end in .png or .html"), ("--curves=no/x.png", "no")],
)
def test_a_mistake_in_curves_gets_one_message(refused, tmp_path, flag, message):
    run(tmp_path / "first", errors=(0.5,))
    assert message in refused("report", "first", flag, cwd=tmp_path)
