"""The parser of optimised HLO text, on lines as XLA:GPU and XLA:TPU print them."""

import pytest

from evonorm_jax.benchmarks.hlo import Array, parse_arrays, parse_module

TEXT = """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

FileNames
1 "a.py"

%fused_add (param_0.1: f32[8], param_1: f32[8]) -> f32[8] {
  %param_0.1 = f32[8]{0} parameter(0)
  %param_1 = f32[8]{0} parameter(1), metadata={op_name="state[\\"norm\\"]"}
  ROOT %add.1 = f32[8]{0} add(%param_0.1, %param_1)
}

ENTRY %main.3_spmd (x: f32[8], y: (f32[8], s32[])) -> (f32[8], f32[8]) {
  %x = f32[8]{0} parameter(0), sharding={replicated}
  %kernel.1 = (f32[8]{0:T(128)S(1)}, /*index=1*/u8[0]{0}) custom-call(%x, /*index=1*/%x), \
custom_call_target="mosaic_gpu_v2", metadata={op_name="jit(f)/norm/call" stack_frame_id=2}, \
backend_config={module="calls=%junk custom_call_target=\\"x\\" ((("}
  %part = f32[8]{0} get-tuple-element(%kernel.1), index=0
  %fusion.2 = f32[8]{0} fusion(%x, %part), kind=kLoop, calls=%fused_add, \
metadata={op_name="jit(f)/add"}
  ROOT %tuple = (f32[8]{0}, f32[8]{0}) tuple(%fusion.2, %part)
}
"""


def test_computations_and_their_instructions():
    module = parse_module(TEXT)
    assert module.entry == "main.3_spmd"
    assert list(module.computations) == ["fused_add", "main.3_spmd"]
    x, kernel, part, fusion, root = module.computations[module.entry]
    assert (x.opcode, x.operands, x.op_name) == ("parameter", ("0",), "")
    assert (kernel.opcode, kernel.operands) == ("custom-call", ("x", "x"))
    assert [array.dtype for array in kernel.arrays] == ["f32", "u8"]
    assert (kernel.target, kernel.op_name) == ("mosaic_gpu_v2", "jit(f)/norm/call")
    assert kernel.called == ()  # what stands in the code of a kernel is no reference
    assert (part.opcode, part.operands) == ("get-tuple-element", ("kernel.1",))
    assert fusion.called == ("fused_add",)
    assert [step.name for step in module.inner(fusion)] == ["param_0.1", "param_1", "add.1"]
    assert module.inner(kernel) == ()
    assert root.is_root
    assert not fusion.is_root
    assert len(root.arrays) == 2


def test_quotes_inside_a_name():
    (_, parameter, _) = parse_module(TEXT).computations["fused_add"]
    assert parameter.op_name == 'state[\\"norm\\"]'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("f32[]", [Array("f32", (), 4)]),
        ("pred[7]{0}", [Array("pred", (7,), 7)]),
        ("c64[2,3]{1,0}", [Array("c64", (2, 3), 48)]),
        ("token[]", []),
        # Tiles of 8 x 128 over the dimensions from the minor one on: 56 x 56 x 64 x 128 fits.
        ("bf16[128,56,56,64]{0,3,2,1:T(8,128)(2,1)}", [Array("bf16", (128, 56, 56, 64), 51380224)]),
        # Channels first among neighbours: 64 is padded to 128, 3 images to 8.
        ("f32[3,5,64]{2,0,1:T(8,128)S(1)}", [Array("f32", (3, 5, 64), 8 * 5 * 128 * 4, 1)]),
        ("f32[100]{0:T(128)}", [Array("f32", (100,), 512)]),
        ("f32[4]{0:S(5)}", [Array("f32", (4,), 16, 5)]),
        (
            "((f32[8]{0}, s8[3]{0}), u32[]{:S(2)})",
            [Array("f32", (8,), 32), Array("s8", (3,), 3), Array("u32", (), 4, 2)],
        ),
    ],
)
def test_arrays_of_a_type(text, expected):
    assert list(parse_arrays(text)) == expected


def test_branches_of_a_conditional_and_parts_of_a_loop():
    module = parse_module("""\
ENTRY %main (p: pred[], x: f32[8]) -> f32[8] {
  %p = pred[] parameter(0)
  %x = f32[8]{0} parameter(1)
  %one = f32[8]{0} conditional(%p, %x, %x), true_computation=%yes, false_computation=%no
  %two = f32[8]{0} conditional(%p, %x, %x), branch_computations={%yes, %no}
  ROOT %loop = f32[8]{0} while(%two), condition=%until, body=%again
}
""")
    *_, one, two, loop = module.computations["main"]
    assert one.called == two.called == ("yes", "no")
    assert loop.called == ("until", "again")


def test_text_that_is_no_module():
    with pytest.raises(ValueError, match="no line that begins with ENTRY"):
        parse_module("module @jit_f { func.func @main() }")
