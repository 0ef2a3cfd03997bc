"""The evaluation of any pretrained network on any data set."""

from typing import Any

import numpy as np

from cnn_jax.config import fields
from cnn_jax.core.errors import check
from cnn_jax.data.splits import Splits
from cnn_jax.eval import evaluation
from cnn_jax.eval import steps as eval_steps
from cnn_jax.nn import graph
from cnn_jax.parallel import mesh
from cnn_jax.pretrained import predictor
from cnn_jax.pretrained.source import Pretrained


def score(source: Pretrained, dataset: str, *, part: str = "test", batch_size: int = 256, **data: Any) -> dict:
    """Returns the metrics of a network on a part of a data set; see `evaluation.evaluate`.

    The images are seen as the network's own test images were, in single views.

    Args:
      dataset: as behind the colon of a recipe: digits, cifar10, folder. part: train, validation or test.
      **data: fields of config.data, such as dir.

    Raises:
      UserError: the data set is not there, or its classes are not those of the network.
    """
    config: Any = fields.get_config(dataset).data
    seen = {name: source.input[name] for name in ("image_size", "channels", "test_crop", "test_resize")}
    config.update({**seen, "image_size": tuple(seen["image_size"]), "normalize": "none", "mean": (), "std": (), **data})
    splits = Splits(config, seed=0)
    check(part in splits.parts, f"part is {part!r}, but {dataset!r} has {', '.join(splits.parts)}")
    names, classes = list(splits.class_names), source.classes
    check(
        len(names) == source.num_classes and (classes is None or sorted(classes) == sorted(names)),
        f"{source.name} tells {source.num_classes} classes apart ({', '.join((classes or ['?'])[:5])}, ...), but "
        f"{dataset!r} has {len(names)} ({', '.join(names[:5])}, ...): take another network, or fine-tune this one",
    )
    check(
        classes is None or list(classes) == names,
        f"the classes of {source.name} have another order than those of {dataset!r}: rename the class folders",
    )
    network, params, stats = graph.split(predictor.build(source))
    normalization: dict[str, Any] = {name: np.asarray(source.input[name], np.float32) for name in ("mean", "std")}
    devices = mesh.make_mesh(1)
    split = splits.parts[part]
    return evaluation.evaluate(
        eval_steps.make_eval_step(network, **normalization),
        params,
        stats,
        split,
        mesh.replicate(split.resident, devices),
        batch_size=batch_size,
        put=lambda batch: mesh.put(batch, devices),
    )
