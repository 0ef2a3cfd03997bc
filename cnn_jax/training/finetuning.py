"""Transfer learning: which parameters are trained, and which of them come from a trained network.

The regimes of config.trainable:

    full        everything: for plenty of data
    partial:K   the last K stages and the head: for data in between
    head        the head alone: for few data
    a regex     the parameters whose whole names match
"""

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from cnn_jax.analysis.layer_table import stage_of
from cnn_jax.core import trees
from cnn_jax.core.errors import UserError, check
from cnn_jax.data.dataset import SEEN
from cnn_jax.pretrained.channels import with_channels

HEAD = r"(head|auxiliary_\w+)/.*"  # auxiliary classifiers are heads on earlier maps
REGIMES = "full, head, partial:K (the last K stages and the head), or a regular expression over parameter names"
TAKES = "all, frozen (only what is not trained), or a regular expression over parameter names"


def stages(order: Sequence[str], params: Any) -> dict[str, list[str]]:
    """Returns the layers with parameters of each stage of a network, without the head, from the images on.

    A stage is what the papers' tables call by one number: conv5_1 to conv5_3 of VGG, inception_4a to 4e. A
    normalization with a name of its own belongs to what is before it.

    Args: as in `select`.
    """
    with_parameters = {name.split("/")[0] for name, _ in trees.named_leaves(params)}
    found: dict[str, list[str]] = {}
    for layer in order:
        if layer not in with_parameters:
            continue
        stage = re.sub(r"_reduce$|(?<=\d)[a-z]$", "", stage_of(layer))
        stage = list(found)[-1] if found and stage.startswith("norm") else stage
        found.setdefault(stage, []).append(layer)
    return found


@dataclass(frozen=True)
class Trainable:
    """What is trained of a network.

    mask: a nested dict of bools, for each parameter whether it is trained.
    frozen_layers: names of the layers that compute as in evaluation in training, too: BatchNorm whose parameters are
      frozen, and all layers before the first one that is trained, so that nothing random is left in them.
    """

    mask: Any
    frozen_layers: tuple[str, ...]

    @property
    def is_all(self) -> bool:
        return all(jax.tree.leaves(self.mask))

    @property
    def has_frozen_features(self) -> bool:
        """Whether nothing before the head is trained."""
        names = [name for name, trained in trees.named_leaves(self.mask) if trained]
        return all(name.startswith("head/") for name in names)


def select(regime: str, order: Sequence[str], params: Any) -> Trainable:
    """Returns what config.trainable means for a network.

    Args:
      order: the names of its layers in a row, without the head. params: its parameters, a nested dict of anything.

    Raises:
      UserError: the regime matches no parameter, or a regex all of them, or there are not so many stages.
    """
    names = [name for name, _ in trees.named_leaves(params)]
    field = f"config.trainable (one of {REGIMES})"
    by_stage = stages(order, params)
    told = f"config.trainable is {regime!r}, but this network has"
    if regime == "full":
        return Trainable(jax.tree.map(lambda _: True, params), ())
    if regime == "head":
        pattern = HEAD
        check(bool(by_stage), f"{told} parameters in its head only: say 'full'")
    elif regime.startswith("partial"):
        most = len(by_stage) - 1
        count = int(found[1]) if (found := re.fullmatch(r"partial:(\d{1,4})", regime)) else 0
        check(
            0 < count <= most,
            f"{told} {len(by_stage)} stages with parameters before its head ({', '.join(by_stage)}): say partial:K, "
            f"with K from 1 to {most}"
            if most > 0
            else f"{told} no two stages with parameters before its head: say 'head' or 'full'",
        )
        layers = [name for stage in list(by_stage)[-count:] for name in by_stage[stage]]
        pattern = rf"({'|'.join(map(re.escape, layers))})/.*|{HEAD}"
    else:
        pattern = regime
    mask = trees.match(params, pattern, field=field)
    check(
        not all(jax.tree.leaves(mask)),
        f"config.trainable is {regime!r}, which freezes none of the {len(names)} parameters: say 'full' for that",
    )
    trained = [name for name, is_trained in trees.named_leaves(mask) if is_trained]
    frozen = [name for name, is_trained in trees.named_leaves(mask) if not is_trained]
    first = next((i for i, layer in enumerate(order) if any(name.startswith(f"{layer}/") for name in trained)), None)
    beginning = order[:first]
    parents = {name.rpartition("/")[0] for name in frozen} - {name.rpartition("/")[0] for name in trained}
    return Trainable(mask, (*beginning, *sorted(parents)))


def layer_rules(decay: float, order: Sequence[str], params: Any) -> tuple[tuple[str, float], ...]:
    """Returns rules (regex, factor) of learning rates: the head has 1, every stage before it `decay` times the next.

    See config.optim.layer_decay; `order` and `params` as in `select`.
    """
    if decay == 1:
        return ()
    return tuple(
        (rf"({'|'.join(map(re.escape, layers))})/.*", decay**distance)
        for distance, layers in enumerate(reversed(stages(order, params).values()), start=1)
    )


def adapt(config: Any, source: Any, given: Set[str]) -> dict[str, Any]:
    """Changes a configuration to that of a trained network that it is to start from; returns what it set, by field.

    Set are the fields of the network, and those of the data that say what it sees. Where a network was trained with a
    mean image, its mean color takes its place: other data may have other sizes.

    Args:
      source: a `pretrained.Pretrained`. given: dotted names of fields that stay, because somebody has set them.

    Raises:
      UserError: the source is another network.
    """
    ours, theirs = config.model.name, source.model["name"]
    check(
        ours == theirs,
        f"{source.name} is a {theirs}, but the configuration is of {ours}: name that network in the configuration, "
        f"--config=finetune:{theirs},{config.data.name}",
    )
    if "data.channels" in given:
        source = with_channels(source, config.data.channels)
    seen = {name: source.input[name] for name in SEEN}
    if given & {"data.normalize", "data.mean", "data.std"}:  # they belong together
        pass
    elif source.input["mean"] == [0] and source.input["std"] == [1]:
        seen |= {"normalize": "none", "mean": (), "std": ()}
    else:
        seen["normalize"] = "channel"
        for name in ("mean", "std"):
            values = np.asarray(source.input[name], np.float64)
            by_channel = values.mean(axis=tuple(range(values.ndim - 1)))
            seen[name] = [round(float(value), 6) for value in np.broadcast_to(by_channel, seen["channels"])]
    fields = {f"model.{name}": value for name, value in source.model.items()}
    fields |= {f"data.{name}": value for name, value in seen.items()} | {"init_from": source.name}
    changed = {}
    for field, value in fields.items():
        group, _, name = field.rpartition(".")
        place = config[group] if group else config
        value = tuple(value) if isinstance(value, list) else value
        if field not in given and (name not in place or place[name] != value):
            changed[field] = value
            with config.unlocked():
                place[name] = value
    return changed


@dataclass(frozen=True)
class Surgery:
    """What a network takes from another: names of parameters and statistics, and why the others are new."""

    taken: tuple[str, ...]
    new: Mapping[str, str]  # name -> reason
    left: tuple[str, ...]  # names in the source that have no place here


def plan(
    wanted: Mapping[str, tuple[int, ...]],
    source: Mapping[str, tuple[int, ...]],
    *,
    take: str,
    trained: set[str],
    classes: str,
    name: str,
) -> Surgery:
    """Returns what is taken from a source, what is new and what is left.

    Heads may differ: what does not fit of them is new. Everything else must fit.

    Args:
      wanted, source: name -> shape, of this network and of the source.
      take: config.take. trained: the names that are trained. classes: why the classes are others than those of the
        source; empty if they are the same. name: of the source, for messages.

    Raises:
      UserError: layers of the body are absent in the source or have other shapes; all of them are listed.
    """
    if take in ("all", "frozen"):
        chosen = {path for path in wanted if take == "all" or path not in trained}
    else:
        matches = trees.match(dict.fromkeys(wanted, 0), take, field=f"config.take (one of {TAKES})")
        chosen = {path for path, is_taken in matches.items() if is_taken}
    heads = sorted(path.rpartition("/")[0] for path in wanted if re.fullmatch(HEAD, path))
    # One whose scores are distances to fixed codes ends with a hidden layer.
    scores = {layer for layer in heads if layer.endswith("/classifier")} or set(heads[-1:])
    taken, new, misfits = [], {}, []
    for path, shape in wanted.items():
        is_head = re.fullmatch(HEAD, path) is not None
        if path not in chosen:
            new[path] = f"config.take is {take!r}"
        elif classes and path.rpartition("/")[0] in scores:
            new[path] = classes
        elif source.get(path) == shape:
            taken.append(path)
        elif is_head:
            new[path] = "absent there" if path not in source else f"{list(source[path])} there, {list(shape)} here"
        else:
            misfits.append(f"  {path}: {list(source[path]) if path in source else 'absent'} there, {list(shape)} here")
    if misfits:
        raise UserError(
            f"{name} does not fit this network, {len(misfits)} of {len(wanted)} arrays:\n" + "\n".join(misfits) + "\n"
            "Take the network and the fields that it was made with, or leave layers out with --config.take=REGEX."
        )
    check(bool(taken), f"nothing is taken from {name}: config.take is {take!r}")
    return Surgery(tuple(taken), new, tuple(path for path in source if path not in wanted))
