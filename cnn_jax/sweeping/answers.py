"""What the finished runs of an experiment say: one answer for each pair of arms, or why there is none yet."""

from collections.abc import Sequence
from dataclasses import dataclass

from cnn_jax.sweeping.arm_results import ArmResult
from cnn_jax.sweeping.intervals import Mean, paired_difference
from cnn_jax.sweeping.learning import judge
from cnn_jax.sweeping.question import ARM, Arm, Experiment, without

NOISE = "no difference beyond the noise of the seeds"
ONE_SEED = "one seed says nothing about the noise"
NOT_FINISHED = "no seed of both is finished"
DIVERGED = "not comparable: diverged with every seed"
NOT_DONE = "not comparable: not done learning"
UNKNOWN = "not comparable: the curves have too few points to tell whether it was done learning"


@dataclass(frozen=True)
class Comparison:
    """An arm and its reference, both trained with one recipe.

    test, train, gap: other - reference of the error on the test part, on the training part, and of test - train,
      points, over the seeds that both have; None where there are none.
    verdict: "better", "worse", or why it is neither. why: details, or "".
    """

    field: str
    reference: Arm
    arm: Arm
    test: Mean | None
    train: Mean | None
    gap: Mean | None
    verdict: str
    why: str = ""

    @property
    def differences(self) -> str:
        """The differences in words."""
        told = [
            f"{part} error {told_difference(one)}"
            for part, one in (("test", self.test), ("training", self.train))
            if one
        ]
        return ", ".join(told)


def compare(experiment: Experiment, results: Sequence[ArmResult]) -> list[Comparison]:
    """Returns each pair of arms that the experiment compares."""
    by_name = {result.arm.name: result for result in results}
    return [
        compare_pair(field, by_name[reference.name], by_name[arm.name]) for field, reference, arm in experiment.pairs()
    ]


def compare_pair(field: str, reference: ArmResult, other: ArmResult) -> Comparison:
    """Returns the answer of two arms about a field."""
    test, train, gap = (
        paired_difference(getattr(reference, values), getattr(other, values))
        for values in ("test_errors", "train_errors", "gaps")
    )
    return Comparison(field, reference.arm, other.arm, test, train, gap, *verdict(test, reference, other))


def verdict(test: Mean | None, reference: ArmResult, other: ArmResult) -> tuple[str, str]:
    """Returns (verdict on a difference of test errors, why not more): an arm must be done learning to be worse."""
    if test is None:
        diverged = [one.arm.name for one in (reference, other) if one.diverged and not one.runs]
        return (DIVERGED, " and ".join(diverged)) if diverged else (NOT_FINISHED, "")
    if test.count < 2:
        return ONE_SEED, ""
    states = {one.arm.name: judge(one) for one in (reference, other)}
    if test.is_noise:
        names = [name for name, state in states.items() if state is not None and not state.is_done]
        return NOISE, f"but not done learning: {' and '.join(names)}" if names else ""
    worse, better = (other, reference) if test.mean > 0 else (reference, other)
    state = states[worse.arm.name]
    if state is None:
        return UNKNOWN, f"{worse.arm.name}: set log.every to less"
    if not state.is_done:
        return NOT_DONE, f"{worse.arm.name}: {state.told(states[better.arm.name])}"
    return ("worse" if test.mean > 0 else "better"), ""


def told_difference(difference: Mean) -> str:
    """Returns "+1.23 points (+0.80 to +1.66)"."""
    text = f"{difference.mean:+.2f} points"
    return text if difference.count < 2 else f"{text} ({difference.low:+.2f} to {difference.high:+.2f})"


def answer(comparisons: Sequence[Comparison], seeds: int) -> list[str]:
    """Returns a sentence for each pair of arms: the verdict over all recipes, the differences and their intervals."""
    pairs: dict[tuple[str, str, str], list[Comparison]] = {}
    for one in comparisons:
        pairs.setdefault((one.field, one.reference.without_recipe, one.arm.without_recipe), []).append(one)
    return [sentence(pair, seeds) for pair in pairs.values()]


def sentence(pair: Sequence[Comparison], seeds: int) -> str:
    """Returns the answer of one pair of arms, from its answers with each recipe."""
    verdicts = list(dict.fromkeys(one.verdict for one in pair))
    if len(pair) == 1:
        said = verdicts[0]
    elif len(verdicts) == 1:
        said = f"{verdicts[0]}, with each recipe"
    else:
        said = "the recipes do not agree: " + ", ".join(f"{one.verdict} with {one.arm.recipe}" for one in pair)
    told = []
    for one in pair:
        parts = [part for part in (one.differences, one.why) if part]
        if one.test is not None and one.test.count < seeds:
            parts.append(
                f"only {one.test.count} of {seeds} pairs are finished: failed runs are left out, not counted as bad"
            )
        if parts:
            told.append((f"{one.arm.recipe}: " if len(pair) > 1 else "") + "; ".join(parts))
    return "; ".join([f"{subject(pair[0])}: {said}", *told]) + "."


def subject(one: Comparison) -> str:
    """Returns what is compared, such as "depth=20: residual=False for True"."""
    if one.field == ARM:
        return f"{one.arm.without_recipe} for {one.reference.without_recipe}"
    name = one.field.split(".")[-1]
    value, beside = (
        arm.changes[one.field] if arm.changes[one.field] != "" else "none" for arm in (one.arm, one.reference)
    )
    common = without(one.arm, one.field).removesuffix(one.arm.recipe).removesuffix(", ")
    return ": ".join(filter(None, (common, f"{name}={value} for {beside}")))
