"""Weights and images for comparing one of timm's networks with its twin, and what the twin gives.

The numbers come from the raw output of a PCG64 generator, which NumPy promises not to change, so
that a recorded case needs no recorded weights.
"""

import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from evonorm_jax.interop import create_timm_model, from_timm_state_dict, timm_tensors


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
    """Logits in both modes, and the norm of the gradient by each tensor, under timm's names."""

    eval_logits: np.ndarray
    train_logits: np.ndarray
    gradient_norms: dict[str, float]


def run_twin(timm_name: str, case: Case, *, dtype: Any = np.float32, **fields: Any) -> Outputs:
    """What our network computes of a case in that dtype, with its weights carried over."""
    num_classes = case.cotangent.shape[1]
    model = create_timm_model(timm_name, num_classes, dtype=dtype, **fields)
    variables = from_timm_state_dict(case.state_dict, timm_name, **fields)
    variables, images, cotangent = jax.tree.map(
        lambda array: array.astype(dtype), (variables, case.images, case.cotangent)
    )

    @jax.jit
    def run(variables, images, cotangent):
        def loss(params):
            logits, _ = model.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            return jnp.sum(logits * cotangent), logits

        gradient, train_logits = jax.grad(loss, has_aux=True)(variables["params"])
        norms = jax.tree.map(lambda array: jnp.sqrt(jnp.sum(array**2)), gradient)
        return model.apply(variables, images, train=False), train_logits, norms

    eval_logits, train_logits, norms = run(variables, images, cotangent)
    flat = traverse_util.flatten_dict({"params": norms})
    places = timm_tensors(timm_name, num_classes, **fields).items()
    by_name = {name: float(flat[place.path]) for name, place in places if place.path in flat}
    return Outputs(np.asarray(eval_logits), np.asarray(train_logits), by_name)


def deviations(ours: Outputs, theirs: Outputs) -> dict[str, float]:
    """The largest differences, relative to the largest logit, the whole norm, each tensor's norm.

    A tensor whose gradient is below a millionth of the whole counts as if it were that.
    """
    assert ours.gradient_norms.keys() == theirs.gradient_norms.keys()
    total = _total(theirs)
    return {
        "eval": _deviation(ours.eval_logits, theirs.eval_logits),
        "train": _deviation(ours.train_logits, theirs.train_logits),
        "gradient": abs(_total(ours) / total - 1),
        "gradient by tensor": max(
            abs(ours.gradient_norms[name] - norm) / max(norm, 1e-6 * total)
            for name, norm in theirs.gradient_norms.items()
        ),
    }


def _total(outputs: Outputs) -> float:
    return float(np.linalg.norm(list(outputs.gradient_norms.values())))


def _deviation(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
