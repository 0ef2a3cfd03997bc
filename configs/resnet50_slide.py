"""ResNet-50 with the recipe of the lecture's slide; with `name`, the other depths.

    cnn_jax train --config=resnet50_slide                bundled digits, enlarged to 16x16
    cnn_jax train --config=resnet50_slide:imagenet2012   ImageNet, 224x224

The slide: BatchNorm after every convolution, initial values of He et al., SGD with momentum 0.9, a learning rate of 0.1
that is divided by 10 when the validation error plateaus, batches of 256, weight decay 1e-5, no dropout. That is section
3.4 of He et al. 2016 except for the weight decay, which is 1e-4 there: --config.optim.weight_decay=1e-4. The slide
gives no duration: the 600,000 steps are the paper's. The recipe was not run on ImageNet here.
"""

from ml_collections import ConfigDict

from cnn_jax.config import recipes


def get_config(dataset: str = "digits", name: str = "resnet50") -> ConfigDict:
    config = recipes.get_config("resnet50", dataset, name)
    config.recipe = "slide on ResNet, after He et al. 2016, section 3.4"
    config.model.zero_gamma = False
    config.optim.learning_rate = 0.1
    config.optim.momentum = 0.9
    config.optim.weight_decay = 1e-5
    config.optim.decay_rule = ".*"
    config.optim.schedule.name = "plateau"
    config.optim.schedule.warmup = "0 steps"
    if dataset == "digits":  # 1,258 images make only 4 batches of 256: keep batches of 64
        config.eval.every = "1 epochs"  # the plateau counts validations
    else:
        config.batch_size = 256
    if dataset == "imagenet2012":
        config.duration = "600000 steps"
        config.data.train_crop = "random"
        config.data.train_resize = (256, 480)
        config.data.augment = ("flip", "pca_color:0.1")
    return config
