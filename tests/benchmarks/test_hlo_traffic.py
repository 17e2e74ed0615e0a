"""Bytes of kernels, by hand: f32[1024] is 4 KiB, bf16[1024] is 2 KiB."""

import pytest

from evonorm_jax.benchmarks.hlo import parse_module
from evonorm_jax.benchmarks.hlo_traffic import find_kernels, total_bytes

KIB = 1024

COMPUTATIONS = """\
%scaled (a: bf16[1024], b: f32[]) -> f32[1024] {
  %a = bf16[1024]{0} parameter(0)
  %b = f32[] parameter(1)
  %wide = f32[1024]{0} convert(%a), metadata={op_name="jit(f)/jvp(Net)/norm/convert"}
  %all = f32[1024]{0} broadcast(%b), dimensions={}
  ROOT %product = f32[1024]{0} multiply(%wide, %all)
}
%two_results (a: f32[1024]) -> (f32[1024], f32[]) {
  %a = f32[1024]{0} parameter(0)
  %zero = f32[] constant(0)
  %sum = f32[] reduce(%a, %zero), dimensions={0}, to_apply=%add
  %minus = f32[1024]{0} negate(%a)
  ROOT %both = (f32[1024]{0}, f32[]) tuple(%minus, %sum)
}
%a_row (a: f32[4,256]) -> f32[256] {
  %a = f32[4,256]{1,0} parameter(0)
  %same = f32[1024]{0} bitcast(%a)
  %row = f32[256]{0} slice(%same), slice={[256:512]}
  ROOT %minus = f32[256]{0} negate(%row)
}
%half_a_row (a: bf16[1024]) -> f32[256] {
  %a = bf16[1024]{0} parameter(0)
  %half = f32[] constant(0.5)
  %halves = f32[1024]{0} broadcast(%half), dimensions={}
  %wide = f32[1024]{0} convert(%a)
  %scaled = f32[1024]{0} multiply(%wide, %halves)
  ROOT %row = f32[256]{0} slice(%scaled), slice={[256:512]}
}
%row_and_all (a: f32[1024]) -> f32[1024] {
  %a = f32[1024]{0} parameter(0)
  %row = f32[256]{0} slice(%a), slice={[0:256]}
  %padded = f32[1024]{0} pad(%row, %row), padding=0_768
  ROOT %sum = f32[1024]{0} add(%a, %padded)
}
%inner_row (a: f32[1024]) -> f32[256] {
  %a = f32[1024]{0} parameter(0)
  ROOT %row = f32[256]{0} slice(%a), slice={[0:256]}
}
%inner_same (a: f32[1024]) -> f32[4,256] {
  %a = f32[1024]{0} parameter(0)
  ROOT %same = f32[4,256]{1,0} bitcast(%a)
}
%nested (a: f32[1024], b: f32[1024]) -> f32[256] {
  %a = f32[1024]{0} parameter(0)
  %b = f32[1024]{0} parameter(1)
  %row = f32[256]{0} fusion(%a), kind=kLoop, calls=%inner_row
  %rows = f32[4,256]{1,0} fusion(%b), kind=kLoop, calls=%inner_same
  %sums = f32[256]{0} reduce(%rows, %row), dimensions={0}, to_apply=%add
  ROOT %sum = f32[256]{0} add(%row, %sums)
}
%in_place (a: f32[1024], b: f32[256], i: s32[]) -> f32[4,256] {
  %a = f32[1024]{0} parameter(0)
  %b = f32[256]{0} parameter(1)
  %i = s32[] parameter(2)
  %updated = f32[1024]{0} dynamic-update-slice(%a, %b, %i)
  ROOT %same = f32[4,256]{1,0} bitcast(%updated)
}
%computed_in_place (a: f32[1024], b: f32[256], i: s32[]) -> f32[1024] {
  %a = f32[1024]{0} parameter(0)
  %b = f32[256]{0} parameter(1)
  %i = s32[] parameter(2)
  %minus = f32[1024]{0} negate(%a)
  ROOT %updated = f32[1024]{0} dynamic-update-slice(%minus, %b, %i)
}
%row_of_one_and_all_of_the_other (a: f32[1024], b: f32[1024]) -> f32[256] {
  %a = f32[1024]{0} parameter(0)
  %b = f32[1024]{0} parameter(1)
  %row = f32[256]{0} slice(%a), slice={[0:256]}
  %rows = f32[4,256]{1,0} bitcast(%b)
  ROOT %sums = f32[256]{0} reduce(%rows, %row), dimensions={0}, to_apply=%add
}
%turned (a: f32[4,256]) -> f32[256,4] {
  %a = f32[4,256]{1,0} parameter(0)
  ROOT %turn = f32[256,4]{1,0} transpose(%a), dimensions={1,0}
}
%cheap (x: f32[1024]) -> f32[1024] {
  ROOT %x = f32[1024]{0} parameter(0)
}
%dear (x: f32[1024]) -> f32[1024] {
  %x = f32[1024]{0} parameter(0)
  ROOT %minus = f32[1024]{0} negate(%x)
}
%again (x: f32[1024]) -> f32[1024] {
  %x = f32[1024]{0} parameter(0)
  ROOT %minus = f32[1024]{0} negate(%x)
}
%until (x: f32[1024]) -> pred[] {
  %x = f32[1024]{0} parameter(0)
  ROOT %yes = pred[] constant(true)
}
"""


def kernels_of(lines, platform="gpu", **keywords):
    """Those of a program whose x is f32[1024], with further parameters of other types."""
    entry = f"""\
ENTRY %main (x: f32[1024], h: bf16[1024], s: f32[], i: s32[]) -> f32[1024] {{
  %x = f32[1024]{{0}} parameter(0)
  %h = bf16[1024]{{0}} parameter(1)
  %s = f32[] parameter(2)
  %i = s32[] parameter(3)
{lines}
}}
"""
    return find_kernels(parse_module(COMPUTATIONS + entry), platform, **keywords)


@pytest.mark.parametrize(
    ("line", "read", "written"),
    [
        ("%y = f32[1024]{0} negate(%x)", 4 * KIB, 4 * KIB),
        ("%y = f32[1024]{0} multiply(%x, %x)", 4 * KIB, 4 * KIB),  # one operand, named twice
        (
            "%y = f32[1024]{0} fusion(%h, %s), kind=kLoop, calls=%scaled",
            2 * KIB + 4,
            4 * KIB,
        ),
        (
            "%y = (f32[1024]{0}, f32[]) fusion(%x), kind=kInput, calls=%two_results",
            4 * KIB,
            4 * KIB + 4,
        ),
        ("%y = f32[256]{0} slice(%x), slice={[0:256]}", KIB, KIB),
        ("%y = f32[256]{0} fusion(%x), kind=kLoop, calls=%a_row", KIB, KIB),
        # Only the row is converted and scaled: 256 numbers of two bytes.
        ("%y = f32[256]{0} fusion(%h), kind=kLoop, calls=%half_a_row", KIB / 2, KIB),
        # The row is part of what is read anyway.
        ("%y = f32[1024]{0} fusion(%x), kind=kLoop, calls=%row_and_all", 4 * KIB, 4 * KIB),
        # A slice in a fusion inside the fusion: 1 KiB of x; all of h there, if a bitcast gives it.
        ("%y = f32[256]{0} fusion(%x, %h), kind=kLoop, calls=%nested", KIB + 2 * KIB, KIB),
        # Only the update moves: 1 KiB and a number read, 1 KiB written.
        ("%y = f32[4,256]{1,0} fusion(%x, %u, %i), kind=kLoop, calls=%in_place", KIB + 4, KIB),
        # What is updated has to be computed first: all of x, the update and a number are read.
        (
            "%y = f32[1024]{0} fusion(%x, %u, %i), kind=kLoop, calls=%computed_in_place",
            5 * KIB + 4,
            KIB,
        ),
        # The same array in two places, of which one reads all of it.
        (
            "%y = f32[256]{0} fusion(%x, %x), kind=kLoop, calls=%row_of_one_and_all_of_the_other",
            4 * KIB,
            KIB,
        ),
        # A library's scratch memory is no result.
        (
            '%y = (f32[1024]{0}, u8[4096]{0}) custom-call(%x, %h), custom_call_target="__cublas$g"',
            6 * KIB,
            4 * KIB,
        ),
        # Another kernel's bytes are.
        (
            '%y = (f32[1024]{0}, u8[4096]{0}) custom-call(%x), custom_call_target="mosaic_gpu_v2"',
            4 * KIB,
            8 * KIB,
        ),
        ("%y = f32[1024]{0} all-reduce(%x), to_apply=%add", 4 * KIB, 4 * KIB),
        (
            "%y = ((f32[1024]{0}), f32[1024]{0}) all-reduce-start(%x), to_apply=%add",
            4 * KIB,
            4 * KIB,
        ),
    ],
)
def test_bytes_of_a_kernel(line, read, written):
    update = "  %u = f32[256]{0} get-tuple-element(%x), index=0\n"
    (kernel,) = kernels_of(update + "  " + line)
    assert (kernel.read, kernel.written) == (read, written)
    assert kernel.bytes == read + written


def test_what_starts_no_kernel():
    free = """\
  %t = (f32[1024]{0}, f32[]) tuple(%x, %s)
  %g = f32[1024]{0} get-tuple-element(%t), index=0
  %b = f32[4,256]{1,0} bitcast(%g)
  %c = f32[1024]{0} constant({...})
  %join = f32[1024]{0} custom-call(%x), custom_call_target="ConcatBitcast"
  %done = f32[1024]{0} all-reduce-done(%g)
  %barrier = (f32[1024]{0}) opt-barrier(%t)"""
    assert kernels_of(free) == []


def test_memory_that_is_on_the_chip_of_a_tpu():
    lines = """\
  %in = (f32[1024]{0:S(1)}, f32[1024]{0}, u32[]{:S(2)}) copy-start(%x)
  %near = f32[1024]{0:S(1)} copy-done(%in)
  %y = f32[1024]{0:S(1)} negate(%near)
  %out = (f32[1024]{0}, f32[1024]{0:S(1)}, u32[]{:S(2)}) copy-start(%y)
  %part = ((f32[1024]{0}), f32[256]{0:S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:256]}"""
    moved = [(kernel.read, kernel.written) for kernel in kernels_of(lines, "tpu")]
    assert moved == [(4 * KIB, 0), (0, 0), (0, 4 * KIB), (KIB, 0)]
    # On a GPU the same number means main memory.
    assert [(k.read, k.written) for k in kernels_of(lines, "gpu")][1] == (4 * KIB, 4 * KIB)


def test_calls_are_entered():
    (kernel,) = kernels_of("  %y = f32[1024]{0} call(%x), to_apply=%dear")
    assert (kernel.instruction.name, kernel.bytes) == ("minus", 8 * KIB)


@pytest.mark.parametrize(
    ("config", "trips"),
    [('backend_config={"known_trip_count":{"n":"10"},"x":1}', 10), ("frontend_attributes={}", 1)],
)
def test_a_loop_counts_as_often_as_it_runs(config, trips):
    line = f"  %y = f32[1024]{{0}} while(%x), condition=%until, body=%again, {config}"
    (kernel,) = kernels_of(line)
    assert (kernel.count, kernel.bytes) == (trips, trips * 8 * KIB)


def test_of_a_conditional_one_branch_counts():
    line = "  %y = f32[1024]{0} conditional(%i, %x, %x), branch_computations={%cheap, %dear}"
    assert total_bytes(kernels_of(line)) == 8 * KIB
    assert total_bytes(kernels_of(line, branch=min)) == 0


@pytest.mark.parametrize(
    ("line", "size"),
    [
        ("%y = f32[1024]{0} all-reduce(%x), to_apply=%add", 4 * KIB),
        ("%y = (f32[1024]{0}, bf16[1024]{0}) all-reduce(%x, %h), to_apply=%add", 6 * KIB),
        ("%y = f32[1024]{0} all-reduce-start(%x), to_apply=%add", 4 * KIB),
        ("%y = ((f32[1024]{0}), f32[1024]{0}) all-reduce-start(%x), to_apply=%add", 4 * KIB),
        ("%y = f32[1024]{0} all-gather(%x), dimensions={0}", 0),
    ],
)
def test_size_of_an_all_reduce(line, size):
    (kernel,) = kernels_of("  " + line)
    assert kernel.all_reduced == size


@pytest.mark.parametrize(
    ("line", "reorders"),
    [
        ("%y = f32[1024]{0} copy(%x)", True),
        ("%y = f32[256,4]{1,0} fusion(%x), kind=kInput, calls=%turned", True),
        ("%y = f32[1024]{0} fusion(%h, %s), kind=kLoop, calls=%scaled", False),
        ("%y = (f32[1024]{0:S(1)}, f32[1024]{0}, u32[]) copy-start(%x)", False),  # a prefetch
    ],
)
def test_kernels_that_reorder(line, reorders):
    (kernel,) = kernels_of("  " + line)
    assert kernel.is_reordering is reorders


def test_where_a_kernel_comes_from():
    fusion = 'fusion(%h, %s), kind=kLoop, calls=%scaled, metadata={{op_name="{}"}}'
    lines = [
        f"  %{name} = f32[1024]{{0}} " + fusion.format(path)
        for name, path in (
            ("forward", "jit(f)/jvp(Net)/conv/add"),
            ("backward", "jit(f)/transpose(jvp(Net))/norm/mul"),
        )
    ]
    forward, backward = kernels_of("\n".join(lines))
    assert forward.is_within("norm")  # by an instruction that is fused into it
    assert not forward.is_backward("norm")
    assert backward.is_backward("norm")
    assert not backward.is_within("head")


@pytest.mark.parametrize(
    ("target", "by_hand"),
    [("mosaic_gpu_v2", True), ("tpu_custom_call", True), ("__cudnn$x", False)],
)
def test_hand_written_kernels(target, by_hand):
    line = f'  %y = f32[1024]{{0}} custom-call(%x, %h), custom_call_target="{target}"'
    (kernel,) = kernels_of(line)
    assert kernel.is_hand_written is by_hand
