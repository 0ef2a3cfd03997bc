"""The evaluation of any pretrained network on any data set."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnn_jax.config import fields
from cnn_jax.config.compare import flat
from cnn_jax.config.configuration import Configuration
from cnn_jax.config.datasets import DATASETS
from cnn_jax.core.errors import UserError, check, check_folder
from cnn_jax.core.files import expanded
from cnn_jax.core.rules import check_fields
from cnn_jax.data import sources
from cnn_jax.data.check import check_data
from cnn_jax.data.dataset import FILES, PARTS, SEEN, Dataset, Relabeled
from cnn_jax.data.loader import Split
from cnn_jax.data.sources import custom, folder, table
from cnn_jax.data.splits import Splits
from cnn_jax.eval import evaluation, protocols
from cnn_jax.eval import steps as eval_steps
from cnn_jax.eval.results import Predictions
from cnn_jax.nn import graph
from cnn_jax.parallel import mesh
from cnn_jax.pretrained import predictor
from cnn_jax.pretrained.source import Pretrained


def configuration(source: Pretrained, data: str, overrides: Sequence[str] = ()) -> Configuration:
    """Returns the configuration that evaluates a network on data, preprocessed as the network's own test images were.

    Args:
      data: a data set, as behind the colon of a recipe; a folder of class folders in train, val and test, or of class
        folders alone, which are one test part; or a table of pictures, with splits or as one test part.
      overrides: FIELD=VALUE of changes, such as eval.protocol=flip.

    Raises:
      UserError: no such data set, folder or field, or a value of another type.
    """
    check(bool(data), "--data is empty: name a data set, such as cifar10, or a folder of pictures")
    here = None if data in DATASETS else _files(data)
    try:
        config: Any = fields.get_config(data if here is None else "folder" if here.is_dir() else "table")
    except UserError as error:
        raise UserError(f"--data: {error}") from None
    config.model = dict(name=source.model["name"])
    seen = {name: source.input[name] for name in SEEN}
    config.data.update({**seen, "image_size": tuple(seen["image_size"]), "normalize": "none", "mean": (), "std": ()})
    config.data.update({"train_crop": "resize", "augment": ()})  # nothing is trained
    if here:
        config.data.dir = str(here)
    changed = Configuration(config.lock()).with_overrides(overrides)
    if here and not any(changed.config.data[part] for part in PARTS):
        has_parts = folder.has_parts(here) if here.is_dir() else table.has_splits(here, changed.config.data.columns)
        if not has_parts:
            changed.config.data.update({"train": "0%", "validation": "0%", "test": "100%"})
    for field in sorted(changed.overridden & {f"data.{name}" for name in ("channels", "normalize", "mean", "std")}):
        raise UserError(f"--config.{field} comes with {source.name}, which was trained so: leave it out")
    if changed.config.eval.protocol not in ("single", "flip") and "data.placement" not in changed.overridden:
        changed.config.data.placement = "stream"  # because it keeps all pixels of an image
    return changed


def _files(data: str) -> Path | None:
    """Returns the folder or table that --data names, or None for the name of a data set."""
    path = expanded(data)
    if path.is_dir() or (path.is_file() and table.is_table(path)):
        return path
    check_folder("--data", data)
    is_path = data.startswith(("/", ".", "~")) or table.is_table(path)
    check(not is_path, f"--data is {data!r}, but there is no such folder or table")
    return None


def score(
    source: Pretrained, dataset: str | Mapping[str, Any], *, part: str = "test", batch_size: int = 256, **data: Any
) -> dict:
    """Returns the metrics of a network on a part of a data set; see `evaluation.evaluate`.

    Images are preprocessed as the network's own test images were, in single views.

    Args:
      dataset: see `configuration`; or a mapping, see `custom.open_parts`, whose labels count the classes of the
        network unless it has "classes". part: train, validation or test.
      **data: fields of config.data, such as dir.

    Raises:
      UserError: the data set is not there, or its classes are not those of the network.
    """
    opener = None
    if not isinstance(dataset, str):
        given = {"classes": source.classes or range(source.num_classes)} | dict(dataset)
        dataset, opener = custom.GIVEN, partial(custom.open_given, given, (part,))
    config = configuration(source, dataset).config
    config.data.update(data)
    parts, _ = _open(source, config, part, opener)
    network, params, stats = graph.split(predictor.build(source))
    devices = mesh.make_mesh(1)
    return evaluation.evaluate(
        eval_steps.make_eval_step(network, **_normalization(source)),
        params,
        stats,
        parts[part],
        mesh.replicate(parts[part].resident, devices),
        batch_size=batch_size,
        put=partial(mesh.put, mesh=devices),
    )


def predict(source: Pretrained, config: Any, part: str = "test") -> dict[str, Predictions]:
    """Returns a network's predictions for a part and, if there is one, for the validation part, which calibrates it.

    Args:
      config: from `configuration`; config.eval.protocol sets the views.

    Raises:
      UserError: the data set is not there, its classes are not those of the network, or the protocol does not fit.
    """
    check(jax.process_count() == 1, "--data evaluates in one process, but this is one of several: start one")
    check_fields(fields.FIELDS.items(), partial(fields.get, config))
    check_data(config)
    protocols.check_protocol(config)
    parts, classes = _open(source, config, part)
    network, params, stats = graph.split(predictor.build(source))
    devices = mesh.make_mesh(1)
    protocol = config.eval.protocol
    step = eval_steps.make_predict_step(network, **_normalization(source), mirror=protocols.is_mirrored(protocol))

    def of(name: str) -> Predictions:
        probabilities, labels = evaluation.predict(
            step,
            params,
            stats,
            parts[name],
            mesh.replicate(parts[name].resident, devices),
            protocol=protocol,
            scales=protocols.scales(config),
            batch_size=-(-config.eval.batch_size // devices.size) * devices.size,
            put=partial(mesh.put, mesh=devices),
        )
        return Predictions(
            network=source.name,
            data=config.data.dir if config.data.source in FILES else config.data.name,
            part=name,
            protocol=protocols.describe(flat(config.to_dict())),
            class_names=classes,
            probabilities=probabilities,
            labels=labels,
            split=parts[name],
        )

    return {name: of(name) for name in dict.fromkeys((part, "validation")) if name in parts}


def _normalization(source: Pretrained) -> dict[str, Any]:
    return {name: np.asarray(source.input[name], np.float32) for name in ("mean", "std")}


def _open(
    source: Pretrained, config: Any, part: str, opener: Callable[[Any, int], Dataset] | None = None
) -> tuple[dict[str, Split], list[str]]:
    """Returns the parts of a data set with labels that count the classes as the network does, and their names."""
    splits = Splits(config.data, seed=0, open_dataset=partial(sources.open_dataset, needed=(), opener=opener))
    check(part in splits.parts, f"part is {part!r}, but {config.data.name!r} has {', '.join(splits.parts)}")
    names, classes = list(splits.class_names), source.classes
    if classes is None and len(names) == source.num_classes:
        classes = names  # the network has no names: assume the same order
    check(
        classes is not None and set(names) <= set(classes),
        f"{source.name} tells {source.num_classes} classes apart ({', '.join((classes or ['?'])[:5])}, ...), but "
        f"{splits.name!r} has {len(names)} ({', '.join(names[:5])}, ...): take another network, or fine-tune this one",
    )
    assert classes is not None
    if names != list(classes):
        twice = [name for name in names if classes.count(name) > 1]
        check(not twice, f"{source.name} has several classes called {', '.join(twice[:5])}: they cannot be matched")
        new_label = np.array([classes.index(name) for name in names])
        for split in splits.parts.values():
            split.source = Relabeled(split.source, new_label)
    return splits.parts, list(classes)
