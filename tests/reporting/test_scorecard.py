import pytest

from cnn_jax.reporting.scorecard import scorecard
from run_folders import grouped, make, seeds


def lines(rows, **chosen):
    return [row for row in rows if all(row[name.replace("_", " ")] == value for name, value in chosen.items())]


def test_the_scorecard_sets_the_same_network_data_and_view_side_by_side(tmp_path):
    # The medians of the errors, each by itself.
    groups, _ = grouped(seeds(tmp_path, 0.27, 0.26, 0.31))
    rows = scorecard(groups)
    (row,) = lines(rows, network="resnet34", fields="", view="1 crop")
    assert row["ours: top-1 error, %"] == pytest.approx(27) and row["ours: top-5 error, %"] == pytest.approx(8)
    assert row["ours: seeds"] == 3 and "center crop of 224x224" in row["ours: evaluation"]
    assert (row["torchvision: top-1 error, %"], row["torchvision: top-5 error, %"]) == (26.686, 8.58)
    assert row["torchvision: evaluation"] == "shorter side to 256, center crop of 224"
    paper = [name for name in row if name.startswith("paper: ")]
    assert len(paper) == 4 and all(row[name] is None for name in paper)  # the paper has ten crops: another line
    (ten,) = lines(rows, network="resnet34", fields="", view="10 crops")
    assert (ten["paper: top-1 error, %"], ten["paper: top-5 error, %"]) == (24.52, 7.46)
    assert ten["paper: source"] == "He et al. 2016, Table 3" and ten["ours: seeds"] is None
    assert sum(row["ours: seeds"] is not None for row in rows) == 1
    assert all(list(other) == list(row) for other in rows)


def test_ours_match_a_published_number_only_if_setups_are_equal(tmp_path):
    folders = [
        make(tmp_path / "plain", changes={"model.residual": False}, changed={"residual": False, "zero_gamma": True}),
        make(tmp_path / "narrow", changes={"model.width": 0.5}, changed={"width": 0.5}),
        make(tmp_path / "whole", changes={"data.test_crop": "resize"}),
        make(tmp_path / "other data", changes={"data.name": "digits"}),
        make(tmp_path / "old", changes={"seed": 7, "batch_size": 100}, starts=(), step=100),
    ]
    groups, _ = grouped(folders)
    rows = scorecard(groups)
    mine = {row["fields"]: row for row in rows if row["ours: seeds"] and row["data set"] == "imagenet2012"}
    alone = [name for name in rows[0] if name.startswith(("paper: ", "torchvision: "))]
    assert set(mine) == {"residual=False", "width=0.5", "", "not recorded"}
    assert mine[""]["view"] == "whole image"
    assert all(row[name] is None for row in mine.values() for name in alone)
    (digits,) = lines(rows, data_set="digits")
    assert digits["ours: seeds"] == 1 and all(digits[name] is None for name in alone)
    (plain,) = lines(rows, network="resnet34", fields="residual=False", view="10 crops")
    assert plain["paper: top-1 error, %"] == 28.54


def test_two_groups_of_one_network_are_two_lines(tmp_path):
    folders = [make(tmp_path / name, changes={"ema_decay": decay}) for name, decay in (("a", 0.0), ("b", 0.9))]
    groups, _ = grouped(folders)
    first, second = lines(scorecard(groups), network="resnet34", fields="", view="1 crop")
    assert [row["ours: settings"] for row in (first, second)] == ["ema_decay=0.0", "ema_decay=0.9"]
    assert first["torchvision: top-1 error, %"] == 26.686 and second["torchvision: top-1 error, %"] is None


def test_a_variant_is_listed_with_the_network_that_it_equals(tmp_path):
    def run(name, network, **changed):
        changes = {"model.name": network} | {f"model.{field}": value for field, value in changed.items()}
        return make(tmp_path / name, changes=changes, changed=changed)

    folders = [
        run("grouped", "alexnet"),
        run("tower", "alexnet", variant="one_tower"),
        run("v1.5", "resnet50"),
        run("v1", "resnet50", variant="v1"),
        run("v1 of 34", "resnet34", variant="v1"),  # the same network as v1.5
    ]
    rows = [row for row in scorecard(grouped(folders)[0]) if row["ours: seeds"]]
    beside = {(row["network"], row["fields"]): row["torchvision: top-1 error, %"] for row in rows}
    assert beside == {
        ("alexnet", ""): None,
        ("alexnet", "variant=one_tower"): 43.478,
        ("resnet50", ""): 23.87,
        ("resnet50", "variant=v1"): None,
        ("resnet34", ""): 26.686,
    }
    papers = {(row["network"], row["fields"]): row["paper: top-1 error, %"] for row in rows}
    assert papers["resnet50", "variant=v1"] == 24.7 and papers["resnet50", ""] is None
