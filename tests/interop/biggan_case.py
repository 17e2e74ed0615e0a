"""A small BigGAN-deep generator with random weights, the same on every machine."""

import numpy as np

from tests.interop.cases import uniform

#: Fields of the generator, as pytorch-pretrained-biggan calls them: 128 pixels, all 10 blocks.
CONFIG = {"channel_width": 8, "num_classes": 10, "z_dim": 12, "n_stats": 51, "eps": 1e-4}
TRUNCATION = 0.4
#: Of the 128x128 pixels every eighth is recorded, with an offset that is no multiple of the pools.
PIXELS = (slice(None), slice(3, None, 8), slice(5, None, 8))


def make_state_dict(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Weights of these names and shapes; u and v as the power method leaves them."""
    tensors = {name: _tensor(name, tuple(shape)) for name, shape in shapes.items()}
    for name, weight in tensors.items():
        if name.endswith("weight_orig"):
            u, v = _singular_vectors(weight.reshape(len(weight), -1).astype(np.float64))
            prefix = name.removesuffix("weight_orig")
            tensors |= {f"{prefix}weight_u": u, f"{prefix}weight_v": v}
    return tensors


def make_inputs(num_images: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Noise `[N, z_dim]` and labels `[N]`."""
    z = TRUNCATION * uniform("z", (num_images, CONFIG["z_dim"])).astype(np.float32)
    return z, np.arange(num_images) * 7 % CONFIG["num_classes"]


def _tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    x = uniform(name, shape)
    if name.endswith("running_vars"):
        x = np.exp(x)
    elif name.endswith("gamma"):
        x = np.full(shape, 0.7)
    elif name.endswith(".bn.weight"):
        x = 1 + 0.5 * x
    elif name.endswith((".bias", "running_means")):
        x = 0.3 * x
    return x.astype(np.float32)


def _singular_vectors(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """After 20 steps from a fixed vector: near the largest singular value, not at it."""
    u = uniform("u", (len(w),))
    for _ in range(20):
        v = w.T @ u
        v /= np.linalg.norm(v)
        u = w @ v
        u /= np.linalg.norm(u)
    return u.astype(np.float32), v.astype(np.float32)
