"""EvoNorm and its baselines as fused, differentiable functions of arrays.

Training keeps x and two statistics per sample and channel for the backward pass, where plain
differentiation keeps 6 (S0) or 8 (B0) float32 tensors of x's shape. This saves memory where a layer
is differentiated by itself, and on CPU. Inside a compiled network it saves none on GPU: XLA:GPU
computes those tensors again, so that the plain formulas need no more memory. The form is chosen
when the program is lowered: one for CPU, one for GPU, one for everything else.

* `evonorm.py`, `baselines.py`: the functions, with checks and the choice of an implementation.
* `validation.py`: the checks of the arguments.
* `layers.py`: each layer as coefficients of an elementwise form (`elementwise.py`).
* `fused.py`: the one differentiable operation made of these.
* `platforms.py`, `cpu_math.py`: the operations that differ between CPU, GPU and TPU.
* `pooling.py`: moments of groups, batches and devices from those of single maps.
* `moments.py`: the moments of whole tensors, for layers that have no kernel.
* `pallas.py`, `mosaic_gpu*.py`: EvoNorm-S0 written by hand for Hopper GPUs.
* `reference.py`: the plain formulas.
* `depthwise.py`: depthwise convolution.
"""

from evonorm_jax.kernels.baselines import (
    ACTIVATIONS,
    batch_norm,
    batch_norm_inference,
    filter_response_norm,
    group_norm,
)
from evonorm_jax.kernels.evonorm import (
    evonorm_b0,
    evonorm_b0_inference,
    evonorm_b1,
    evonorm_b1_inference,
    evonorm_b2,
    evonorm_b2_inference,
    evonorm_s0,
    evonorm_s0_with_shortcut,
    evonorm_s1,
    evonorm_s2,
)
from evonorm_jax.kernels.implementations import IMPLEMENTATIONS

__all__ = [
    "ACTIVATIONS",
    "IMPLEMENTATIONS",
    "batch_norm",
    "batch_norm_inference",
    "evonorm_b0",
    "evonorm_b0_inference",
    "evonorm_b1",
    "evonorm_b1_inference",
    "evonorm_b2",
    "evonorm_b2_inference",
    "evonorm_s0",
    "evonorm_s0_with_shortcut",
    "evonorm_s1",
    "evonorm_s2",
    "filter_response_norm",
    "group_norm",
]
