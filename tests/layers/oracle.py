"""Every layer once more, in NumPy and float64, straight from the formulas of the paper.

Nothing here knows the package under test: no shared helper, no JAX, no pooling of partial
statistics. Gradients are central finite differences of fourth order, exact to about 1e-9, and
refuse a point so near to a kink of `max` that the differences straddle it.
"""

import math
from collections.abc import Callable

import numpy as np

Params = dict[str, np.ndarray]
Stats = dict[str, np.ndarray]

BATCH, LAYER, INSTANCE, PIXEL = (0, 1, 2), (1, 2, 3), (1, 2), (3,)


def mean(x, axes):
    return x.mean(axis=axes, keepdims=True)


def variance(x, axes):
    return mean((x - mean(x, axes)) ** 2, axes)


def mean_square(x, axes):
    return mean(x**2, axes)


def by_group(statistic, x, groups):
    """Fills every group of channels of every image with its own statistic."""
    out = np.empty_like(x)
    size = x.shape[3] // groups
    for n in range(x.shape[0]):
        for g in range(groups):
            part = slice(g * size, (g + 1) * size)
            out[n, :, :, part] = statistic(x[n : n + 1, :, :, part], LAYER)
    return out


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def relu(x):
    return np.maximum(x, 0)


def affine(x, p):
    return x * p["scale"] + p["bias"]


def standardized(x, mean_, variance_, eps):
    return (x - mean_) / np.sqrt(variance_ + eps)


# One function per layer: (x, parameters, groups, epsilon, running statistics or None).


def evonorm_b0(x, p, groups, eps, stats):
    batch = stats["var"] if stats else variance(x, BATCH)
    right = p["v"] * x + np.sqrt(variance(x, INSTANCE) + eps)
    return affine(x / np.maximum(np.sqrt(batch + eps), right), p)


def evonorm_b1(x, p, groups, eps, stats):
    batch = stats["var"] if stats else variance(x, BATCH)
    right = (x + 1) * np.sqrt(mean_square(x, INSTANCE) + eps)
    return affine(x / np.maximum(np.sqrt(batch + eps), right), p)


def evonorm_b2(x, p, groups, eps, stats):
    batch = stats["var"] if stats else variance(x, BATCH)
    right = np.sqrt(mean_square(x, INSTANCE) + eps) - x
    return affine(x / np.maximum(np.sqrt(batch + eps), right), p)


def evonorm_s0(x, p, groups, eps, stats):
    std = np.sqrt(by_group(variance, x, groups) + eps)
    return affine(x * sigmoid(p["v"] * x) / std, p)


def evonorm_s1(x, p, groups, eps, stats):
    return affine(x * sigmoid(x) / np.sqrt(by_group(variance, x, groups) + eps), p)


def evonorm_s2(x, p, groups, eps, stats):
    return affine(x * sigmoid(x) / np.sqrt(by_group(mean_square, x, groups) + eps), p)


def batch_norm(x, p, groups, eps, stats):
    stats = stats or {"mean": mean(x, BATCH), "var": variance(x, BATCH)}
    return affine(standardized(x, stats["mean"], stats["var"], eps), p)


def group_norm(x, p, groups, eps, stats):
    moments = by_group(mean, x, groups), by_group(variance, x, groups)
    return affine(standardized(x, *moments, eps), p)


def layer_norm(x, p, groups, eps, stats):
    return affine(standardized(x, mean(x, LAYER), variance(x, LAYER), eps), p)


def instance_norm(x, p, groups, eps, stats):
    return affine(standardized(x, mean(x, INSTANCE), variance(x, INSTANCE), eps), p)


def pixel_norm(x, p, groups, eps, stats):
    return affine(x / np.sqrt(mean_square(x, PIXEL) + eps), p)


def filter_response_norm(x, p, groups, eps, stats):
    return affine(x / np.sqrt(mean_square(x, INSTANCE) + eps), p)


def batch_instance_norm(x, p, groups, eps, stats):
    stats = stats or {"mean": mean(x, BATCH), "var": variance(x, BATCH)}
    batch = standardized(x, stats["mean"], stats["var"], eps)
    instance = standardized(x, mean(x, INSTANCE), variance(x, INSTANCE), eps)
    gate = np.clip(p["gate"], 0, 1)
    return affine(gate * batch + (1 - gate) * instance, p)


def switchable_norm(x, p, groups, eps, stats):
    stats = stats or {"mean": mean(x, BATCH), "var": variance(x, BATCH)}
    a, b = softmax(p["mean_mixture"]), softmax(p["var_mixture"])
    mean_ = a[0] * mean(x, INSTANCE) + a[1] * mean(x, LAYER) + a[2] * stats["mean"]
    var_ = b[0] * variance(x, INSTANCE) + b[1] * variance(x, LAYER) + b[2] * stats["var"]
    return affine(standardized(x, mean_, var_, eps), p)


def random(x, p, groups, eps, stats):
    z = np.sqrt(variance(sigmoid(np.abs(x)), INSTANCE) + eps)
    return affine(np.sign(z) * np.sqrt(np.abs(z)) + np.zeros_like(x), p)


def random_rej(x, p, groups, eps, stats):
    return affine(np.tanh(np.maximum(x, np.tanh(x))), p)


def rs_rej(x, p, groups, eps, stats):
    batch = stats["mean_square"] if stats else mean_square(x, BATCH)
    return affine(relu(x) / np.sqrt(batch + eps), p)


def then(norm, activation):
    """The normalisation and the activation, which sees the parameters."""
    return lambda x, p, *rest: activation(norm(x, p, *rest), p)


def with_relu(z, p):
    return relu(z)


def with_relu6(z, p):
    return np.minimum(relu(z), 6)


def with_silu(z, p):
    return z * sigmoid(z)


def with_swish(z, p):
    return z * sigmoid(p["v"] * z)


def with_threshold(z, p):
    return np.maximum(z, p["threshold"])


LAYERS: dict[str, Callable[..., np.ndarray]] = {
    "evonorm_b0": evonorm_b0,
    "evonorm_b1": evonorm_b1,
    "evonorm_b2": evonorm_b2,
    "evonorm_s0": evonorm_s0,
    "evonorm_s1": evonorm_s1,
    "evonorm_s2": evonorm_s2,
    "bn_relu": then(batch_norm, with_relu),
    "bn_relu6": then(batch_norm, with_relu6),
    "bn_silu": then(batch_norm, with_silu),
    "bn_swish": then(batch_norm, with_swish),
    "gn_relu": then(group_norm, with_relu),
    "gn_silu": then(group_norm, with_silu),
    "gn_swish": then(group_norm, with_swish),
    "ln_relu": then(layer_norm, with_relu),
    "in_relu": then(instance_norm, with_relu),
    "pixel_norm_relu": then(pixel_norm, with_relu),
    "frn": then(filter_response_norm, with_threshold),
    "batch_instance_norm_relu": then(batch_instance_norm, with_relu),
    "switchable_norm_relu": then(switchable_norm, with_relu),
    "random": random,
    "random_rej": random_rej,
    "rs_rej": rs_rej,
}

#: The normalisations that stand alone when the activation is off; the other layers are affine.
WITHOUT_ACTIVATION: dict[str, Callable[..., np.ndarray]] = {
    **{f"bn_{activation}": batch_norm for activation in ("relu", "relu6", "silu", "swish")},
    **{f"gn_{activation}": group_norm for activation in ("relu", "silu", "swish")},
    "ln_relu": layer_norm,
    "in_relu": instance_norm,
    "pixel_norm_relu": pixel_norm,
    "frn": filter_response_norm,
    "batch_instance_norm_relu": batch_instance_norm,
    "switchable_norm_relu": switchable_norm,
}

#: Parameters besides `scale` and `bias`: name and number of values, None for one per channel.
EXTRA_PARAMS: dict[str, dict[str, int | None]] = {
    **{name: {"v": None} for name in ("evonorm_b0", "evonorm_s0", "bn_swish", "gn_swish")},
    "frn": {"threshold": None},
    "batch_instance_norm_relu": {"gate": None},
    "switchable_norm_relu": {"mean_mixture": 3, "var_mixture": 3},
}

#: What the running statistics hold, as functions of the batch.
TRACKED: dict[str, dict[str, Callable[..., np.ndarray]]] = {
    **{f"evonorm_b{i}": {"var": variance} for i in range(3)},
    **{
        name: {"mean": mean, "var": variance}
        for name in (
            "bn_relu",
            "bn_relu6",
            "bn_silu",
            "bn_swish",
            "batch_instance_norm_relu",
            "switchable_norm_relu",
        )
    },
    "rs_rej": {"mean_square": mean_square},
}


def apply(
    name: str,
    x: np.ndarray,
    params: Params,
    *,
    groups: int,
    epsilon: float = 1e-5,
    running: Stats | None = None,
) -> np.ndarray:
    """The output of a layer, with the running statistics if given, else those of the batch."""
    return LAYERS[name](x, params, groups, epsilon, running)


class NearKink(Exception):
    """The layer has no derivative at this point, within the step of the differences."""


def gradients(
    name: str,
    x: np.ndarray,
    params: Params,
    cotangent: np.ndarray,
    *,
    step: float = 1e-5,
    **kwargs,
) -> tuple[np.ndarray, Params]:
    """Gradients of `sum(cotangent * y)` by x and by each parameter."""
    leaves = {"x": x, **params}

    def loss(leaf: str, value: np.ndarray) -> float:
        changed = {**leaves, leaf: value}
        image = changed.pop("x")
        y = apply(name, image, changed, **kwargs)
        return math.fsum((cotangent * y).ravel())

    result = {}
    for leaf, value in leaves.items():
        gradient = np.zeros_like(value)
        for index in np.ndindex(value.shape):
            samples = []
            for offset in (-2, -1, 1, 2):
                moved = value.copy()
                moved[index] += offset * step
                samples.append(loss(leaf, moved))
            a, b, c, d = samples
            # 3 * step * f'' where f is smooth, but of the order of the jump of f' at a kink.
            if abs(a - b - c + d) > 1e-2 * step:
                raise NearKink(f"{name}: d/d{leaf}{list(index)}")
            gradient[index] = (a - 8 * b + 8 * c - d) / (12 * step)
        result[leaf] = gradient
    return result.pop("x"), result
