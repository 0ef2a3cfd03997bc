"""Writes a function of JAX as ONNX: each operation that the networks compute with becomes one of ONNX, or a few.

The function is traced for a batch of `BATCH` examples. That is a prime above every other size of a network, so that the
sizes that depend on the batch are the multiples of it, and any batch can take its place. What depends on no input is
computed here: a normalization becomes two constants.
"""

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal

from cnn_jax.core.errors import UserError, check

BATCH = 1_000_000_007
OPSET, IR_VERSION = 18, 8  # of 2022, which onnxruntime reads from 1.14 on

ELEMENTWISE = {
    **{"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min", "pow": "Pow"},
    **{"neg": "Neg", "exp": "Exp", "log": "Log", "tanh": "Tanh", "logistic": "Sigmoid", "sqrt": "Sqrt", "abs": "Abs"},
    **{"ge": "GreaterOrEqual", "gt": "Greater", "le": "LessOrEqual", "lt": "Less", "eq": "Equal", "not": "Not"},
    **{"stop_gradient": "Identity", "copy": "Identity"},
}
CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "remat", "checkpoint")


@dataclass(frozen=True)
class Value:
    """An array of the graph. spread: its array there has all of its shape, not 1 along axes that it is equal along."""

    name: str
    shape: tuple[int, ...]
    dtype: Any
    spread: bool = True


def to_onnx(
    function: Callable[[jax.Array], jax.Array], images: jax.ShapeDtypeStruct, *, names: tuple[str, str] = ("x", "y")
) -> Any:
    """Returns the `onnx.ModelProto` of a function of one array, for any batch.

    Args:
      images: shape without batch, and dtype. names: of the input and the output.

    Raises:
      UserError: onnx is not installed, or the function has an operation that is not written here.
    """
    try:
        onnx = importlib.import_module("onnx")
        importlib.import_module("onnx.numpy_helper")
    except ImportError:
        raise UserError("a .onnx needs the library onnx: pip install 'cnn-jax[onnx]'") from None
    traced = jax.make_jaxpr(function)(jax.ShapeDtypeStruct((BATCH, *images.shape), images.dtype))
    graph = Graph(onnx)
    batch = Value(names[0], (BATCH, *images.shape), images.dtype)
    (result,) = graph.run(traced.jaxpr, traced.consts, [batch])
    graph.node("Identity", graph.full(result), output=names[1])
    inputs, outputs = (
        onnx.helper.make_tensor_value_info(
            name,
            onnx.helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype)),
            ["b" if size == BATCH else size for size in value.shape],
        )
        for name, value in zip(names, (batch, result), strict=True)
    )
    made = onnx.helper.make_graph(graph.nodes, "network", [inputs], [outputs], graph.constants)
    opset = onnx.helper.make_opsetid("", OPSET)
    model = onnx.helper.make_model(made, opset_imports=[opset], ir_version=IR_VERSION, producer_name="cnn_jax")
    onnx.checker.check_model(model)
    return model


def of_batch(shape: Sequence[int]) -> bool:
    """Returns whether a shape depends on the batch."""
    return any(size and size % BATCH == 0 for size in shape)


class Graph:
    """The nodes of an ONNX graph while they are written. Arrays are of type `Value`, or np.ndarray if constant."""

    def __init__(self, onnx: Any):
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.batch: str | None = None  # the name of the batch's size, int64 [1]

    # ---------------------------------------------------------------- nodes

    def node(self, kind: str, *inputs: Any, output: str | None = None, **attributes: Any) -> str:
        """Adds a node; returns the name of its output."""
        name = output or f"{kind}_{len(self.nodes)}"
        names = [each if isinstance(each, str) else self.name(each) for each in inputs]
        self.nodes.append(self.onnx.helper.make_node(kind, names, [name], **attributes))
        return name

    def name(self, value: Any) -> str:
        """Returns the name of an array as it is in the graph."""
        return value.name if isinstance(value, Value) else self.constant(value)

    def constant(self, value: Any) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.array(value), name))
        return name

    def sizes(self, *sizes: int) -> str:
        """Returns the name of an int64 constant with sizes or axes."""
        return self.constant(np.asarray(sizes, np.int64))

    def full(self, value: Any) -> str:
        """Returns the name of an array with all of its shape."""
        if not isinstance(value, Value) or value.spread:
            return self.name(value)
        shape = self.sizes(*value.shape)
        if of_batch(value.shape):
            shape = self.node("Concat", *(self.batch if n == BATCH else self.sizes(n) for n in value.shape), axis=0)
        return self.node("Expand", value, shape)

    # ---------------------------------------------------------------- equations

    def run(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        """Writes the equations of a jaxpr; returns its outputs."""
        if self.batch is None:
            shape = self.node("Shape", inputs[0])
            self.batch = self.node("Slice", shape, self.sizes(0), self.sizes(1))
        found: dict[Any, Any] = dict(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
        found |= dict(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> Any:
            return np.asarray(atom.val, getattr(atom.aval, "dtype", None)) if isinstance(atom, Literal) else found[atom]

        for equation in jaxpr.eqns:
            outputs = self.equation(equation, [read(atom) for atom in equation.invars])
            found |= dict(zip(equation.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, equation: Any, inputs: list[Any]) -> list[Any]:
        """Writes one equation; returns its outputs."""
        kind, params, out = equation.primitive.name, equation.params, equation.outvars[0].aval
        if kind in CALLS:
            inner = params.get("call_jaxpr", params.get("jaxpr"))
            return self.run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), inputs)
        if kind == "cond" and not isinstance(inputs[0], Value):  # such as one form of a layer for each platform
            inner = params["branches"][int(inputs[0])]
            return self.run(inner.jaxpr, inner.consts, inputs[1:])
        if not any(isinstance(value, Value) for value in inputs) and not of_batch(out.shape):
            outputs = equation.primitive.bind(*map(jax.numpy.asarray, inputs), **params)
            return [np.asarray(each) for each in (outputs if equation.primitive.multiple_results else [outputs])]
        if kind in ("broadcast_in_dim", "select_n", "integer_pow") or kind in ELEMENTWISE or kind in self.FORMULAS:
            return [self.elementwise(kind, inputs, params, out)]
        write = getattr(self, f"write_{kind}", None)
        check(
            write is not None,
            f"the network computes with {kind!r}, which is not written as ONNX: a .stablehlo takes every network",
        )
        assert write is not None
        return [Value(write(inputs, params, out), out.shape, out.dtype)]

    # ---------------------------------------------------------------- operations on each element

    FORMULAS: Mapping[str, Callable[["Graph", Any], str]] = {
        "square": lambda graph, x: graph.node("Mul", x, x),
        "rsqrt": lambda graph, x: graph.node("Reciprocal", graph.node("Sqrt", x)),
        "expm1": lambda graph, x: graph.node("Sub", graph.node("Exp", x), np.ones((), x.dtype)),
    }

    def elementwise(self, kind: str, inputs: list[Any], params: Mapping[str, Any], out: Any) -> Value:
        """Writes what ONNX broadcasts by itself, so that a bias is not spread over the batch before it is added."""
        spread = any(isinstance(x, Value) and x.spread and x.shape == out.shape for x in inputs)
        if kind == "broadcast_in_dim":
            x, sizes = inputs[0], [1] * len(out.shape)
            for axis, size in zip(params["broadcast_dimensions"], x.shape, strict=True):
                sizes[axis] = size
            name = self.reshaped(x, sizes) if isinstance(x, Value) else self.constant(x.reshape(sizes))
            spread = tuple(sizes) == out.shape
        elif kind == "select_n":
            name = self.node("Where", inputs[0], inputs[2], inputs[1])
        elif kind == "integer_pow":
            name = self.node("Pow", inputs[0], np.asarray(params["y"], out.dtype))
        elif kind in self.FORMULAS:
            name = self.FORMULAS[kind](self, inputs[0])
        else:
            name = self.node(ELEMENTWISE[kind], *inputs)
        return Value(name, out.shape, out.dtype, spread=spread)

    def write_convert_element_type(self, inputs: list[Any], params: Mapping[str, Any], out: Any) -> str:
        to = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(out.dtype))
        return self.node("Cast", self.full(inputs[0]), to=to)

    # ---------------------------------------------------------------- shapes

    def reshaped(self, x: Value, shape: Sequence[int]) -> str:
        sizes = [-1 if of_batch([size]) else size for size in shape]
        return self.node("Reshape", self.full(x), self.sizes(*sizes))

    def write_reshape(self, inputs: list[Any], params: Mapping[str, Any], out: Any) -> str:
        return self.reshaped(inputs[0], out.shape)

    write_squeeze = write_expand_dims = write_reshape

    def write_transpose(self, inputs: list[Any], params: Mapping[str, Any], out: Any) -> str:
        return self.transposed(self.full(inputs[0]), params["permutation"])

    def transposed(self, name: str, axes: Sequence[int]) -> str:
        return name if list(axes) == list(range(len(axes))) else self.node("Transpose", name, perm=list(axes))

    def write_concatenate(self, inputs: list[Any], params: Mapping[str, Any], out: Any) -> str:
        return self.node("Concat", *map(self.full, inputs), axis=params["dimension"])

    def write_slice(self, inputs: list[Any], params: Mapping[str, Any], out: Any) -> str:
        axes = [axis for axis, size in enumerate(out.shape) if not of_batch([size])]
        strides = params["strides"] or [1] * len(out.shape)
        chosen = [[values[axis] for axis in axes] for values in (params["start_indices"], params["limit_indices"])]
        parts = [*chosen, axes, [strides[axis] for axis in axes]]
        return self.node("Slice", self.full(inputs[0]), *(self.sizes(*part) for part in parts))

    def write_pad(self, inputs: list[Any], params: Mapping[str, Any], out: Any) -> str:
        low, high, inner = zip(*params["padding_config"], strict=True)
        check(not any(inner), "padding between elements is not written as ONNX")
        return self.node("Pad", self.full(inputs[0]), self.sizes(*low, *high), inputs[1])

    # ---------------------------------------------------------------- sums and windows

    def reduced(self, kind: str, inputs: list[Any], params: Mapping[str, Any]) -> str:
        x = self.full(inputs[0])
        # Without axes ONNX reduces along all of them.
        return self.node(kind, x, self.sizes(*params["axes"]), keepdims=0) if params["axes"] else x

    def write_reduce_sum(self, inputs: list[Any], params: Mapping[str, Any], out: Any) -> str:
        return self.reduced("ReduceSum", inputs, params)

    def write_reduce_max(self, inputs: list[Any], params: Mapping[str, Any], out: Any) -> str:
        return self.reduced("ReduceMax", inputs, params)

    def pooled(self, kind: str, inputs: list[Any], params: Mapping[str, Any], **attributes: Any) -> str:
        """Writes a pooling along the axes that have windows, with as many others as ONNX wants, at the end."""
        window, strides, padding = params["window_dimensions"], params["window_strides"], params["padding"]
        rank = len(window)
        check({*params["base_dilation"], *params["window_dilation"]} == {1}, "dilated pooling is not written as ONNX")
        axes = [a for a in range(rank) if window[a] > 1 or strides[a] > 1 or any(padding[a])]
        idle = [a for a in range(1, rank) if a not in axes]
        axes = sorted(axes + idle[: rank - 2 - len(axes)])
        order = [a for a in range(rank) if a not in axes] + axes
        check(len(axes) == rank - 2, "pooling along channels and positions at once is not written as ONNX")
        pads = [padding[a][side] for side in (0, 1) for a in axes]
        shapes = {"kernel_shape": [window[a] for a in axes], "strides": [strides[a] for a in axes], "pads": pads}
        x = self.transposed(self.full(inputs[0]), order)
        return self.transposed(self.node(kind, x, **shapes, **attributes), np.argsort(order).tolist())

    def write_reduce_window_max(self, inputs: list[Any], params: Mapping[str, Any], out: Any) -> str:
        return self.pooled("MaxPool", inputs, params)

    def write_reduce_window_sum(self, inputs: list[Any], params: Mapping[str, Any], out: Any) -> str:
        mean = self.pooled("AveragePool", inputs, params, count_include_pad=1)
        return self.node("Mul", mean, np.asarray(math.prod(params["window_dimensions"]), out.dtype))

    # ---------------------------------------------------------------- products

    def write_conv_general_dilated(self, inputs: list[Any], params: Mapping[str, Any], out: Any) -> str:
        layout = params["dimension_numbers"]
        plain = {*params["lhs_dilation"]} == {1} and params["batch_group_count"] == 1
        check(plain, "transposed convolutions are not written as ONNX")
        x, kernel = inputs
        x = self.transposed(self.full(x), layout.lhs_spec)
        constant = not isinstance(kernel, Value)
        kernel = np.transpose(kernel, layout.rhs_spec) if constant else self.transposed(kernel.name, layout.rhs_spec)
        y = self.node(
            "Conv",
            *(x, kernel),
            strides=list(params["window_strides"]),
            dilations=list(params["rhs_dilation"]),
            pads=[pair[side] for side in (0, 1) for pair in params["padding"]],
            group=params["feature_group_count"],
        )
        return self.transposed(y, np.argsort(layout.out_spec).tolist())

    def write_dot_general(self, inputs: list[Any], params: Mapping[str, Any], out: Any) -> str:
        (left_axes, right_axes), (left_batch, right_batch) = params["dimension_numbers"]
        shapes = [x.shape for x in inputs]
        left, right = map(self.full, inputs)
        if not left_batch and tuple(left_axes) == (len(shapes[0]) - 1,) and tuple(right_axes) == (0,):
            return self.node("MatMul", left, right)
        letters = iter("abcdefghijklmnopqrstuvwxyz")
        first = [next(letters) for _ in shapes[0]]
        shared = dict(zip((*right_batch, *right_axes), (*left_batch, *left_axes), strict=True))
        second = [first[shared[axis]] if axis in shared else next(letters) for axis in range(len(shapes[1]))]
        kept = [first[axis] for axis in left_batch]
        kept += [first[axis] for axis in range(len(first)) if axis not in (*left_batch, *left_axes)]
        kept += [second[axis] for axis in range(len(second)) if axis not in shared]
        return self.node("Einsum", left, right, equation=f"{''.join(first)},{''.join(second)}->{''.join(kept)}")
