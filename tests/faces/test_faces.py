"""The commands verify and identify: their results for features with a known answer, and their messages."""

import contextlib
import json

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from cnn_jax.pretrained.features import Features
from experiments.faces import identify, verify


def embedded(features, labels, source="net"):
    features = np.asarray(features, np.float32)
    return Features(features, [f"{i}.png" for i in range(len(features))], list(labels), source)


@pytest.fixture(scope="module")
def people():
    """Six persons with four pictures each, features with noise around each person's own."""
    random = np.random.default_rng(0)
    centers = np.repeat(random.normal(size=(6, 8)), 4, axis=0)
    return embedded(centers + 0.7 * random.normal(size=centers.shape), np.repeat([*"abcdef"], 4))


# ---------------------------------------------------------------- verify


@pytest.mark.parametrize("kind", ["cosine", "euclidean"])
def test_verification_is_measured_on_all_pairs(people, kind, tmp_path):
    found, text = verify.measure(people, "faces", kind, tmp_path / "roc.png")
    x = people.features.astype(float)
    scores, same = [], []
    for i in range(24):
        for j in range(i):
            cosine = x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j])
            scores.append(cosine if kind == "cosine" else -np.linalg.norm(x[i] - x[j]))
            same.append(people.labels[i] == people.labels[j])
    scores, same = np.array(scores), np.array(same)
    assert found["AUC"] == pytest.approx(roc_auc_score(same, scores), abs=1e-9)
    assert (found["same pairs"], found["different pairs"], found["persons"]) == (36, 240, 6)
    distance = -scores if kind == "euclidean" else 1 - scores
    accepted = distance <= found["threshold"] + 1e-9
    assert found["false accepts"] == pytest.approx(accepted[~same].mean())
    assert found["false rejects"] == pytest.approx((~accepted)[same].mean())
    assert 0 < found["EER"] < 0.5 and 0 < found["EER, standard error"] < 0.2
    assert f"{found['EER']:.2%}" in text and "36 pairs of the same person" in text
    with Image.open(tmp_path / "roc.png") as picture:
        assert picture.size[0] == picture.size[1] > 500


@pytest.mark.parametrize(
    ("threshold", "decision"), [(0.5, "different persons"), (1.0, "the same person"), (2, "the same")]
)
def test_two_pictures_are_the_same_person_up_to_the_threshold(threshold, decision):
    found, text = verify.compare(embedded([[1, 0], [0, 2]], ["", ""]), "cosine", threshold)
    assert found["distance"] == 1 and decision in text and found["same"] == (decision != "different persons")


def test_without_a_threshold_nothing_is_decided():
    found, text = verify.compare(embedded([[3, 0], [0, 4]], ["", ""]), "euclidean", None)
    assert found["distance"] == 5 and "same" not in found and "--threshold=T decides" in text


@pytest.mark.parametrize(
    ("labels", "message"),
    [("abc", "one picture of each person"), ("aaa", "pictures of one person"), ("a", "one picture of each person")],
)
def test_pairs_of_both_kinds_are_needed(labels, message):
    with pytest.raises(ValueError, match=message):
        verify.measure(embedded(np.eye(3)[: len(labels)], labels), "faces", "cosine", None)


def test_without_enough_persons_there_is_no_standard_error():
    found, text = verify.measure(embedded([[1, 0], [1, 0.1], [0, 1]], "aab"), "faces", "cosine", None)
    assert found["EER"] == 0 and found["EER, standard error"] is None and "standard error" not in text


# ---------------------------------------------------------------- identify


def test_the_first_pictures_are_the_gallery_of_identification(people, tmp_path):
    found, text = identify.measure(people, "faces", "euclidean", None, first=2, plot=tmp_path / "cmc.png")
    right = np.zeros(6)
    for i in range(24):
        if i % 4 >= 2:
            near = [
                min(np.linalg.norm(people.features[i] - people.features[4 * k + j]) for j in range(2)) for k in range(6)
            ]
            right[sorted(range(6), key=lambda k: near[k]).index(i // 4) :] += 1
    np.testing.assert_allclose(found["CMC"], right / 12)
    assert (found["gallery"], found["queries"], found["rank-1"]) == (12, 12, found["CMC"][0])
    assert 0.4 < found["rank-1"] < 1 and f"{found['rank-1']:.2%}" in text and (tmp_path / "cmc.png").exists()


def test_beyond_the_threshold_nobody_is_named(people):
    without, _ = identify.measure(people, "faces", "euclidean", None, first=1, plot=None)
    for threshold in (0, 2.0, 1e9):
        found, _ = identify.measure(people, "faces", "euclidean", threshold, first=1, plot=None)
        assert found["right"] + found["wrong"] + found["nobody"] == pytest.approx(1)
        assert found["right"] <= without["rank-1"]
        assert (found["nobody"] == 1) == (threshold == 0)
    assert found["right"] == without["rank-1"] and found["nobody"] == 0


def test_a_query_is_named_by_the_nearest_picture_or_not_at_all():
    known = embedded([[0, 0], [10, 0], [0, 10]], ["ann", "bob", "bob"])
    queries = embedded([[1, 0], [0, 9], [60, 60]], ["", "", ""])
    found, text = identify.look_up(queries, known, "gallery", "euclidean", 5.0)
    assert [one["person"] for one in found["queries"]] == ["ann", "bob", None]
    assert found["queries"][1]["nearest"] == [{"person": "bob", "distance": 1.0}, {"person": "ann", "distance": 9.0}]
    assert "none of them" in text and "2 persons of gallery" in text
    always, _ = identify.look_up(queries, known, "gallery", "euclidean", None)
    assert [one["person"] for one in always["queries"]] == ["ann", "bob", "bob"]


def test_features_of_two_networks_are_not_compared():
    with pytest.raises(ValueError, match=r"g\.npz holds features of net, but --checkpoint is other"):
        identify.look_up(embedded([[1]], "a", "other"), embedded([[1]], "a"), "g.npz", "cosine", None)


@pytest.mark.parametrize(
    ("labels", "message"), [("aab", r"no picture is left to look for of b \(1\)"), ("aaa", "pictures of one person")]
)
def test_each_person_needs_a_picture_to_look_for(labels, message):
    with pytest.raises(ValueError, match=message):
        identify.measure(embedded(np.eye(3), labels), "faces", "cosine", None, first=1, plot=None)


# ---------------------------------------------------------------- command lines


NET = "--checkpoint=bundled:lenet5-digits"


@pytest.fixture
def command(capsys):
    """Runs verify or identify in a folder, and returns what it prints, or its message if it must fail."""

    def run(module, *arguments, cwd, code=0):
        with contextlib.chdir(cwd):
            found = module.main(list(arguments))
        out, err = capsys.readouterr()
        assert found == code, out + err
        return err if code else out

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory, people):
    folder = tmp_path_factory.mktemp("faces")
    random = np.random.default_rng(0)
    for name in ("ann/1", "ann/2", "bob/1", "bob/2"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(random.integers(0, 256, (28, 28), np.uint8)).save(folder / f"{name}.png")
    people.write(folder / "people.npz")
    return folder


def test_stored_features_need_no_network(command, folder, people, tmp_path):
    found = json.loads(command(verify, "people.npz", "--format=json", cwd=folder))
    assert found == verify.measure(people, "people.npz", "cosine", None)[0]
    told = command(
        identify, "people.npz", "--gallery=2", "--distance=euclidean", f"--plot={tmp_path}/c.png", cwd=folder
    )
    assert told.startswith("people.npz: 12 pictures looked for") and told.endswith("c.png\n")


def test_from_pictures_to_decisions(command, folder):
    assert "distance 0.0000 <= 0.1: the same person" in command(
        *(verify, "ann/1.png", "ann/1.png", NET, "--threshold=0.1"), cwd=folder
    )
    told = command(identify, "bob/*.png", "ann", ".", NET, "--format=json", cwd=folder)
    assert [one["person"] for one in json.loads(told)["queries"]] == ["bob", "bob", "ann", "ann"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((verify,), "name two pictures to compare"),
        ((verify, "ann/1.png"), "ann/1.png is a picture: FOLDER/PERSON/... is needed"),
        ((verify, "ann/1.png", "ann/2.png"), "name the trained network: --checkpoint=SOURCE"),
        ((verify, "ann/1.png", "ann"), "ann is a folder: two pictures are compared"),
        ((verify, "ann/*.png", "bob/1.png", NET), "two pictures are compared, but 3 match ann/*.png and bob/1.png"),
        ((verify, "ann/1.png", "bob/3.png", NET), "there is no file or folder 'bob/3.png'"),
        ((verify, "ann/1.png", "ann/2.png", "--threshold=near"), "--threshold: invalid float value: 'near'"),
        ((verify, "ann/1.png", "ann/2.png", "--threshold=nan"), "--threshold is nan, but must be a number from 0"),
        ((verify, "people.npz", "--threshold=1"), "of a folder it is measured"),
        ((verify, "nobody"), "'nobody' is not a folder of persons"),
        ((verify, "no.npz"), "there is no file 'no.npz'"),
        ((verify, "people.npz", "--plot=roc.pdf"), "ends in .png"),
        ((identify,), "name a picture and the folder"),
        ((identify, "people.npz", "--gallery=4"), "no picture is left to look for of a (4)"),
        ((identify, "people.npz", "--pixels"), "--pixels goes with pictures"),
        ((identify, "people.npz", "--distance=manhattan"), "manhattan"),
    ],
)
def test_mistake_gets_one_message(command, folder, arguments, message):
    told = command(*arguments, cwd=folder, code=2)
    assert message in told and told.startswith("error: ") and told.count("\n") == 1


def test_curve_that_cannot_be_written_is_a_storage_error(command, folder):
    assert "cannot be written" in command(verify, "people.npz", "--plot=no/such/roc.png", cwd=folder, code=74)


def test_unreadable_picture_is_left_out_on_request(command, folder, tmp_path):
    for name in ("ann/1", "ann/2", "bob/1", "bob/2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.png").write_bytes((folder / f"{name}.png").read_bytes())
    (tmp_path / "bob/3.png").write_bytes(b"no picture")
    assert "it is no JPEG, PNG" in command(verify, ".", NET, cwd=tmp_path, code=2)
    assert "left out: bob/3.png" in command(verify, ".", NET, "--on-error=skip", cwd=tmp_path, code=1)


@pytest.mark.parametrize(
    ("claim", "threshold", "decision"),
    [("ann", 1.0, "<= 1: ann"), ("bob", 1.0, "> 1: not bob"), ("ann", None, "decides")],
)
def test_a_claimed_person_is_compared_with_all_pictures(claim, threshold, decision):
    known = embedded([[0, 0], [3, 3], [9, 9]], ["ann", "ann", "bob"])
    picture = embedded([[3, 4]], [""])
    found, text = verify.check_claim(picture, known, "gallery", claim, "euclidean", threshold)
    assert decision in text and found["distance"] == pytest.approx(1.0 if claim == "ann" else 61**0.5)
    with pytest.raises(ValueError, match="--claim is 'eve', but the persons of gallery are ann, bob"):
        verify.check_claim(picture, known, "gallery", "eve", "euclidean", threshold)
    with pytest.raises(ValueError, match="cannot be compared"):
        verify.check_claim(embedded([[1, 1]], [""], "other"), known, "gallery", claim, "euclidean", None)
