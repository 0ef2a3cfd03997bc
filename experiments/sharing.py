"""What is sharing weights worth: should a unit see the whole image, a window, or a window with weights that all share?

Hypothesis: windows are better than whole images, and shared weights better than own ones, at equal connections with far
fewer parameters, and at equal parameters by more (LeCun 1989, Net-2 to Net-5: 87, 88.5, 94 and 98.4% of the digits
right; LeCun et al. 1998, section II, has the reasons).

Three networks have about 67,000 parameters: the multi-layer perceptron, the locally connected network and the
convolutional network with four times its channels. The fourth is the convolutional network with as many channels, and
so as many multiplications, as the locally connected one. Digits of 16x16, 539 for training, 1,078 for the test.
"""

from cnn_jax.sweeping.question import ARM, Arm, Experiment, two_recipes

SMALL = {"data.train": "30%", "data.validation": "10%", "data.test": "60%", "log.every": "5 steps"}


def get_experiment(dataset: str = "digits", full: bool = False) -> Experiment:
    small = dataset == "digits"
    fixed = {"eval.train_part": True, "data.image_size": (16, 16), "data.augment": ("pad_crop:1",)}
    fixed |= SMALL if small else {}
    return Experiment(
        arms=(
            Arm("locally connected", f"local:{dataset}", fixed),
            Arm("fully connected", f"mlp:{dataset}", fixed | {"model.hidden_sizes": (252,)}),
            Arm("convolution", f"local:{dataset}", fixed | {"model.sharing": "full"}),
            Arm("wide convolution", f"local:{dataset}", fixed | {"model.sharing": "full", "model.channels": (34, 66)}),
        ),
        compare=(ARM,),
        figures=("cost", "curves"),
        search=("optim.learning_rate", (0.03, 0.1)),
        recipes=two_recipes(60) if small else {},
    )
