import pytest

from cnn_jax.core.errors import UserError, check, check_choice, check_folder, near


def test_the_near_match_is_named_and_a_far_one_is_not():
    assert near("resnt50", ["lenet5", "resnet50"]) == "; did you mean 'resnet50'?"
    assert near("xyzzy", ["lenet5", "resnet50"]) == ""
    assert near("lenet5", []) == ""
    assert near(None, {"none": 1}) == "; did you mean 'none'?"  # values that are not strings, options that are keys


def test_a_value_must_be_one_of_its_options():
    check_choice("pool", "max", ("max", "average"))
    with pytest.raises(UserError, match=r"^pool is 'maks', but must be one of max, average; did you mean 'max'\?$"):
        check_choice("pool", "maks", (name for name in ("max", "average")))


def test_a_failed_condition_is_a_users_error():
    check(True, "not raised")
    with pytest.raises(UserError, match=r"^the message$"):
        check(False, "the message")


def test_a_users_error_is_a_value_error():
    assert issubclass(UserError, ValueError)


@pytest.mark.parametrize(
    "folder", ["gs://bucket/run", "s3://bucket", "hdfs://host:9000/a", "file:///tmp/a", "GS:/bucket"]
)
def test_a_url_is_not_a_folder(folder):
    with pytest.raises(UserError, match=r"--workdir is '.*', but must be a folder: its URL is not read"):
        check_folder("--workdir", folder)


@pytest.mark.parametrize("folder", ["", "runs/a", "/tmp/a", "~/a", "a:b", "runs/12:30/a", "C:/runs", "a//b"])
def test_a_path_is_a_folder(folder):
    check_folder("--workdir", folder)


def test_similar_names_are_distinguished():
    from cnn_jax.core.errors import near

    assert near("caf\u00e9", ["cafe\u0301"]) == (
        "; did you mean 'cafe\\u0301', the same letters in another Unicode normal form?"
    )
    assert near("mnist", ["mnist"]) == "; did you mean 'mnist'?"
