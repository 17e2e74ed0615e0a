"""Weights and images for comparing one of timm's networks with its twin, and what the twin gives.

The numbers come from the raw output of a PCG64 generator, which NumPy promises not to change, so
that a recorded case needs no recorded weights.
"""

import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from evonorm_jax.interop import create_timm_model, from_timm_state_dict


class Case(NamedTuple):
    """What a network is run on."""

    state_dict: dict[str, np.ndarray]  # counters included
    images: np.ndarray  # [N, H, W, C]
    cotangent: np.ndarray  # [N, K], of the logits


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values in [-1, 1) that depend on the name and the size alone."""
    raw = np.random.PCG64(zlib.crc32(name.encode())).random_raw(int(np.prod(shape)))
    return (raw / 2.0**63 - 1).reshape(shape)


def make_case(
    shapes: dict[str, tuple[int, ...]], *, batch: int, image_size: int, num_classes: int
) -> Case:
    """Random weights for tensors of these names and shapes; no two channels are alike."""
    return Case(
        {name: _tensor(name, tuple(shape)) for name, shape in shapes.items()},
        uniform("images", (batch, image_size, image_size, 3)).astype(np.float32),
        uniform("cotangent", (batch, num_classes)).astype(np.float32),
    )


def _tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    x = uniform(name, shape)
    if len(shape) > 1:
        x = x * (3 / np.prod(shape[1:])) ** 0.5  # variance 1 / fan-in
    elif name.endswith("running_var"):
        x = np.exp(x)
    elif name.endswith((".weight", ".v")):
        x = 1 + 0.5 * x
    else:
        x = 0.3 * x  # biases, running means
    return x.astype(np.float32)


class Outputs(NamedTuple):
    """Logits in both modes, and the norm of the gradient by each tensor under timm's names."""

    eval_logits: np.ndarray
    train_logits: np.ndarray
    gradient_norms: dict[str, np.ndarray]


def run_twin(timm_name: str, case: Case, **fields: Any) -> Outputs:
    """What our network computes of a case, with its weights carried over."""
    variables = from_timm_state_dict(case.state_dict, timm_name, **fields)
    model = create_timm_model(timm_name, case.cotangent.shape[1], **fields)

    @jax.jit
    def evaluate(variables, images):
        return model.apply(variables, images, train=False)

    @jax.jit
    def train(params, state, images, cotangent):
        def loss(params):
            logits, _ = model.apply(
                {"params": params, **state}, images, train=True, mutable=["batch_stats"]
            )
            return jnp.sum(logits * cotangent), logits

        gradient, logits = jax.grad(loss, has_aux=True)(params)
        return logits, jax.tree.map(jnp.linalg.norm, jax.tree.map(jnp.ravel, gradient))

    params = variables.pop("params")
    logits = evaluate({"params": params, **variables}, case.images)
    train_logits, norms = train(params, variables, case.images, case.cotangent)
    return Outputs(np.asarray(logits), np.asarray(train_logits), norms)


def deviation(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
