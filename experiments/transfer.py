"""With few images of new classes, what should be trained of a network that knows other classes?

Hypothesis: with few data only the head (the lectures' regime of small data), with more the last stages, with enough of
it everything, started from the trained weights; training from scratch is behind all of them until data are plenty.
Early layers carry over best, and features of a distant task still help (Yosinski et al. 2014, sections 4.1 and 4.2).

The source is trained on classes 0 to 4 of a data set; the target has classes 5 to 9, with some training images of
each. All arms take the same number of steps with the same learning rate and augmentation, so the smallest sets are
seen often. The target's images of a run are drawn by its seed; all seeds start from one source. Digits are easy and
tell the arms apart at few images only: `transfer:cifar10` asks the same of photographs. There 400 steps
are too few to learn from scratch what 1,000 images of each class have to tell (see the training errors), so with many
images that arm says how fast a network learns, not how far it comes; the full grid takes 5,000.
"""

from cnn_jax.sweeping.question import Arm, Experiment

CLASSES = {
    "digits": tuple("0123456789"),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}
# Of the whole data sets, so that source and target normalize images in the same way.
STATISTICS = {
    "digits": {"data.mean": (0.306,), "data.std": (0.376,)},
    "cifar10": {
        "data.normalize": "channel",
        "data.mean": (0.491, 0.482, 0.447),
        "data.std": (0.247, 0.243, 0.262),
    },
}


def get_experiment(dataset: str = "digits", full: bool = False) -> Experiment:
    if dataset not in CLASSES:
        raise ValueError(f"this question is for {' and '.join(CLASSES)}, not for {dataset!r}")
    names = CLASSES[dataset]
    common = {"model.width": 1.0 if full else 0.5, "batch_size": 32, "optim.learning_rate": 0.02}
    common |= STATISTICS[dataset] | ({"data.image_size": (8, 8)} if dataset == "digits" else {})
    source = f"runs/sources/{dataset}-first-classes{'-full' if full else ''}"
    trained = {"digits": "20 epochs", "cifar10": "80 epochs" if full else "8 epochs"}[dataset]
    recipe = {"data.classes": names[:5], "duration": trained, "optim.schedule.name": "cosine"}
    first = Arm("source", f"resnet20:{dataset}", common | recipe)
    fixed = common | {"data.classes": names[5:], "duration": "5000 steps" if full else "400 steps"}
    fixed |= {"eval.every": "100 steps", "eval.train_part": True}
    images = {"digits": (8, 20, 64), "cifar10": (10, 30, 100, 300, 1000) if full else (10, 100, 1000)}[dataset]
    arms = []
    for count in images:
        for name, start, regime in (
            ("scratch", "", "full"),
            ("full", f"{source}@best", "full"),
            ("head", f"{source}@best", "head"),
            ("partial", f"{source}@best", "partial:1"),
        ):
            changes = {"data.images_per_class": count, "init_from": start, "trainable": regime}
            arms.append(Arm(f"{count} images, {name}", f"finetune:resnet20,{dataset}", fixed | changes))
    return Experiment(
        arms=tuple(arms),
        compare=("init_from", "trainable"),
        first={source: first},
        figures=("trend",),
        trend="data.images_per_class",
    )
