"""Reading the text of a compiled program: texts written here, and one that XLA compiles for four CPU devices."""

import json

import pytest

from cnn_jax.ahead_of_time import hlo
from commands import environment, process

# A loop of three iterations with a gather and a reduction, an exchange hidden by a product, and one that is not hidden.
TEXT = """
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8,4]{1,0:T(8,128)})->f32[8,4]{1,0}}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%turn (p: (s32[], bf16[8,4])) -> (s32[], bf16[8,4]) {
  %p = (s32[], bf16[8,4]{1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = bf16[8,4]{1,0:T(8,128)(2,1)} get-tuple-element(%p), index=1
  %gathered = bf16[32,4]{1,0} all-gather(%x), replica_groups=[1,4]<=[4], dimensions={0}
  %reduced = bf16[8,4]{1,0} reduce-scatter(%gathered), dimensions={0}, to_apply=%add, backend_config={"estimated_cycles":"7"}
  ROOT %out = (s32[], bf16[8,4]{1,0}) tuple(%i, %reduced)
}

%condition (p.1: (s32[], bf16[8,4])) -> pred[] {
  %p.1 = (s32[], bf16[8,4]{1,0}) parameter(0)
  ROOT %less = pred[] constant(true)
}

%fused (q: f32[8,4]) -> f32[8,4] {
  %q = f32[8,4]{1,0} parameter(0)
  %k = bf16[3,3,4,4]{3,2,1,0} constant({...})
  ROOT %conv = f32[8,4]{1,0} convolution(%k, %q), window={size=3x3}, backend_config={"estimated_cycles":"1000"}
}

%wrapped (r: f32[2]) -> f32[8] {
  %r = f32[2]{0} parameter(0)
  ROOT %ag = f32[8]{0} all-gather(%r), dimensions={0}
}

ENTRY %main (x.1: f32[8,4], y: bf16[8,4], z: f32[2]) -> f32[8,4] {
  %x.1 = f32[8,4]{1,0:T(8,128)} parameter(0)
  %y = bf16[8,4]{1,0} parameter(1)
  %z = f32[2]{0} parameter(2)
  %late = f32[8,4]{1,0} all-reduce-start(%x.1), to_apply=%add
  %work = f32[8,4]{1,0} fusion(%x.1), kind=kOutput, calls=%fused, backend_config={"estimated_cycles":"50"}
  %late.done = f32[8,4]{1,0} all-reduce-done(%late)
  %now = (f32[8,4]{1,0}, /*index=1*/f32[]) all-reduce-start(%work, %z), to_apply=%add
  %now.done = (f32[8,4]{1,0}, f32[]) all-reduce-done(%now)
  %begun = ((f32[2]{0}), f32[8]{0}, u32[]) async-start(%z), calls=%wrapped
  %more = f32[8,4]{1,0} fusion(%x.1), kind=kLoop, calls=%fused, backend_config={"estimated_cycles":"3"}
  %ended = f32[8]{0} async-done(%begun)
  %zero = s32[] constant(0)
  %init = (s32[], bf16[8,4]{1,0}) tuple(%zero, %y)
  %loop = (s32[], bf16[8,4]{1,0}) while(%init), condition=%condition, body=%turn, backend_config={"known_trip_count":{"n":"3"}}
  %told = (f32[8,4]{1,0}, u32[], token[]) send(%more), channel_id=1
  ROOT %result = f32[8,4]{1,0} copy(%late.done)
}
"""  # noqa: E501


def test_collectives_are_counted_with_bytes_turns_and_overlap():
    found = {(one.kind, one.dtype): one for one in hlo.Module(TEXT).exchanges()}
    exchange = hlo.Exchange
    assert found == {
        ("all-reduce", "f32"): exchange("all-reduce", "f32", 2, 128 + 128 + 8, 1),
        ("all-gather", "bf16"): exchange("all-gather", "bf16", 3, 3 * 256, 0),
        ("reduce-scatter", "bf16"): exchange("reduce-scatter", "bf16", 3, 3 * 256, 0),
        ("all-gather", "f32"): exchange("all-gather", "f32", 1, 32, 1),
    }


def test_cycles_are_those_of_what_runs_one_after_another():
    assert hlo.Module(TEXT).cycles() == 50 + 3 + 3 * 7  # the content of a fusion counts as part of it


def test_a_program_without_estimates_has_no_cycles():
    assert hlo.Module(TEXT.replace("estimated_cycles", "other")).cycles() is None


def test_convolutions_are_counted_by_what_they_multiply():
    assert hlo.Module(TEXT).convolutions() == {"bf16": 1}


def test_transfers_to_the_host_are_counted():
    assert hlo.Module(TEXT).host_transfers() == 1
    assert hlo.Module(TEXT.replace(" send(", " negate(")).host_transfers() == 0


def test_copies_of_an_array_are_counted():
    assert hlo.Module(TEXT).copies_of("f32[8,4]") == 1
    assert hlo.Module(TEXT).copies_of("u8[8,4]") == 0


@pytest.mark.parametrize(
    ("text", "size"),
    [("f32[8,4]{1,0:T(8,128)}", 128), ("(bf16[3], pred[])", 7), ("s4[10]", 5), ("token[]", 0), ("f8e4m3fn[16]", 16)],
)
def test_bytes_of_a_type(text, size):
    assert hlo.nbytes(text) == size


PROGRAM = """
import json
import jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from cnn_jax.ahead_of_time import hlo

mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
shape = lambda sharding, *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32, sharding=sharding)

def gradient(w, x):
    return jax.grad(lambda w: jnp.sum(jnp.tanh(x @ w)))(w)

def loop(w, x):
    def turn(total, part):
        part = jax.lax.with_sharding_constraint(part, split)
        return total + jax.lax.with_sharding_constraint(gradient(w, part), whole), None
    return jax.lax.scan(turn, jnp.zeros_like(w), x.reshape(5, -1, 16))[0]

def text(function, *arguments, out):
    return hlo.Module(jax.jit(function, out_shardings=out).lower(*arguments).compile().as_text())

found = {
    "gradient": text(gradient, shape(whole, 16, 8), shape(split, 40, 16), out=whole),
    "loop": text(loop, shape(whole, 16, 8), shape(split, 40, 16), out=whole),
    "gather": text(lambda w: w + 1, shape(split, 16, 8), out=whole),
    "alone": text(lambda w: w + 1, shape(whole, 16, 8), out=whole),
}
print(json.dumps({name: [vars(one) for one in module.exchanges()] for name, module in found.items()}))
"""


@pytest.mark.slow
def test_what_xla_compiles_for_four_devices_is_read():
    """The gradient of a 16 x 8 matrix is summed once, in a loop five times; a split array is gathered."""
    done = process("-c", PROGRAM, env=environment(devices=4))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    row = dict(kind="all-reduce", dtype="f32", count=1, bytes=512, overlapped=0)
    assert found["gradient"] == [row]
    assert found["gather"] == [row | dict(kind="all-gather")]
    assert found["alone"] == []
    assert row | dict(count=5, bytes=5 * 512) in found["loop"]
