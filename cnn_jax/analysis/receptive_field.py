"""Finds which part of the input each array of a traced function sees, from its jaxpr. Nothing is computed.

Along each spatial axis of the input, the element at position i of an array sees the interval
[low + i*jump, high + i*jump] (without the borders of the image: padding counts as seen; and without the few numbers
of the whole image that group normalization and squeeze-and-excitation scale maps by). Its receptive field is
high - low + 1, and its jump is the distance in the input between two neighbors, the product of all strides (Araujo,
Norris, Sim 2019, "Computing Receptive Fields of Convolutional Neural Networks"). Where paths meet (additions,
concatenations), an element sees all that it sees on any of them.

An operation that mixes the positions of an axis (a reduction, a matrix product of a flattened map, an unknown
operation) sees all that these positions see together, and its result has no jump along this axis: a linear layer on 5x5
positions has the receptive field of the 5x5 convolution that computes the same.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jax.extend import core


@dataclass(frozen=True)
class Seen:
    """What the first position of an array sees of one axis of the input, and the distance to the second's.

    `jump` is None where there are no positions along the axis, and all elements see the same.
    """

    low: int = 0
    high: int = 0
    jump: int | None = 1


@dataclass(frozen=True)
class ReceptiveField:
    """What an array sees: `seen` for each spatial axis of the input; `moves` for each axis of the array.

    An entry of `moves` is the axis of the input along which the array's axis moves, or None.
    """

    seen: tuple[Seen, ...]
    moves: tuple[int | None, ...]

    @property
    def size(self) -> tuple[int, ...]:
        """The receptive field along each spatial axis of the input."""
        return tuple(seen.high - seen.low + 1 for seen in self.seen)

    @property
    def jump(self) -> tuple[int | None, ...]:
        return tuple(seen.jump for seen in self.seen)

    def windows(self, axis: int, *, size: int = 1, start: int = 0, stride: int = 1) -> "ReceptiveField":
        """Returns the field of windows along an axis: the first begins at `start` and sees `size` positions."""
        source = self.moves[axis]
        if source is None:
            return self
        low, high, jump = (old := self.seen[source]).low, old.high, old.jump or 0
        new = Seen(low + start * jump, high + (start + size - 1) * jump, jump * stride)
        return replace(self, seen=(*self.seen[:source], new, *self.seen[source + 1 :]))

    def mixed(self, shape: Sequence[int], axes: Iterable[int]) -> "ReceptiveField":
        """Returns the field after the positions of `axes` of an array of `shape` have been mixed."""
        seen, moves = list(self.seen), list(self.moves)
        for axis in axes:
            source = moves[axis]
            if source is not None:
                old = seen[source]
                seen[source] = Seen(old.low, old.high + (shape[axis] - 1) * (old.jump or 0), None)
                moves[axis] = None
        return ReceptiveField(tuple(seen), tuple(moves))


def receptive_fields(closed: core.ClosedJaxpr, inputs: Sequence[ReceptiveField | None]) -> list[ReceptiveField | None]:
    """Returns what each output of a jaxpr sees, None for one that does not depend on the input.

    Args:
      inputs: what each input of the jaxpr sees: `image` for the images, None for parameters.
    """
    return _run(closed.jaxpr, inputs)


def image(spatial_axes: int) -> ReceptiveField:
    """Returns the field of images [B, *spatial, C]: each position sees itself."""
    return ReceptiveField((Seen(),) * spatial_axes, (None, *range(spatial_axes), None))


def _run(jaxpr: core.Jaxpr, inputs: Sequence[ReceptiveField | None]) -> list[ReceptiveField | None]:
    fields: dict[Any, ReceptiveField | None] = dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> ReceptiveField | None:
        return None if isinstance(atom, core.Literal) else fields.get(atom)

    for eqn in jaxpr.eqns:
        given = [read(atom) for atom in eqn.invars]
        if any(field is not None for field in given):
            fields.update(zip(eqn.outvars, _outputs(eqn, given), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _outputs(eqn: Any, given: list[ReceptiveField | None]) -> list[ReceptiveField | None]:
    name = eqn.primitive.name
    shapes = [atom.aval.shape for atom in eqn.invars]
    if name in ELEMENTWISE:
        whole = _union(zip(given, shapes, strict=True), len(eqn.outvars[0].aval.shape))
        return [whole] * len(eqn.outvars)
    if name == "cond":  # forms of one computation for several platforms
        return _run(eqn.params["branches"][0].jaxpr, given[1:])
    if name == "optimization_barrier":
        return given
    if eqn.params.get("name") == "whole_image":  # of nn.layers
        return [None] * len(eqn.outvars)
    inner = next((eqn.params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in eqn.params), None)
    if name in NESTED and inner is not None:
        return _run(getattr(inner, "jaxpr", inner), given)
    if name in RULES and all(field is None for field in given[1:]) and given[0] is not None:
        return [RULES[name](given[0], eqn)] * len(eqn.outvars)
    if name == "dot_general" and given[0] is None and given[1] is not None:
        return [_product(given[1], eqn, operand=1)]
    if name == "concatenate":
        axis = eqn.params["dimension"]
        parts = [field and field.mixed(shape, [axis]) for field, shape in zip(given, shapes, strict=True)]
        return [_union(zip(parts, shapes, strict=True), len(shapes[0]))]
    # Everything else mixes all of its inputs.
    fields = [field.mixed(shape, range(len(shape))) for field, shape in zip(given, shapes, strict=True) if field]
    union = _union(((ReceptiveField(field.seen, ()), ()) for field in fields), 0)
    return [union and ReceptiveField(union.seen, (None,) * len(out.aval.shape)) for out in eqn.outvars]


def _union(fields: Iterable[tuple[ReceptiveField | None, Sequence[int]]], rank: int) -> ReceptiveField | None:
    """Returns the field of an array whose elements see all that the elements of every (field, shape) see."""
    present = [(field, shape) for field, shape in fields if field is not None]
    if not present:
        return None
    # An axis of the input along which the arrays move differently has no positions anymore.
    for source in range(len(present[0][0].seen)):
        ways = {(field.seen[source].jump, _axis_of(field, source)) for field, _ in present}
        if len(ways) > 1:
            present = [
                (field.mixed(shape, [axis for axis in (_axis_of(field, source),) if axis is not None]), shape)
                for field, shape in present
            ]
    seen = tuple(
        Seen(min(one.low for one in axis), max(one.high for one in axis), axis[0].jump)
        for axis in zip(*(field.seen for field, _ in present), strict=True)
    )
    moves = next((field.moves for field, _ in present if len(field.moves) == rank), (None,) * rank)
    return ReceptiveField(seen, moves)


def _axis_of(field: ReceptiveField, source: int) -> int | None:
    return field.moves.index(source) if source in field.moves else None


# ---------------------------------------------------------------- one rule for each operation that moves positions


def _convolution(field: ReceptiveField, eqn: Any) -> ReceptiveField:
    params, kernel = eqn.params, eqn.invars[1].aval.shape
    lhs, rhs, out = params["dimension_numbers"]
    shape = eqn.invars[0].aval.shape
    stretched = [axis for axis, by in zip(lhs[2:], params["lhs_dilation"], strict=True) if by != 1]
    field = field.mixed(shape, [*lhs[:2], *stretched])
    for i, axis in enumerate(lhs[2:]):
        reach = (kernel[rhs[2 + i]] - 1) * params["rhs_dilation"][i] + 1
        low, _ = params["padding"][i]
        field = field.windows(axis, size=reach, start=-low, stride=params["window_strides"][i])
    moves: list[int | None] = [None] * len(out)
    for source, target in zip(lhs, out, strict=True):
        moves[target] = field.moves[source]
    return replace(field, moves=tuple(moves))


def _window(field: ReceptiveField, eqn: Any) -> ReceptiveField:
    params, shape = eqn.params, eqn.invars[0].aval.shape
    field = field.mixed(shape, [axis for axis, by in enumerate(params["base_dilation"]) if by != 1])
    for axis, size in enumerate(params["window_dimensions"]):
        reach = (size - 1) * params["window_dilation"][axis] + 1
        low, _ = params["padding"][axis]
        field = field.windows(axis, size=reach, start=-low, stride=params["window_strides"][axis])
    return field


def _pad(field: ReceptiveField, eqn: Any) -> ReceptiveField:
    config = eqn.params["padding_config"]
    field = field.mixed(eqn.invars[0].aval.shape, [axis for axis, (_, _, inside) in enumerate(config) if inside])
    for axis, (low, _, _) in enumerate(config):
        field = field.windows(axis, start=-int(low))  # NumPy's, in jnp.pad
    return field


def _slice(field: ReceptiveField, eqn: Any) -> ReceptiveField:
    strides = eqn.params["strides"] or (1,) * len(field.moves)
    for axis, (start, stride) in enumerate(zip(eqn.params["start_indices"], strides, strict=True)):
        field = field.windows(axis, start=start, stride=stride)
    return field


def _reduce(field: ReceptiveField, eqn: Any) -> ReceptiveField:
    return _without(field, eqn, eqn.params["axes"])


def _squeeze(field: ReceptiveField, eqn: Any) -> ReceptiveField:
    return _without(field, eqn, eqn.params["dimensions"])


def _without(field: ReceptiveField, eqn: Any, axes: Sequence[int]) -> ReceptiveField:
    field = field.mixed(eqn.invars[0].aval.shape, axes)
    return replace(field, moves=tuple(move for axis, move in enumerate(field.moves) if axis not in axes))


def _transpose(field: ReceptiveField, eqn: Any) -> ReceptiveField:
    return replace(field, moves=tuple(field.moves[axis] for axis in eqn.params["permutation"]))


def _broadcast(field: ReceptiveField, eqn: Any) -> ReceptiveField:
    old, new, targets = eqn.invars[0].aval.shape, eqn.params["shape"], eqn.params["broadcast_dimensions"]
    field = field.mixed(old, [axis for axis, target in enumerate(targets) if old[axis] != new[target]])
    moves: list[int | None] = [None] * len(new)
    for axis, target in enumerate(targets):
        moves[target] = field.moves[axis]
    return replace(field, moves=tuple(moves))


def _reshape(field: ReceptiveField, eqn: Any) -> ReceptiveField:
    """Axes that stay as they are keep their positions; those that are merged or split mix them."""
    old, new = eqn.invars[0].aval.shape, eqn.params["new_sizes"]
    kept = {  # with as many elements before and after it as in the input
        axis: target
        for axis in range(len(old))
        for target in range(len(new))
        if old[axis] == new[target] > 1 and math.prod(old[:axis]) == math.prod(new[:target])
    }
    field = field.mixed(old, set(range(len(old))) - set(kept))
    moves: list[int | None] = [None] * len(new)
    for axis, target in kept.items():
        moves[target] = field.moves[axis]
    return replace(field, moves=tuple(moves))


def _product(field: ReceptiveField, eqn: Any, operand: int = 0) -> ReceptiveField:
    contracted, batch = (axes[operand] for axes in eqn.params["dimension_numbers"])
    field = field.mixed(eqn.invars[operand].aval.shape, contracted)
    rank = len(eqn.outvars[0].aval.shape)
    free = [field.moves[axis] for axis in range(len(field.moves)) if axis not in (*contracted, *batch)]
    others = (None,) * (rank - len(batch) - len(free))
    shared = tuple(field.moves[axis] for axis in batch)
    return replace(field, moves=(*shared, *free, *others) if operand == 0 else (*shared, *others, *free))


REDUCTIONS = ("sum", "max", "min", "prod", "and", "or", "xor")
# Rules for operations of which only the first operand sees the image.
RULES: dict[str, Callable[[ReceptiveField, Any], ReceptiveField]] = {
    "conv_general_dilated": _convolution,
    "pad": _pad,
    "slice": _slice,
    "squeeze": _squeeze,
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "dot_general": _product,
    **dict.fromkeys(("reduce_window", "reduce_window_max", "reduce_window_min", "reduce_window_sum"), _window),
    **{f"reduce_{name}": _reduce for name in REDUCTIONS},
    "argmax": _reduce,
    "argmin": _reduce,
}
# Operations that call another jaxpr with the same operands.
NESTED = (
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "remat",
    "remat2",
    "checkpoint",
    "custom_jvp_call",
    "custom_vjp_call",
)
ELEMENTWISE = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp clz convert_element_type copy copy_p
    cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt imag integer_pow is_finite le lgamma log
    log1p logistic lt max min mul name ne neg nextafter not or population_count pow real reduce_precision rem round
    rsqrt select_n sharding_constraint shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt
    square stop_gradient sub tan tanh xor
""".split()  # noqa: SIM905, a list would take a page
