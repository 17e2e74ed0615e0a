"""FLOPs of products: by hand, and against XLA's own count of a compiled convolution."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from evonorm_jax.benchmarks.hlo import parse_module
from evonorm_jax.benchmarks.hlo_flops import count_flops
from evonorm_jax.benchmarks.hlo_traffic import find_kernels


def flops_of(line, **types):
    """Of one instruction whose operands have the given types."""
    parameters = "\n".join(
        f"  %{name} = {array} parameter({number})"
        for number, (name, array) in enumerate(types.items())
    )
    module = parse_module(f"ENTRY %main () -> f32[] {{\n{parameters}\n  ROOT %y = {line}\n}}\n")
    instructions = module.computations["main"]
    return count_flops(module, instructions[-1], {i.name: i.arrays for i in instructions})


# 2 images of 4 x 4, 3 channels, a 3 x 3 kernel to 5 channels, one pixel of padding. In a dimension
# 2 + 3 + 3 + 2 = 10 pairs of a pixel and a kernel position meet, so 100 in the plane.
FORWARD = 2 * 2 * 5 * 3 * 100
WINDOW = "window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f"
IMAGE, KERNEL, OUTPUT = "bf16[2,4,4,3]{3,2,1,0}", "bf16[5,3,3,3]{3,2,1,0}", "bf16[2,4,4,5]{3,2,1,0}"


@pytest.mark.parametrize(
    ("target", "left", "right", "result"),
    [
        ("", IMAGE, KERNEL, OUTPUT),
        ("__cudnn$convForward", IMAGE, KERNEL, OUTPUT),
        ("__cudnn$convBackwardInput", OUTPUT, KERNEL, IMAGE),
        ("__cudnn$convBackwardFilter", IMAGE, OUTPUT, KERNEL),
    ],
)
def test_a_convolution_and_its_gradients(target, left, right, result):
    line = f"{result} convolution(%a, %b), {WINDOW}"
    if target:
        scratch = "u8[64]{0}"
        call = f'custom-call(%a, %b), {WINDOW}, custom_call_target="{target}"'
        line = f"({result}, {scratch}) {call}"
    assert flops_of(line, a=left, b=right) == FORWARD


def test_a_kernel_gradient_as_xla_writes_it():
    """Images are channels of it, and its window is as large as the image."""
    line = (
        "f32[3,3,3,5]{3,2,1,0} convolution(%a, %b), window={size=4x4 pad=1_1x1_1}, "
        "dim_labels=f01b_i01o->01bf"
    )
    assert flops_of(line, a="f32[2,4,4,3]{3,2,1,0}", b="f32[2,4,4,5]{3,2,1,0}") == FORWARD


@pytest.mark.parametrize(
    ("line", "types", "expected"),
    [
        (
            "f32[6,8]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}",
            {"a": "f32[6,7]{1,0}", "b": "f32[7,8]{1,0}"},
            2 * 6 * 7 * 8,
        ),
        (
            '(f32[6,8]{1,0}, s8[99]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm"',
            {"a": "f32[6,7]{1,0}", "b": "f32[7,8]{1,0}"},
            2 * 6 * 7 * 8,
        ),
        (
            "f32[6,8]{1,0} convolution(%a, %b), dim_labels=bf_io->bf",
            {"a": "f32[6,7]{1,0}", "b": "f32[7,8]{1,0}"},
            2 * 6 * 7 * 8,
        ),
        ("f32[6,7]{1,0} add(%a, %b)", {"a": "f32[6,7]{1,0}", "b": "f32[6,7]{1,0}"}, 0),
    ],
)
def test_matrix_products(line, types, expected):
    assert flops_of(line, **types) == pytest.approx(expected)


@pytest.mark.parametrize(
    "options",
    [
        {"window_strides": (2, 2), "padding": ((1, 1), (1, 2))},
        {"window_strides": (1, 1), "padding": ((2, 2), (2, 2)), "rhs_dilation": (2, 2)},
        {"window_strides": (1, 1), "padding": ((1, 2), (1, 2)), "lhs_dilation": (2, 2)},
        {"window_strides": (1, 1), "padding": "SAME", "feature_group_count": 3},
    ],
)
def test_as_xla_counts_them(options):
    groups = options.get("feature_group_count", 1)
    image = jnp.zeros((2, 7, 6, 3))
    kernel = jnp.zeros((3, 3, 3 // groups, 6))

    @jax.jit
    def convolve(image, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(image, kernel, dimension_numbers=numbers, **options)

    compiled = convolve.lower(image, kernel).compile()
    kernels = find_kernels(parse_module(compiled.as_text()), "cpu")
    assert sum(k.flops for k in kernels) == compiled.cost_analysis()["flops"] > 0
