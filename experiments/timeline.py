"""What did twenty years of convolutional networks bring, under one budget?

Hypothesis: each network has a lower error than the ones before it, and from 2013 on not by more parameters: global
average pooling, reductions and shortcuts bring more for each multiplication (LeCun et al. 1998; Krizhevsky et al. 2012;
Zeiler and Fergus 2013; Lin et al. 2013; Simonyan and Zisserman 2014; Szegedy et al. 2014; He et al. 2016; Iandola et
al. 2016).

All networks see the same examples for the same number of epochs, each with the optimizer and the image size of its own
recipe and a learning rate of its own. The networks for ImageNet see enlarged images. NiN, VGG, GoogLeNet and SqueezeNet
have batch normalization, which is younger than the first three: without it, they learn too slowly for such a budget.

Digits, 539 for training and 1,078 for the test, are too easy for a network to need what came after LeNet-5: they show
what the networks cost. `timeline:cifar10` asks it of photographs, with networks of fewer channels; the full grid has
the paper's channels and 60 epochs.
"""

from cnn_jax.sweeping.question import ARM, Arm, Experiment, two_recipes

SMALL = {"data.train": "30%", "data.validation": "10%", "data.test": "60%", "log.every": "5 steps"}
BATCH = {"model.norm": "batch"}
# Year of publication, the changes that fit two cores, and those of every grid.
NETWORKS = {
    "lenet5": (1998, {}, {}),
    "alexnet": (2012, {"model.width": 0.25}, {}),
    "zfnet": (2013, {"model.width": 0.25}, {}),
    "nin_cifar": (2013, {"model.width": 0.5}, {"model.head": "gap"} | BATCH),
    "vgg11": (2014, {"model.width": 0.25}, BATCH),
    "googlenet": (2014, {"model.width": 0.25}, BATCH),
    "resnet20": (2015, {}, {}),
    "squeezenet1_1": (2016, {"model.width": 0.5}, BATCH),
}


def get_experiment(dataset: str = "digits", full: bool = False) -> Experiment:
    small = dataset == "digits"
    fixed = {"eval.train_part": True} | (SMALL if small else {})
    if not small:
        fixed |= {"duration": "60 epochs" if full else "10 epochs", "optim.schedule.name": "cosine"}
        fixed |= {"optim.schedule.warmup": "1 epochs", "log.every": "50 steps", "eval.every": "2 epochs"}
    return Experiment(
        arms=tuple(
            Arm(network, f"{network}:{dataset}", fixed | always | ({} if full else narrow), year=year)
            for network, (year, narrow, always) in NETWORKS.items()
        ),
        compare=(ARM,),
        search=("optim.learning_rate", (0.01, 0.03, 0.1)),
        recipes=two_recipes(40) if small else {},
        figures=("timeline", "curves"),
    )
