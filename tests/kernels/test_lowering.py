"""The same traced program lowers for every platform, without the devices."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from tests.kernels.cases import by_name

LAYERS = ["s0", "b0", "gn_silu", "frn"]
SHAPE = (2, 8, 8, 16)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", LAYERS)
def test_lowers_for_every_platform(name: str, dtype: str) -> None:
    case = by_name[name]
    operands = case.operands(SHAPE, dtype)

    def step(*operands: jax.Array) -> tuple[jax.Array, ...]:
        y, pull = jax.vjp(case.call(), *operands)
        return y, *pull(y)

    traced = jax.jit(step).trace(*operands)
    programs = {
        platform: traced.lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cpu", "cuda", "rocm", "tpu")
    }
    # Each has the form meant for it: complex sums on GPU, bit operations on CPU for the gate.
    assert programs["cuda"] == programs["rocm"]
    has_complex = {name: "complex" in text for name, text in programs.items()}
    assert has_complex == {"cpu": False, "cuda": True, "rocm": True, "tpu": False}
    if name in ("s0", "gn_silu"):
        assert "bitcast_convert" in programs["cpu"]
    assert "bitcast_convert" not in programs["cuda"] + programs["tpu"]


def test_exported_program_runs() -> None:
    case = by_name["s0"]
    operands = case.operands(SHAPE)
    platforms = ("cpu", "cuda", "rocm", "tpu")
    exported = jax.export.export(jax.jit(case.call()), platforms=platforms)(*operands)
    restored = jax.export.deserialize(exported.serialize())
    assert restored.platforms == platforms
    np.testing.assert_allclose(restored.call(*operands), case.call()(*operands), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("s0", "n, h, w, 8"),
        ("s0", "n, l, 8"),
        ("b0", "n, h, w, 8"),
        ("frn", "n, h, w, 8"),
    ],
)
def test_a_program_for_every_size(name: str, shape: str, quick_compilation: None) -> None:
    case = by_name[name]

    @jax.jit
    def step(*operands: jax.Array) -> tuple[jax.Array, ...]:
        y, pull = jax.vjp(case.call(), *operands)
        return y, *pull(jnp.cos(y))

    symbolic = export.symbolic_shape(shape)
    x, *params = case.operands((2, 3, 5, 8))
    program = export.export(step, platforms=("cpu", "cuda", "rocm", "tpu"))(
        jax.ShapeDtypeStruct(symbolic, x.dtype), *params
    )
    for size in ((2, 3, 5), (3, 11, 11)):
        x, *_ = case.operands((*size, 8))
        x = x if len(symbolic) == 4 else x.reshape(size[0], -1, 8)
        for actual, expected in zip(program.call(x, *params), step(x, *params), strict=True):
            scale = np.abs(expected).max()
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5 * scale)


def test_traces_once() -> None:
    case = by_name["s0"]
    traces = 0

    def function(*operands: jax.Array) -> jax.Array:
        nonlocal traces
        traces += 1
        return jnp.sum(case.call()(*operands))

    step = jax.jit(jax.value_and_grad(function))
    for seed in range(3):
        step(*case.operands(SHAPE, seed=seed))
    assert traces == 1


def test_layers_of_one_shape_share_their_trace() -> None:
    case = by_name["s0"]
    x, *params = case.operands(SHAPE)
    program = jax.jit(lambda x: case.call()(case.call()(x, *params), *params)).lower(x).as_text()
    assert program.count("func.func private @_forward") == 1
