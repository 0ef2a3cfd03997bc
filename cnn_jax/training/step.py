"""The training step as pure functions on plain arrays.

A network is split once into a static graph and trees of arrays; the step merges them inside `jax.jit`. So the host
does no work per layer, the state can be donated, and everything that a run needs to resume is in `TrainState`.

Parameters and BatchNorm: in bfloat16, parameters and the optimizer stay float32, and so do biases, BatchNorm and their
gradients. Kernels are rounded where they are used, and so are their gradients: several devices add those up in
bfloat16. With gradient accumulation every micro-batch is normalized by its own statistics
and updates the running averages in turn. The exponential moving average covers parameters and statistics alike; the
statistics of a mean of weights (SWA) are recomputed. So evaluation never mixes averaged weights with statistics of
others.

Frozen parameters and the statistics of frozen layers are a tree of their own: no gradient, no momentum and no moving
average of them exist, and nothing writes to them. Their layers compute as in evaluation.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from cnn_jax.core import trees
from cnn_jax.data import augment
from cnn_jax.eval.steps import Batch, example_losses, gather, label_ranks, scores
from cnn_jax.nn import cpu, remat
from cnn_jax.nn.graph import Graph
from cnn_jax.parallel import mesh
from cnn_jax.training.averages import EMA, SWA
from cnn_jax.training.schedules import Plateau, Schedule

Tree = Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that changes during training, and the seed. Keys derive from it and `step`."""

    step: jax.Array  # int32: steps done
    seed: jax.Array  # uint32: an argument of the step, so that one compiled program serves all seeds
    params: Tree  # those that are trained, float32
    stats: Tree  # BatchNorm statistics that follow the training, float32
    frozen: Tree  # all other parameters and statistics, float32
    opt_state: Tree
    ema: Tree  # {"params", "stats"}: the average of `training.averages`; or None
    plateau: Plateau
    sums: Tree  # of the training metrics since they were last read, and the learning rate of the last step
    failed: jax.Array  # int32: the first step whose loss or gradient was not finite, or 0; nothing changes after it


class Keys(NamedTuple):
    """Keys of one step."""

    dropout: jax.Array
    augmentation: jax.Array


def zero_sums() -> Tree:
    """Returns the sums of the training metrics at zero, and the last learning rate."""
    names = ("loss", "correct", "examples", "gradient_norm", "steps", "learning_rate")
    return {name: jnp.zeros((), jnp.float32) for name in names}


def create_state(
    params: Tree,
    stats: Tree,
    optimizer: optax.GradientTransformation,
    *,
    frozen: Tree | None = None,
    ema: bool,
    seed: Any = 0,
) -> TrainState:
    """Returns the state before the first step; `seed` is that of augmentation and dropout."""
    return TrainState(
        step=jnp.int32(0),
        seed=jnp.uint32(seed),
        params=params,
        stats=stats,
        frozen=frozen or {},
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.copy, {"params": params, "stats": stats}) if ema else None,
        plateau=Plateau.start(),
        sums=zero_sums(),
        failed=jnp.int32(0),
    )


def with_auxiliary(scores: Any, loss: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Returns (total loss, logits) for what a network gives in training.

    That is logits, or (logits, logits of auxiliary classifiers, their weight): then the total is
    loss(logits) + weight * the sum of their losses.
    """
    logits, auxiliary, weight = scores if isinstance(scores, tuple) else (scores, (), 0.0)
    total = loss(logits)
    for other in auxiliary:
        total += weight * loss(other)
    return total, logits


def make_loss(
    network: Graph,
    *,
    mean: Any,
    std: Any,
    augmentations: Sequence[str] = (),
    losses: Callable[[jax.Array, jax.Array], jax.Array] = example_losses,
) -> Callable[..., tuple[jax.Array, tuple[Tree, jax.Array]]]:
    """Returns (parameters, statistics, frozen, batch with images, `make_keys`) -> (loss, (new statistics, top-1 hits)).

    The first three are those of a `TrainState`.

    `mean` and `std` normalize images in [0, 1]. The loss counts auxiliary classifiers, the hits do not. Of two mixed
    examples the loss is the mean of both labels' losses, weighted by their shares; a hit is one of the own label.

    Args:
      losses: (scores float32 [B, K], labels int [B]) -> the loss of each example, [B].
    """

    @cpu.fast(network.kernels)
    @remat.blocks(network.remat)
    def loss_fn(
        params: Tree, stats: Tree, frozen: Tree, batch: Batch, keys: Keys
    ) -> tuple[jax.Array, tuple[Tree, jax.Array]]:
        images = augment.augment(keys.augmentation, batch["image"], batch["position"], augmentations)
        images, own_share = augment.mix(keys.augmentation, images, batch["position"], augmentations)

        def mean_loss(logits: jax.Array) -> jax.Array:
            own = losses(logits, batch["label"])
            if own_share is not None:
                own = own_share * own + (1 - own_share) * losses(logits, augment.partners(batch["label"]))
            return own.mean()

        model = nnx.merge(network.train, params, stats, frozen)
        loss, logits = with_auxiliary(scores(network, model, images, mean, std, rngs=keys.dropout), mean_loss)
        correct = jnp.sum(label_ranks(logits, batch["label"]) == 0)
        return loss, (trees.part_like(nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)), stats), correct)

    return loss_fn


def make_keys(seed: jax.Array, step: jax.Array) -> Keys:
    """Returns the keys of the step after `step`: one of dropout, and one that augmentation folds positions into."""
    key = jax.random.key(seed)
    return Keys(dropout=jax.random.fold_in(jax.random.fold_in(key, 1), step), augmentation=jax.random.fold_in(key, 2))


def make_train_step(
    loss_fn: Callable,
    optimizer: optax.GradientTransformationExtraArgs,
    schedule: Schedule,
    *,
    accumulation: int = 1,
    unrolled: bool = False,
    average: EMA | SWA | None = None,
    checks_updates: bool = False,
    shardings: Tree = None,
    rounded: Collection[str] = (),
) -> Callable[[TrainState, Batch, Batch | None], TrainState]:
    """Returns the jitted step (state, batch, resident images or None) -> state; it donates the state.

    The batch holds "image" uint8 [B, H, W, C] and "label" int32 [B], or "index" int32 [B] into the resident ones, and
    "position" uint32 [B]. A step whose loss, gradient or update is not finite changes nothing but `sums` and `failed`,
    so that the state before it can be looked at; all steps after it change nothing.

    Args:
      loss_fn: of `make_loss`.
      accumulation: splits the batch into that many equal parts and averages their gradients. unrolled: they are written
        out one after another, which takes longer to compile than a loop.
      average: of the weights.
      checks_updates: of an optimizer that can make an update of finite gradients that is not finite: then it counts.
      shardings: of the state that is returned; None: as XLA chooses.
      rounded: names of the parameters that the network rounds to bfloat16; see `mesh.gather`.
    """
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)

    def accumulated(params: Tree, stats: Tree, frozen: Tree, batch: Batch, keys: Keys) -> Any:
        """`value_and_grad` over micro-batches, one after another."""
        # Strided parts: each keeps its share of every device's examples.
        parts = jax.tree.map(lambda x: x.reshape(-1, accumulation, *x.shape[1:]).swapaxes(0, 1), batch)

        def one(carry: Any, part: Any) -> Any:
            stats, total = carry
            i, micro_batch = part
            own = keys._replace(dropout=jax.random.fold_in(keys.dropout, i))
            (loss, (stats, correct)), grads = value_and_grad(params, stats, frozen, micro_batch, own)
            return (stats, jax.tree.map(jnp.add, total, (loss, correct, grads))), None

        zero = (jnp.float32(0), jnp.int32(0), jax.tree.map(jnp.zeros_like, params))
        unroll = accumulation if unrolled else 1
        (stats, (loss, correct, grads)), _ = jax.lax.scan(
            one, (stats, zero), (jnp.arange(accumulation), parts), unroll=unroll
        )
        return (loss / accumulation, (stats, correct)), jax.tree.map(lambda g: g / accumulation, grads)

    def train_step(state: TrainState, batch: Batch, resident: Batch | None) -> TrainState:
        batch = gather(batch, resident)
        keys = make_keys(state.seed, state.step)
        gradient = accumulated if accumulation > 1 else value_and_grad
        params = state.params if shardings is None else mesh.gather(state.params, shardings.params, rounded)
        (loss, (stats, correct)), grads = gradient(params, state.stats, state.frozen, batch, keys)
        if shardings is not None:
            grads = mesh.scatter(grads, shardings.params)

        learning_rate = schedule(state.step) * state.plateau.scale
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params, learning_rate=learning_rate)
        params = optax.apply_updates(state.params, updates)

        ema = state.ema
        if average is not None:
            ema = average.update(state.step, ema, {"params": params, "stats": stats})
        size, norm = batch["label"].shape[0], optax.tree.norm(grads)
        running = state.failed == 0
        new = dict(loss=loss * size, correct=correct, examples=size, gradient_norm=norm, steps=1)
        sums = {name: state.sums[name] + jnp.where(running, value, 0) for name, value in new.items()}
        sums["learning_rate"] = learning_rate
        good = running & jnp.isfinite(loss) & jnp.isfinite(norm)
        if checks_updates:
            good &= jnp.isfinite(optax.tree.norm(updates))
        failed = jnp.where(running & ~good, state.step + 1, state.failed)
        after = replace(state, step=state.step + 1, params=params, stats=stats, opt_state=opt_state, ema=ema, frozen={})
        kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), after, replace(state, frozen={}))
        return replace(kept, frozen=state.frozen, sums=sums, failed=failed)

    return jax.jit(train_step, donate_argnums=0, out_shardings=shardings)
