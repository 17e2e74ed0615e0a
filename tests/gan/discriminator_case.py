"""A small discriminator with random parameters, and what ours computes of it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from evonorm_jax.gan import Discriminator, SpectralNorm
from tests.interop.cases import uniform

#: Two stages with a shortcut of their own and one without; the non-local block between them.
PLAYER = SpectralNorm(
    Discriminator(
        widths=(1, 2, 4, 4),
        num_classes=5,
        image_size=16,
        num_downsampled=2,
        num_filters=8,
        attention_size=8,
    ),
    names=("kernel", "embedding"),
)


def make_case() -> dict[str, np.ndarray]:
    """Parameters by path, `u/KxC` of every shape, images, labels and the cotangent of scores."""
    images = jax.ShapeDtypeStruct((3, 16, 16, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct((3,), jnp.int32)
    shapes = jax.eval_shape(PLAYER.network.init, jax.random.key(0), images, labels)["params"]
    case = {}
    for path, leaf in traverse_util.flatten_dict(shapes, sep="/").items():
        fan_in = max(1, np.prod(leaf.shape[:-1]))
        value = uniform(path, leaf.shape) * (3 / fan_in) ** 0.5
        case[path] = np.float32(0.7 if path.endswith("gamma") else value)
    for name, vectors in PLAYER.vector_shapes(shapes).items():
        case[f"u/{name}"] = uniform(f"u/{name}", vectors["u"].shape).astype(np.float32)
    case["images"] = uniform("images", images.shape).astype(np.float32)
    case["labels"] = np.array([0, 3, 3], np.int32)
    case["cotangent"] = uniform("cotangent", (3,)).astype(np.float32)
    return case


def score(
    case: dict[str, np.ndarray], params: dict[str, Any], images: jax.Array, dtype: Any = jnp.float32
) -> jax.Array:
    """Our scores `[N]`, after one step of the power method from the u of the case."""
    spectral = {
        name: {"u": case[f"u/{name}"], "v": np.zeros(shapes["v"].shape, np.float32)}
        for name, shapes in PLAYER.vector_shapes(params).items()
    }
    player = SpectralNorm(PLAYER.network.clone(dtype=dtype), PLAYER.names)
    variables = {"params": params, "spectral": spectral}
    return player.apply(variables, images, case["labels"], mutable=["spectral"])[0]


def params_of(case: dict[str, np.ndarray]) -> dict[str, Any]:
    """The parameters of a case."""
    flat = {name: value for name, value in case.items() if name.split("/")[0] not in _INPUTS}
    return traverse_util.unflatten_dict(flat, sep="/")


def run_ours(case: dict[str, np.ndarray]) -> dict[str, Any]:
    """Scores and the norms of the gradients, by the images and by each parameter."""

    @jax.jit
    def run(params, images):
        def loss(params, images):
            scores = score(case, params, images)
            return jnp.sum(scores * case["cotangent"]), scores

        gradients, scores = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, images)
        return scores, jax.tree.map(jnp.linalg.norm, gradients)

    scores, (by_params, by_images) = run(params_of(case), case["images"])
    norms = traverse_util.flatten_dict(by_params, sep="/") | {"images": by_images}
    return {"scores": np.asarray(scores), **{name: float(norm) for name, norm in norms.items()}}


_INPUTS = ("u", "images", "labels", "cotangent")
