"""The differentiable function over the kernel: gradients, stand-ins and the log, export."""

import functools
import logging
import sys
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import Mesh, PartitionSpec

from evonorm_jax.errors import UserError
from evonorm_jax.kernels import evonorm_s0, implementations, mosaic_gpu, pallas, reference
from tests.kernels.accelerators import abstract_operands, lower, on_device, operands
from tests.kernels.test_mosaic_gpu import HAS_INTERPRETER

KERNEL = "@mosaic_gpu_v2"
ODD_GROUPS = (2, 5, 5, 66)  # 2 groups of 33: no multiple of 8


def plain(*operands: jax.Array, num_groups: int = 4) -> jax.Array:
    return reference.evonorm_s0(*operands, num_groups=num_groups, epsilon=1e-5)


def loss(*operands: jax.Array, num_groups: int = 32) -> jax.Array:
    y = pallas.evonorm_s0_pallas(*operands, num_groups=num_groups)
    return jnp.sum(jnp.sin(y.astype(jnp.float32)))


gradients = jax.value_and_grad(loss, argnums=(0, 1, 2, 3))


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Any:
    """Messages of the module; what was said before may be said again."""
    pallas._log_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger="evonorm_jax.kernels.pallas"):
        yield caplog


@pytest.mark.parametrize("interpret", [False, *([True] if HAS_INTERPRETER else [])])
def test_gradients(interpret: bool) -> None:
    x, dy, *params = operands((3, 3, 5, 8), "float32")
    fused = functools.partial(pallas.evonorm_s0_pallas, num_groups=4, interpret=interpret)

    def run(function: Callable[..., jax.Array]) -> tuple[jax.Array, ...]:
        y, pull = jax.vjp(function, x, *params)
        return y, *pull(dy)

    for actual, expected in zip(run(fused), run(plain), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=3e-6 * jnp.abs(expected).max())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("interpret", [False, *([True] if HAS_INTERPRETER else [])])
def test_gradients_with_the_shortcut(interpret: bool, dtype: str) -> None:
    x, dy, *params = operands((3, 3, 5, 8), dtype)
    statics = {"num_groups": 4, "interpret": interpret}

    def run(function: Callable[..., Any], cotangent: Any) -> Any:
        outputs, pull = jax.vjp(function, x, *params)
        return outputs, *pull(cotangent)

    alone = functools.partial(pallas.evonorm_s0_pallas, **statics)
    both = functools.partial(pallas.evonorm_s0_pallas_with_shortcut, **statics)
    y, dx, *gradients = run(alone, dy)
    actual = run(both, (dy, 3 * x))
    for a, b in zip(jax.tree.leaves(actual), (y, x, dx + 3 * x, *gradients), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_the_kernel_adds_the_gradient_of_the_shortcut() -> None:
    abstract, _ = abstract_operands((2, 9, 7, 64), "bfloat16")

    def block(function: Callable[..., Any], *operands: jax.Array) -> jax.Array:
        y, shortcut = function(*operands, num_groups=32)
        return y * shortcut

    def additions(function: Callable[..., Any]) -> int:
        step = lambda *o: jax.vjp(functools.partial(block, function), *o)[1](o[0])  # noqa: E731
        text = lower(step, "cuda", *abstract)
        assert text.count(KERNEL) == 2
        return text.count("stablehlo.add")

    apart = lambda x, *o, **statics: (pallas.evonorm_s0_pallas(x, *o, **statics), x)  # noqa: E731
    assert additions(pallas.evonorm_s0_pallas_with_shortcut) == additions(apart) - 1


@pytest.mark.parametrize("with_shortcut", [False, True])
def test_second_derivatives_are_those_of_the_formula(with_shortcut: bool) -> None:
    x, dy, *params = operands((2, 3, 3, 8), "float32")

    def second(function: Callable[..., jax.Array]) -> Any:
        def first(*operands: jax.Array) -> Any:
            loss = lambda *o: jnp.sum(jnp.sin(function(*o)) * dy)  # noqa: E731
            return jax.grad(loss, argnums=(0, 1, 2, 3))(*operands)

        total = lambda *o: sum(jnp.sum(jnp.cos(gradient)) for gradient in first(*o))  # noqa: E731
        return jax.jit(jax.grad(total, argnums=(0, 1, 2, 3)))

    def block(*operands: jax.Array) -> jax.Array:
        y, shortcut = pallas.evonorm_s0_pallas_with_shortcut(*operands, num_groups=4)
        return y + jnp.sin(shortcut)

    fused = functools.partial(pallas.evonorm_s0_pallas, num_groups=4)
    formula = plain
    if with_shortcut:
        fused, formula = block, lambda x, *params: plain(x, *params) + jnp.sin(x)
    actual, expected = (second(function)(x, *params) for function in (fused, formula))
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=3e-6 * jnp.abs(b).max())
    # Forward, backward with the shortcut's gradient, and backward without one for the second.
    launches = 3 if with_shortcut else 2
    assert lower(second(fused), "cuda", x, *params).count(KERNEL) == launches


@pytest.mark.parametrize("shape", [(3, 8), (2, 3, 2, 1, 8)])
def test_any_number_of_spatial_axes(shape: tuple[int, ...]) -> None:
    x, _, *params = operands(shape, "float32")
    y, shortcut = pallas.evonorm_s0_pallas_with_shortcut(x, *params, num_groups=4)
    np.testing.assert_array_equal(shortcut, x)
    np.testing.assert_array_equal(y, pallas.evonorm_s0_pallas(x, *params, num_groups=4))
    np.testing.assert_allclose(y, plain(x, *params), rtol=1e-6, atol=1e-6)
    assert lower(functools.partial(loss, num_groups=4), "cuda", x, *params).count(KERNEL) == 1
    assert pallas.supports(shape, "bfloat16", 4) is None


def test_dtypes_and_residuals() -> None:
    x, _, *params = operands((2, 16, 16, 8), "bfloat16")
    params = [param.astype(jnp.bfloat16) for param in params]
    y, pull = jax.vjp(functools.partial(pallas.evonorm_s0_pallas, num_groups=4), x, *params)
    assert all(value.dtype == jnp.bfloat16 for value in (y, *pull(y)))
    kept = sum(value.nbytes for value in jax.tree.leaves(pull) if hasattr(value, "nbytes"))
    assert kept <= 1.1 * x.nbytes


def test_lowers_and_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pallas, "run", None)  # XLA's form is not even traced
    abstract, _ = abstract_operands((2, 9, 7, 64), "bfloat16")
    assert lower(gradients, "cuda", *abstract).count(KERNEL) == 2
    with on_device("cuda"):
        exported = export.export(jax.jit(gradients), platforms=["cuda"])(*abstract)
    assert exported.platforms == ("cuda",)
    assert exported.mlir_module().count(KERNEL) == 2
    assert [aval.shape for aval in exported.out_avals[1:]] == [o.shape for o in abstract]


def test_layers_of_one_shape_are_lowered_once() -> None:
    abstract, _ = abstract_operands((2, 9, 7, 64), "bfloat16")

    def network(x: jax.Array, *params: jax.Array) -> jax.Array:
        for _ in range(3):
            x = pallas.evonorm_s0_pallas(x, *params, num_groups=32)
        return jnp.sum(jnp.sin(x.astype(jnp.float32)))

    step = jax.jit(jax.grad(network, argnums=(0, 1, 2, 3)))
    text = step.trace(*abstract).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("call @_forward") == text.count("call @_backward") == 3
    assert text.count(KERNEL) == 2


@pytest.mark.parametrize("platform", ["cpu", "rocm", "tpu"])
def test_other_platforms_take_the_form_of_xla(
    platform: str, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kernel in ("forward", "backward"):
        monkeypatch.setattr(mosaic_gpu, kernel, None)  # not even traced
    abstract, _ = abstract_operands((2, 9, 7, 64), "bfloat16")
    traced = jax.jit(gradients).trace(*abstract)
    assert KERNEL not in traced.lower(lowering_platforms=(platform,)).as_text()
    # Once, for all layers and both ways.
    assert [record.getMessage() for record in log.records] == [
        "EvoNorm-S0 without its hand-written kernel, in XLA's form: there is a kernel for NVIDIA "
        "Hopper GPUs alone"
    ]


def test_shapes_without_a_kernel_take_the_form_of_xla(log: Any) -> None:
    x, _, *params = operands(ODD_GROUPS, "float32")
    (without, _), (within, _) = (
        abstract_operands(shape, "float32") for shape in (ODD_GROUPS, (2, 5, 5, 64))
    )

    def network(*operands: jax.Array) -> jax.Array:
        return loss(*operands[:4], num_groups=2) + loss(*operands[4:], num_groups=2)

    assert lower(jax.grad(network, (0, 4)), "cuda", *without, *within).count(KERNEL) == 2
    (record,) = log.records
    assert "form: x has 66 channels, and the GPU kernels take multiples of 8" in record.getMessage()
    y = pallas.evonorm_s0_pallas(x, *params, num_groups=2)
    np.testing.assert_array_equal(y, evonorm_s0(x, *params, num_groups=2))
    assert "multiples of 8" in str(pallas.supports(ODD_GROUPS, "float32", 2))


def test_older_gpus_take_the_form_of_xla(log: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    device = types.SimpleNamespace(device_kind="NVIDIA A100", compute_capability="8.0")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    abstract, _ = abstract_operands((2, 3, 3, 24), "float32")
    assert KERNEL not in lower(functools.partial(loss, num_groups=3), "cuda", *abstract)
    (record,) = log.records
    assert "compute capability 9.0) alone, and NVIDIA A100 has 8.0" in record.getMessage()


def test_symbolic_dimensions_take_the_form_of_xla(log: Any) -> None:
    abstract, _ = abstract_operands((2, 3, 3, 8), "float32")
    (n,) = export.symbolic_shape("n")
    x = jax.ShapeDtypeStruct((n, 3, 3, 8), "float32")
    step = jax.jit(functools.partial(loss, num_groups=4))
    with on_device("cuda"):
        exported = export.export(step, platforms=["cuda"])(x, *abstract[1:])
    assert KERNEL not in exported.mlir_module()
    assert "x is [n, 3, 3, 8]" in log.text


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(implementations, "compute_capability", lambda: "9.0")


def kernels_of(shape: tuple[int, ...], num_groups: int, **arguments: Any) -> int:
    """How many kernels are in the step of a layer for one GPU."""

    def loss(*operands: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(evonorm_s0(*operands, num_groups=num_groups, **arguments)))

    abstract, _ = abstract_operands(shape, "float32")
    return lower(jax.grad(loss, argnums=(0, 1, 2, 3)), "cuda", *abstract).count(KERNEL)


def test_kernel_by_default_on_one_hopper_gpu(
    hopper: None, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    shape = (2, 3, 3, 24)
    assert kernels_of(shape, 3) == 2
    assert kernels_of(shape, 3, implementation="xla") == 0
    assert kernels_of(ODD_GROUPS, 2) == 0
    # It is still the form of XLA where the program goes to a processor after all.
    x, _, *params = operands(shape, "float32")
    y = jax.jit(functools.partial(evonorm_s0, num_groups=3))(x, *params)
    np.testing.assert_allclose(y, plain(x, *params, num_groups=3), rtol=1e-6, atol=1e-6)
    assert not log.records  # nobody asked for the kernel


@pytest.mark.parametrize("capability", [None, "8.0", "10.0", "gfx942"])
def test_no_kernel_by_default_elsewhere(
    capability: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(jax, "local_devices", lambda: [types.SimpleNamespace(device_kind="it")])
    monkeypatch.setattr(implementations, "compute_capability", lambda: capability)
    monkeypatch.setitem(sys.modules, "evonorm_jax.kernels.pallas", None)  # importing it raises
    assert kernels_of((2, 3, 3, 24), 3) == 0


def test_which_programs_are_one_devices_own(hopper: None, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[jax.Array] = []

    def spy(x: jax.Array, *_: jax.Array, **arguments: Any) -> jax.Array:
        assert not arguments["log"]
        taken.append(x)
        return x

    monkeypatch.setattr(pallas, "evonorm_s0_pallas", spy)
    one = jnp.ones(8)

    def layer(x: jax.Array) -> jax.Array:
        return evonorm_s0(x, one, one, one, num_groups=4)

    def kernels(function: Callable[..., jax.Array], *shape: int) -> int:
        taken.clear()
        jax.eval_shape(function, jnp.ones((*shape, 3, 3, 8)))
        return len(taken)

    devices = np.array(jax.devices()[:4])
    flat, grid = Mesh(devices, ("batch",)), Mesh(devices.reshape(2, 2), ("batch", "model"))

    def sharded(mesh: Mesh, **arguments: Any) -> Callable[..., jax.Array]:
        batch = PartitionSpec("batch")
        step = jax.shard_map(layer, mesh=mesh, in_specs=batch, out_specs=batch, **arguments)
        return jax.jit(step)

    assert jax.device_count() > 1
    assert kernels(jax.jit(layer), 4) == 0
    assert kernels(jax.pmap(layer, devices=list(devices)), 4, 1) == 1
    assert kernels(sharded(flat), 4) == 1
    assert kernels(sharded(grid), 4) == 1
    assert kernels(sharded(grid, axis_names={"batch"}), 4) == 0


def test_float16(log: Any) -> None:
    x, _, *params = operands((2, 3, 3, 8), "float16")
    y = pallas.evonorm_s0_pallas(x, *params, num_groups=4)
    assert y.dtype == jnp.float16
    assert "x is float16" in log.text
    with pytest.raises(UserError, match="x is float16"):
        pallas.evonorm_s0_pallas(x, *params, num_groups=4, interpret=True)


def test_one_program_for_two_platforms() -> None:
    abstract, _ = abstract_operands((2, 3, 3, 8), "float32")
    step = jax.jit(jax.grad(functools.partial(loss, num_groups=4)))
    with on_device("cuda"):
        exported = export.export(step, platforms=["cuda", "cpu"])(*abstract)
    assert exported.mlir_module().count(KERNEL) == 2
    x, _, *params = operands((2, 3, 3, 8), "float32")
    np.testing.assert_allclose(exported.call(x, *params), step(x, *params), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("with_shortcut", [False, True])
def test_vmap(with_shortcut: bool) -> None:
    x, _, *params = operands((2, 3, 3, 8), "float32")

    def loss(x: jax.Array) -> jax.Array:
        if not with_shortcut:
            return jnp.sum(jnp.sin(pallas.evonorm_s0_pallas(x, *params, num_groups=4)))
        y, shortcut = pallas.evonorm_s0_pallas_with_shortcut(x, *params, num_groups=4)
        return jnp.sum(jnp.sin(y) * shortcut)

    def gradient(x: jax.Array) -> jax.Array:
        return jax.grad(loss)(x[None])[0]

    expected = jax.grad(loss)(x)
    np.testing.assert_allclose(jax.vmap(gradient)(x), expected, rtol=1e-6, atol=1e-6)
    assert lower(jax.vmap(gradient), "cuda", x).count(KERNEL) == 2


def test_without_jit() -> None:
    x, _, *params = operands((2, 3, 3, 8), "float32")
    with jax.disable_jit():
        y = pallas.evonorm_s0_pallas(x, *params, num_groups=4)
    np.testing.assert_allclose(y, plain(x, *params), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("with_shortcut", [False, True])
@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map(check_vma: bool, with_shortcut: bool) -> None:
    x, _, *params = operands((4, 3, 3, 8), "float32")
    mesh = Mesh(np.array(jax.devices()[:2]), ("batch",))
    batch, everywhere = PartitionSpec("batch"), PartitionSpec()

    def block(*operands: jax.Array) -> jax.Array:
        y, shortcut = pallas.evonorm_s0_pallas_with_shortcut(*operands, num_groups=4)
        return y + shortcut

    def plain_block(x: jax.Array, *params: jax.Array) -> jax.Array:
        return plain(x, *params) + x if with_shortcut else plain(x, *params)

    sharded = jax.shard_map(
        block if with_shortcut else functools.partial(pallas.evonorm_s0_pallas, num_groups=4),
        mesh=mesh,
        in_specs=(batch, everywhere, everywhere, everywhere),
        out_specs=batch,
        check_vma=check_vma,
    )

    def total(function: Callable[..., jax.Array], *operands: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(function(*operands)))

    def gradients(function: Callable[..., jax.Array]) -> Any:
        return jax.jit(jax.grad(functools.partial(total, function), argnums=(0, 1, 2, 3)))

    step = gradients(sharded)
    expected_gradients = gradients(plain_block)(x, *params)
    for actual, expected in zip(step(x, *params), expected_gradients, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    lowered = step.trace(x, *params).lower(lowering_platforms=("cuda",))
    assert lowered.as_text().count(KERNEL) == 2
