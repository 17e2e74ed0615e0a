"""The TPU kernels: interpreted against float64, and lowered for a TPU that is not there."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.kernels import mosaic_tpu
from tests.kernels.accelerators import abstract_operands, check_kernels, lower


@pytest.mark.parametrize(
    ("shape", "dtype", "num_groups"),
    [
        ((10, 5, 7, 12), "float32", 4),  # 8 samples and 2, all channels, groups of 3
        ((2, 3, 17, 256), "bfloat16", 4),  # two blocks of channels, 51 positions in chunks of 3
        ((3, 1, 1, 8), "float32", 4),  # one position: no loop
    ],
)
def test_interpreted(shape: tuple[int, ...], dtype: str, num_groups: int) -> None:
    check_kernels(mosaic_tpu, shape, dtype, num_groups)


def test_far_from_zero() -> None:
    x = 1000 + jnp.asarray([[-1.0, 1.0] * 8]).reshape(1, 2, 1, 8)
    one = jnp.ones(8)
    _, mean, rstd = mosaic_tpu.forward(x, one, one, one, 8, 1e-5, interpret=True)
    assert (mean == jnp.asarray([[999.0, 1001.0] * 4])).all()
    assert jnp.allclose(rstd, 1e-5**-0.5, rtol=1e-6)


def test_slab_by_hand() -> None:
    slab = mosaic_tpu.plan((64, 56, 56, 256), "bfloat16", 32)
    assert slab == mosaic_tpu.Slab(3136, samples=8, channels=128, group_size=8, itemsize=2)
    assert slab.chunk == 16
    # 3136 x 8 x 128 values of 2 bytes are 6.125 MiB: x, dy and dx, twice, are 36.75 MiB.
    assert 36.75 * 2**20 < slab.vmem_bytes(3, 2) < 41 * 2**20
    assert slab.buffers(3) == 2


@pytest.mark.parametrize(
    ("channels", "num_groups", "block"),
    [(512, 32, 128), (512, 2, 256), (96, 32, 96), (192, 32, 192), (1280, 32, 640), (320, 32, 320)],
)
def test_blocks_hold_whole_groups_and_register_tiles(
    channels: int, num_groups: int, block: int
) -> None:
    slab = mosaic_tpu.plan((8, 7, 7, channels), "float32", num_groups)
    assert isinstance(slab, mosaic_tpu.Slab)
    assert slab.channels == block


def test_large_maps_are_held_once() -> None:
    slab = mosaic_tpu.plan((8, 112, 112, 64), "bfloat16", 32)
    assert isinstance(slab, mosaic_tpu.Slab)
    assert slab.buffers(3) == 1
    assert slab.vmem_bytes(3, 1) <= 100 * 2**20


@pytest.mark.parametrize(
    ("shape", "dtype", "reason"),
    [
        ((2, 4, 4, 8), "float16", "x is float16"),
        ((8, 112, 112, 64), "float32", "bytes of vector memory"),
    ],
)
def test_refuses(shape: tuple[int, ...], dtype: str, reason: str) -> None:
    message = mosaic_tpu.supports(shape, dtype, 4)
    assert message is not None
    assert reason in message
    _, operands = abstract_operands(shape, dtype, 4)
    with pytest.raises(UserError, match=reason):
        jax.eval_shape(functools.partial(mosaic_tpu.backward, num_groups=4), *operands)


@pytest.mark.parametrize(
    ("shape", "dtype", "num_groups"),
    [
        ((8, 56, 56, 64), "bfloat16", 32),
        ((8, 14, 14, 256), "float32", 32),
        ((20, 7, 7, 2048), "bfloat16", 8),  # a last slab of 4 samples
        ((2, 15, 13, 96), "bfloat16", 32),
        ((8, 112, 112, 64), "bfloat16", 32),
        ((2, 1, 1, 4), "float32", 1),
    ],
)
def test_lowers_to_one_launch_each_way(shape: tuple[int, ...], dtype: str, num_groups: int) -> None:
    forward, backward = abstract_operands(shape, dtype, num_groups)
    text = lower(lambda *o: mosaic_tpu.forward(*o, num_groups, 1e-5), "tpu", *forward)
    assert text.count("@tpu_custom_call") == 1
    text = lower(lambda *o: mosaic_tpu.backward(*o, num_groups), "tpu", *backward)
    assert text.count("@tpu_custom_call") == 1


@pytest.mark.parametrize("change", [{"channels": 64}, {"samples": 4}])
def test_lowering_is_a_check(change: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    # Half a register tile, in either direction, of an array that is longer.
    slab = mosaic_tpu.plan((16, 7, 7, 256), "float32", 32)
    assert isinstance(slab, mosaic_tpu.Slab)
    broken = dataclasses.replace(slab, **change)
    monkeypatch.setattr(mosaic_tpu, "plan", lambda *_: broken)
    forward, _ = abstract_operands((16, 7, 7, 256), "float32", 32)
    with pytest.raises(ValueError, match="divisible by 8 and 128"):
        lower(lambda *o: mosaic_tpu.forward(*o, 32, 1e-5), "tpu", *forward)
