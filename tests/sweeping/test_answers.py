import re
from dataclasses import replace

import pytest

from cnn_jax.sweeping.answers import answer, compare
from cnn_jax.sweeping.plan import tasks
from cnn_jax.sweeping.question import ARM, load, with_recipes
from sweeps import ERRORS, SMALL, read, sweep


def answers(folder, errors, seeds=3, **options):
    experiment, planned = sweep(folder, errors, **options)
    return answer(compare(experiment, read(planned, folder)), seeds)


def test_the_answer_has_the_paired_difference_and_its_interval(tmp_path):
    # Differences of 5, 4 and 6 points: 5 +- t(0.975, 2) / sqrt(3) = 4.3027 / 1.7321.
    assert answers(tmp_path, ERRORS) == [
        "width=0.05 for 0.1: worse; test error +5.00 points (+2.52 to +7.48), "
        "training error +2.50 points (+1.26 to +3.74)."
    ]


def test_whole_networks_are_named_in_the_answer(tmp_path):
    experiment = replace(load(str(SMALL)), compare=(ARM,))
    (sentence,) = answers(tmp_path, ERRORS, experiment=experiment)
    assert sentence.startswith("width=0.05 for width=0.1: worse; test error +5.00 points")


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        (((0.10, 0.12, 0.10), (0.11, 0.11, 0.11)), "no difference beyond the noise of the seeds; test error"),
        (((0.10, 0.12), (0.11, 0.13)), "no difference beyond the noise"),  # equal by chance
        (((0.10, 0.12, 0.11), (0.05, 0.07, 0.06)), ": better; test error -5.00 points"),
        (((0.10,), (0.20,)), r"one seed says nothing about the noise; test error \+10.00 points, training"),
        (((0.10,), ()), "no seed of both is finished"),
        (((0.10, 0.12, 0.11), (0.05, 0.07)), r"only 2 of 3 pairs are finished: failed runs are left out, not counted"),
    ],
)
def test_the_answer_says_why_there_is_none(tmp_path, errors, words):
    (sentence,) = answers(tmp_path, dict(zip(ERRORS, errors, strict=True)), len(errors[0]))
    assert re.search(words, sentence), sentence


def test_no_arm_is_worse_that_was_not_done_learning(tmp_path):
    (sentence,) = answers(tmp_path / "a", ERRORS, falls={"width=0.05": 2.0})
    # 16% and 11% at the end: 5 points at 2 points each 0.04 epochs.
    assert sentence.startswith("width=0.05 for 0.1: not comparable: not done learning; test error +5.00 points")
    assert "width=0.05: its training error still fell by 2.0 points over the last fifth of 0.2 epochs" in sentence
    assert "the other's is 0.1 epochs away" in sentence
    (sentence,) = answers(
        tmp_path / "b", dict(zip(ERRORS, reversed(ERRORS.values()), strict=True)), falls={"width=0.1": 2}
    )
    assert "not done learning" in sentence and "width=0.1: its" in sentence
    (sentence,) = answers(tmp_path / "c", ERRORS, falls={"width=0.1": 2.0})  # the better one may become better yet
    assert ": worse; " in sentence


def test_equal_arms_that_were_not_done_learning_are_named(tmp_path):
    errors = dict.fromkeys(ERRORS, (0.10, 0.12, 0.11))
    (sentence,) = answers(tmp_path, errors, falls=dict.fromkeys(ERRORS, 3.0))
    assert "no difference beyond" in sentence and "but not done learning: width=0.1 and width=0.05" in sentence


def test_an_arm_near_guessing_was_not_trained(tmp_path):
    (sentence,) = answers(tmp_path, ERRORS | {"width=0.05": (0.89, 0.9, 0.91)})  # of ten classes
    assert (
        "not comparable: not done learning" in sentence
        and "it learned little in 0.2 epochs: its training error is 90.0%" in sentence
    )


def test_an_arm_that_always_diverged_is_reported(tmp_path):
    experiment, planned = sweep(tmp_path, {"width=0.1": ERRORS["width=0.1"]})
    for task in tasks(planned, range(3), tmp_path):
        if task.arm.name == "width=0.05":
            task.fail("not finite: error: the loss is nan in step 3")
    (sentence,) = answer(compare(experiment, read(planned, tmp_path)), 3)
    assert sentence == "width=0.05 for 0.1: not comparable: diverged with every seed; width=0.05."


def test_an_answer_must_hold_with_every_recipe(tmp_path):
    recipes = {"slow": {"optim.learning_rate": 0.01}, "fast": {"optim.learning_rate": 0.02}}
    small = replace(load(str(SMALL)), recipes=recipes)
    experiment = replace(small, arms=tuple(with_recipes(small)))
    assert [arm.name for arm in experiment.arms] == [f"{arm}, {recipe}" for recipe in recipes for arm in ERRORS]

    def told(folder, **errors):
        chosen = {f"{arm}, {recipe}": values for recipe in recipes for arm, values in errors[recipe].items()}
        return answers(tmp_path / folder, chosen, experiment=experiment)

    (sentence,) = told("a", slow=ERRORS, fast=ERRORS)
    assert sentence.startswith("width=0.05 for 0.1: worse, with each recipe; slow: test error +5.00 points")
    assert "; fast: test error +5.00 points" in sentence
    (sentence,) = told("b", slow=ERRORS, fast=dict(zip(ERRORS, reversed(ERRORS.values()), strict=True)))
    assert sentence.startswith("width=0.05 for 0.1: the recipes do not agree: worse with slow, better with fast; slow")
