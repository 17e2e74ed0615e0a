"""Kernels of a trace to classes, from a hand-made program and hand-made events."""

import jax
import jax.numpy as jnp
import pytest

from evonorm_jax.benchmarks import device_profile
from evonorm_jax.benchmarks.device_profile import CONVOLUTIONS, KERNELS, LAYERS, REST

HLO = """
  %loop_multiply_fusion.3 = bf16[8]{0} fusion(%p), metadata={op_name="jit(f)/block1/norm1/mul"}
  %custom-call.1 = bf16[8]{0} custom-call(%p), metadata={op_name="jit(f)/conv_general_dilated"}
  ROOT %add.7 = f32[8]{0} add(%a, %b), metadata={op_name="jit(f)/sgd/add"}
"""


def test_sums_by_hand():
    events = [
        ("loop_multiply_fusion_3", "loop_multiply_fusion.3", 0.001),
        ("evonorm_s0_forward", "", 0.002),
        ("sm90_xmma_fprop_implicit_gemm", "custom-call.1", 0.004),
        ("cutlass_80_wgrad", "", 0.008),  # a library's kernel that the trace has no name for
        ("add_7", "", 0.016),
        ("MemcpyD2D", "", 0.032),
    ]
    found = device_profile.summarize_kernels(events, HLO, steps=2)
    assert found == {
        LAYERS: pytest.approx(1.5),
        CONVOLUTIONS: pytest.approx(6),
        REST: pytest.approx(24),
        KERNELS: 3,
    }


def test_a_trace_without_a_device():
    program = jax.jit(jnp.sin).lower(jnp.ones(8)).compile()
    assert device_profile.profile_step(lambda: program(jnp.ones(8)), program.as_text()) == {}
