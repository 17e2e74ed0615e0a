"""Random weights and images for the Inception network, the same on every machine."""

import numpy as np

from tests.interop.cases import uniform

#: Small enough for two cores, large enough for maps of 2x2 pixels at the end.
SIZE = 107


def make_state_dict(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Weights of these names and shapes that neither vanish nor grow through 94 layers."""
    return {name: _tensor(name, tuple(shape)) for name, shape in shapes.items()}


def make_images() -> np.ndarray:
    """Two images of 40x32 pixels, uint8 `[N, H, W, 3]`: neither side divides `SIZE`."""
    return (127.5 * (uniform("images", (2, 40, 32, 3)) + 1)).astype(np.uint8)


def _tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    x = uniform(name, shape)
    if len(shape) > 1:
        x = x * (6 / np.prod(shape[1:])) ** 0.5  # variance 2 / fan-in, for ReLU
    elif name.endswith("running_var"):
        x = np.exp(0.5 * x)
    elif name.endswith("bn.weight"):
        x = 1 + 0.3 * x
    else:
        x = 0.3 * x
    return x.astype(np.float32)
