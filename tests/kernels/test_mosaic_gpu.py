"""The GPU kernels: interpreted against float64, and lowered for an H200 that is not there."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu

from evonorm_jax.errors import UserError
from evonorm_jax.kernels import mosaic_gpu
from tests.kernels.accelerators import abstract_operands, check_kernels, lower

HAS_INTERPRETER = hasattr(plgpu, "force_gpu_interpret_mode")  # JAX 0.11

# The maps of a ResNet-50 on 224 x 224 images behind its first pooling, with 32 groups.
RESNET = [
    (56, 64),
    (56, 256),
    (28, 128),
    (28, 512),
    (14, 256),
    (14, 1024),
    (7, 512),
    (7, 2048),
]


@pytest.mark.parametrize(
    ("shape", "dtype", "num_groups"),
    [
        # 65 rows in tiles of 32: two warpgroups, a tail of 1 row, and a tile that is all tail.
        ((1, 5, 13, 32), "float32", 8),
        ((1, 5, 7, 24), "bfloat16", 8),  # one tile, groups of 3, 8 columns per warp
        ((1, 5, 7, 120), "float32", 8),  # groups of 15 in three stripes
    ],
)
def test_interpreted(shape: tuple[int, ...], dtype: str, num_groups: int) -> None:
    if HAS_INTERPRETER:
        check_kernels(mosaic_gpu, shape, dtype, num_groups)
    else:
        with pytest.raises(UserError, match=r"cannot interpret Mosaic GPU .* 0\.11 or newer"):
            check_kernels(mosaic_gpu, shape, dtype, num_groups)


def test_far_from_zero() -> None:
    # Rows that pad the tile would add 15 mean^2, and E[x^2] - E[x]^2 lose all digits.
    if HAS_INTERPRETER:
        x = 1000 + jnp.asarray([[-1.0, 1.0] * 8]).reshape(1, 2, 1, 8)
        one = jnp.ones(8)
        forward = functools.partial(mosaic_gpu.forward, interpret=True)
        _, mean, rstd = forward(x, one, one, one, 8, 1e-5)
        assert (mean == jnp.asarray([[999.0, 1001.0] * 4])).all()
        assert jnp.allclose(rstd, 1e-5**-0.5, rtol=1e-6)
    else:
        assert mosaic_gpu.plan((1, 2, 1, 8), "float32", 8, 1) == mosaic_gpu.Slab(2, 8, 1, 4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("size", "channels"), RESNET)
def test_slabs_of_a_resnet(size: int, channels: int, dtype: str) -> None:
    shape = (8, size, size, channels)
    assert mosaic_gpu.supports(shape, dtype, 32) is None
    for slabs in (1, 2):
        slab = mosaic_gpu.plan(shape, dtype, 32, slabs)
        assert isinstance(slab, mosaic_gpu.Slab)
        assert channels % slab.channels == 0
        assert slab.channels % (channels // 32) == 0
        assert slab.tile_rows % slab.step_rows == 0
        assert slab.tiles * slab.tile_rows >= size * size
        assert slab.tiles % slab.warpgroups == 0
        assert slabs * slab.tiles * slab.tile_rows * slab.row_bytes < slab.shared_bytes(slabs)
        assert slab.shared_bytes(slabs) <= 227 * 1024


def test_slab_by_hand() -> None:
    # 3136 rows of 32 bytes are 98 KiB: forward, two blocks share the 227 KiB; backward, one.
    slab = mosaic_gpu.plan((8, 56, 56, 64), "bfloat16", 32, 1)
    assert slab == mosaic_gpu.plan((8, 56, 56, 64), "bfloat16", 32, 2)
    assert slab == mosaic_gpu.Slab(rows=3136, channels=16, group_size=2, itemsize=2)
    # 4 warps of 32 lanes with 4 values each are 512 values: 32 rows; 16 values per thread: 128.
    assert (slab.step_rows, slab.tile_rows) == (32, 128)
    # 24.5 tiles, the same number for both warpgroups.
    assert (slab.warpgroups, slab.tiles) == (2, 26)


@pytest.mark.parametrize(
    ("shape", "dtype", "num_groups", "reason"),
    [
        ((2, 4, 4, 8), "float16", 4, "x is float16"),
        ((2, 4, 4, 12), "float32", 4, "multiples of 8"),
        ((2, 4, 4, 512), "float32", 1, "cannot be cut into blocks"),
        ((2, 112, 112, 64), "bfloat16", 32, "bytes of shared memory"),
    ],
)
def test_refuses(shape: tuple[int, ...], dtype: str, num_groups: int, reason: str) -> None:
    message = mosaic_gpu.supports(shape, dtype, num_groups)
    assert message is not None
    assert reason in message
    _, operands = abstract_operands(shape, dtype, num_groups)
    with pytest.raises(UserError, match=reason):
        jax.eval_shape(functools.partial(mosaic_gpu.backward, num_groups=num_groups), *operands)


@pytest.mark.parametrize(
    ("shape", "dtype", "num_groups"),
    [
        ((8, 56, 56, 64), "bfloat16", 32),
        ((8, 14, 14, 256), "float32", 32),
        ((8, 7, 7, 2048), "bfloat16", 32),
        ((2, 15, 13, 96), "bfloat16", 32),  # groups of 3
        ((2, 1, 1, 8), "bfloat16", 1),  # the narrowest row
        ((2, 7, 7, 512), "float32", 4),  # groups of 128, the widest
    ],
)
def test_lowers_to_one_launch_each_way(shape: tuple[int, ...], dtype: str, num_groups: int) -> None:
    forward, backward = abstract_operands(shape, dtype, num_groups)
    text = lower(lambda *o: mosaic_gpu.forward(*o, num_groups, 1e-5), "cuda", *forward)
    assert text.count("@mosaic_gpu_v2") == 1
    text = lower(lambda *o: mosaic_gpu.backward(*o, num_groups), "cuda", *backward)
    assert text.count("@mosaic_gpu_v2") == 1


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"channels": 12}, "divisible by 128"),  # bits: rows of 24 bytes
        ({"rows": 8 * 3136}, "shared memory|SMEM|smem"),  # 8 times the slab
    ],
)
def test_lowering_is_a_check(
    change: dict[str, Any], error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slab = mosaic_gpu.plan((2, 56, 56, 48), "bfloat16", 24, 1)
    assert isinstance(slab, mosaic_gpu.Slab)
    broken = dataclasses.replace(slab, **change)
    monkeypatch.setattr(mosaic_gpu, "plan", lambda *_: broken)
    forward, _ = abstract_operands((2, 56, 56, 48), "bfloat16", 24)
    with pytest.raises((ValueError, NotImplementedError), match=error):
        lower(lambda *o: mosaic_gpu.forward(*o, 24, 1e-5), "cuda", *forward)
