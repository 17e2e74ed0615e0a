"""The GPU kernels: interpreted against float64, and lowered for an H200 that is not there."""

import dataclasses
import functools

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
    ("shape", "dtype", "num_groups", "parts"),
    [
        # 65 rows of all channels in one copy, three tiles of 32: a tail of 1 row.
        ((2, 5, 13, 32), "float32", 32, None),
        ((1, 5, 7, 48), "bfloat16", 12, None),  # one tile, groups of 4 in blocks of 16 channels
        # Two warpgroups, nine tiles of 16 rows, groups of 16 in blocks of 32 channels.
        ((1, 10, 13, 64), "float32", 4, None),
        # A cluster of two: 104 and 52 rows.
        ((1, 12, 13, 32), "float32", 16, 2),
    ],
)
def test_interpreted(
    shape: tuple[int, ...], dtype: str, num_groups: int, parts: int | None
) -> None:
    if HAS_INTERPRETER:
        check_kernels(shape, dtype, num_groups, parts)
    else:
        with pytest.raises(UserError, match=r"cannot interpret Mosaic GPU .* 0\.11 or newer"):
            check_kernels(shape, dtype, num_groups, parts)


def test_far_from_zero() -> None:
    # Rows that pad the tile would add 15 mean^2, and E[x^2] - E[x]^2 lose all digits.
    if HAS_INTERPRETER:
        x = 1000 + jnp.asarray([[-1.0, 1.0] * 8]).reshape(1, 2, 1, 8)
        one = jnp.ones(8)
        forward = functools.partial(mosaic_gpu.forward, interpret=True)
        _, (mean, rstd) = forward(x, one, one, one, 8, 1e-5)
        assert (mean == jnp.asarray([[999.0, 1001.0] * 4])).all()
        assert jnp.allclose(rstd, 1e-5**-0.5, rtol=1e-6)
    else:
        assert mosaic_gpu.plan((1, 2, 1, 8), "float32", 8, 1) == mosaic_gpu.Slab(2, 8, 1, 4, 1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("size", "channels"), RESNET)
def test_slabs_of_a_resnet(size: int, channels: int, dtype: str) -> None:
    shape = (8, size, size, channels)
    assert mosaic_gpu.supports(shape, dtype, 32) is None
    for tensors in (1, 2):
        slab = mosaic_gpu.plan(shape, dtype, 32, tensors)
        assert isinstance(slab, mosaic_gpu.Slab)
        assert slab.shares_multiprocessor
        assert 64 <= slab.row_bytes <= max(128, slab.group_size * slab.itemsize)
        assert slab.small == (size == 7)
        check_slab(slab, channels, channels // 32)


def check_slab(slab: mosaic_gpu.Slab, channels: int, group_size: int) -> None:
    assert channels % slab.channels == slab.channels % group_size == slab.channels % 8 == 0
    assert slab.tile_rows % slab.step_rows == 0
    assert slab.copies * slab.copy_rows == slab.tiles * slab.tile_rows
    assert slab.copy_rows <= 256
    assert (slab.parts - 1) * slab.part_rows < slab.rows <= slab.parts * slab.part_rows
    assert slab.tiles <= 32
    assert slab.tensors * slab.part_rows * slab.row_bytes < slab.shared_bytes <= 227 * 1024
    if slab.warpgroups > 2:  # no second block
        assert slab.shared_bytes > 113 * 1024


def test_slab_by_hand() -> None:
    # 3136 rows of 64 bytes are 196 KiB: forward, halves of them let two blocks share the 227 KiB,
    # and backward, where there are two tensors, quarters.
    forward, backward = (
        mosaic_gpu.plan((8, 56, 56, 64), "bfloat16", 32, tensors) for tensors in (1, 2)
    )
    assert forward == mosaic_gpu.Slab(3136, 32, group_size=2, itemsize=2, tensors=1, parts=2)
    assert backward == dataclasses.replace(forward, tensors=2, parts=4)
    # 4 warps of 32 lanes with 4 values each are 512 values: 16 rows; 16 values per thread: 64.
    assert (forward.step_rows, forward.tile_rows) == (16, 64)
    assert (forward.tiles, forward.last_part_rows) == (25, 3136 - 1600)  # of 24.5
    assert (backward.tiles, backward.last_part_rows) == (13, 3136 - 3 * 832)  # of 12.25
    assert (forward.warpgroups, backward.warpgroups) == (2, 2)
    # Rows of 32 bytes take one block, which backward has a multiprocessor for itself.
    whole = mosaic_gpu.plan((8, 56, 56, 64), "bfloat16", 32, 2, parts=1)
    assert whole == dataclasses.replace(backward, channels=16, parts=1)
    assert (whole.tile_rows, whole.tiles, whole.warpgroups) == (128, 25, 4)


def test_small_slab_by_hand() -> None:
    # 49 rows in one copy. 64 of 64 channels would be 32 values per thread: four tiles of 8.
    slab = mosaic_gpu.plan((8, 7, 7, 512), "bfloat16", 32, 2)
    assert slab == mosaic_gpu.Slab(49, 64, group_size=16, itemsize=2, tensors=2)
    assert (slab.tile_rows, slab.tiles, slab.warpgroups) == (16, 4, 1)
    assert (slab.copies, slab.copy_rows) == (1, 64)
    # 64 of 32 channels are 16 values per thread: one tile.
    slab = mosaic_gpu.plan((8, 7, 7, 512), "float32", 32, 2)
    assert isinstance(slab, mosaic_gpu.Slab)
    assert (slab.channels, slab.tile_rows, slab.tiles) == (32, 64, 1)


@pytest.mark.parametrize("tensors", [1, 2])
@pytest.mark.parametrize(
    ("size", "channels", "num_groups", "parts", "widths"),
    [
        (112, 32, 32, (4, 8), (16, 16)),  # the deep stem of a ResNet: 392 KiB a slab
        (112, 96, 48, (8, 8), (32, 16)),  # MobileNetV2, groups of 2
        (28, 240, 30, (1, 1), (16, 16)),  # EfficientNet-B0, groups of 8
    ],
)
def test_other_slabs(
    size: int,
    channels: int,
    num_groups: int,
    parts: tuple[int, int],
    widths: tuple[int, int],
    tensors: int,
) -> None:
    slab = mosaic_gpu.plan((8, size, size, channels), "bfloat16", num_groups, tensors)
    assert isinstance(slab, mosaic_gpu.Slab)
    assert (slab.parts, slab.channels) == (parts[tensors - 1], widths[tensors - 1])
    check_slab(slab, channels, channels // num_groups)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("parts", [None, 1, 2, 4, 8])
@pytest.mark.parametrize("channels", [16, 32, 64])
@pytest.mark.parametrize("size", [5, 14, 28, 32, 56, 112])
def test_tiles_that_span_all_channels_fit(
    size: int, channels: int, parts: int | None, dtype: str
) -> None:
    # Mosaic writes them without regard to rows: those of padding would be the next sample's.
    for tensors in (1, 2):
        slab = mosaic_gpu.plan((8, size, size, channels), dtype, channels // 2, tensors, parts)
        if isinstance(slab, mosaic_gpu.Slab) and slab.channels == channels:
            assert slab.small or slab.parts * slab.part_rows == size * size


@pytest.mark.parametrize(
    ("shape", "dtype", "num_groups", "reason"),
    [
        ((2, 4, 4, 8), "float16", 4, "x is float16"),
        ((2, 4, 4, 12), "float32", 4, "multiples of 8"),
        ((65_536, 1, 1, 8), "float32", 4, "at most 65535"),
        ((2, 4, 4, 512), "float32", 1, "cannot be cut into blocks"),
        ((2, 15, 15, 1056), "bfloat16", 32, "groups of 33 cannot be cut into blocks"),
        ((2, 56, 56, 144), "bfloat16", 24, "groups of 6 cannot be cut into blocks"),
        ((2, 29, 29, 8), "bfloat16", 8, "29 x 29 pixels by 8 channels of x"),
        ((2, 228, 228, 512), "bfloat16", 8, "bytes of shared memory in each"),
    ],
)
def test_refuses(shape: tuple[int, ...], dtype: str, num_groups: int, reason: str) -> None:
    message = mosaic_gpu.supports(shape, dtype, num_groups)
    assert message is not None
    assert reason in message
    _, operands = abstract_operands(shape, dtype)
    with pytest.raises(UserError, match=reason):
        jax.eval_shape(functools.partial(mosaic_gpu.backward, num_groups=num_groups), *operands)


@pytest.mark.parametrize(
    ("shape", "dtype", "num_groups"),
    [
        ((8, 56, 56, 64), "bfloat16", 32),
        ((8, 14, 14, 256), "float32", 32),
        ((8, 7, 7, 2048), "bfloat16", 32),
        ((2, 15, 13, 96), "bfloat16", 48),  # three blocks of 32 channels
        ((2, 1, 1, 8), "bfloat16", 1),  # the narrowest row
        ((2, 7, 7, 512), "float32", 4),  # groups of 128
        ((2, 112, 112, 32), "bfloat16", 32),  # clusters
    ],
)
def test_lowers_to_one_launch_each_way(shape: tuple[int, ...], dtype: str, num_groups: int) -> None:
    forward, backward = abstract_operands(shape, dtype)
    text = lower(lambda *o: mosaic_gpu.forward(*o, num_groups, 1e-5), "cuda", *forward)
    assert text.count("@mosaic_gpu_v2") == 1
    text = lower(lambda *o: mosaic_gpu.backward(*o, num_groups), "cuda", *backward)
    assert text.count("@mosaic_gpu_v2") == 1
    text = lower(
        lambda addend, *o: mosaic_gpu.backward(*o, num_groups, addend=addend),
        "cuda",
        *(backward[0], *backward),
    )
    assert text.count("@mosaic_gpu_v2") == 1
    assert "stablehlo.add" not in text


# How y goes out if the copy engine is to know its rows.
TENSOR_STORE = "cp.async.bulk.tensor.global.shared.cta"


@pytest.mark.parametrize(
    ("shape", "dtype", "num_groups", "knows_rows"),
    [
        ((2, 56, 56, 64), "bfloat16", 32, True),
        ((2, 28, 28, 64), "float32", 32, True),
        ((2, 32, 32, 16), "float32", 16, False),  # all channels, whole tiles
        ((3, 5, 13, 32), "float32", 32, False),  # all channels, one copy of just the 65 rows
    ],
)
def test_how_results_are_copied_out(
    shape: tuple[int, ...], dtype: str, num_groups: int, knows_rows: bool
) -> None:
    slab = mosaic_gpu.plan(shape, dtype, num_groups, 1)
    assert isinstance(slab, mosaic_gpu.Slab)
    assert knows_rows or slab.small or not slab.padded
    forward, _ = abstract_operands(shape, dtype)
    text = lower(lambda *o: mosaic_gpu.forward(*o, num_groups, 1e-5), "cuda", *forward)
    assert (TENSOR_STORE in text) == knows_rows


def test_padded_tiles_of_all_channels_would_be_copied_out_wrongly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Why there is no such plan: 832 of 784 rows, without the instruction that knows them.
    padded = mosaic_gpu.Slab(784, 32, group_size=1, itemsize=4, tensors=1)
    assert padded.padded
    monkeypatch.setattr(mosaic_gpu, "plan", lambda *_: padded)
    forward, _ = abstract_operands((2, 28, 28, 32), "float32")
    text = lower(lambda *o: mosaic_gpu.forward(*o, 32, 1e-5), "cuda", *forward)
    assert TENSOR_STORE not in text


def test_lowering_is_a_check(monkeypatch: pytest.MonkeyPatch) -> None:
    slab = mosaic_gpu.plan((2, 56, 56, 48), "bfloat16", 24, 1)
    assert isinstance(slab, mosaic_gpu.Slab)
    broken = dataclasses.replace(slab, rows=5 * 3136, parts=1)
    monkeypatch.setattr(mosaic_gpu, "plan", lambda *_: broken)
    forward, _ = abstract_operands((2, 56, 56, 48), "bfloat16")
    with pytest.raises(ValueError, match="exceeds available shared memory"):
        lower(lambda *o: mosaic_gpu.forward(*o, 24, 1e-5), "cuda", *forward)
