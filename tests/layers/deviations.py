"""How far every layer is from the float64 oracle: `python -m tests.layers.deviations`.

Prints, for each layer in float32 and in bfloat16, the largest absolute and relative deviation of
the values and of the gradients (by x and by the parameters), in training; then, where PyTorch and
timm are installed, those of EvoNorm-B0 and -S0 from timm's classes. The relative deviation is the
largest absolute one over the largest absolute value of the oracle's array. The tests use the same
functions.
"""

import dataclasses
import importlib.util
import os
from typing import Any

if __name__ == "__main__":  # before JAX starts
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from evonorm_jax import norm_act, norm_act_names
from tests.layers import oracle

EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class Case:
    """An input, parameters, running statistics and a cotangent; x and cotangent in one dtype."""

    x: jax.Array
    params: dict[str, jax.Array]
    running: dict[str, jax.Array]
    cotangent: jax.Array

    def float64(self) -> "Case":
        """The same numbers, after their rounding, for the oracle."""
        return jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float64), self)


jax.tree_util.register_dataclass(Case)


def make_case(
    name: str,
    dtype: Any = jnp.float32,
    shape: tuple[int, ...] = (3, 3, 2, 6),
    offset: float = 0.3,
    seed: int = 0,
) -> Case:
    """Random numbers for the layer; the mean of x differs from channel to channel."""
    rng = np.random.default_rng(seed)
    channels = shape[-1]
    params = {
        "scale": 1 + 0.3 * rng.normal(size=channels),
        "bias": 0.3 * rng.normal(size=channels),
    }
    for extra, size in oracle.EXTRA_PARAMS.get(name, {}).items():
        params[extra] = 0.5 + 0.15 * rng.normal(size=size or channels)
    running = {"mean": 0.3 * rng.normal(size=channels)}
    running |= {key: rng.uniform(0.5, 2, size=channels) for key in ("var", "mean_square")}
    x = offset + 0.5 * rng.normal(size=channels) + 1.5 * rng.normal(size=shape)
    param_dtype = jnp.promote_types(dtype, jnp.float32)
    return Case(
        x=jnp.asarray(x, dtype),
        params={key: jnp.asarray(value, param_dtype) for key, value in params.items()},
        running={
            key: jnp.asarray(running[key], jnp.float32) for key in oracle.TRACKED.get(name, {})
        },
        cotangent=jnp.asarray(rng.normal(size=shape), dtype),
    )


def run_layer(
    layer: nn.Module, case: Case, train: bool = True
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array], dict[str, Any]]:
    """Output, gradient by x, gradients by the parameters, updates of the running statistics."""

    def apply(params: dict[str, jax.Array], x: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        variables = {"params": params, "batch_stats": case.running}
        y, updates = layer.apply(variables, x, not train, mutable=["batch_stats"])
        return y, updates.get("batch_stats", {})

    y, vjp, updates = jax.vjp(apply, case.params, case.x, has_aux=True)
    by_params, by_x = vjp(case.cotangent)
    return y, by_x, by_params, updates


def run_oracle(
    name: str, case: Case, *, groups: int, train: bool = True
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """The same three from the oracle, for the same rounded numbers."""
    exact = case.float64()
    running = exact.running if exact.running and not train else None
    options = {"groups": groups, "epsilon": EPSILON, "running": running}
    y = oracle.apply(name, exact.x, exact.params, **options)
    by_x, by_params = oracle.gradients(name, exact.x, exact.params, exact.cotangent, **options)
    return y, by_x, by_params


def case_with_oracle(
    name: str, dtype: Any, *, groups: int, train: bool = True, **options: Any
) -> tuple[Case, tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]]:
    """The first random case that has derivatives, with its output and gradients."""
    for seed in range(10):
        case = make_case(name, dtype, seed=seed, **options)
        try:
            return case, run_oracle(name, case, groups=groups, train=train)
        except oracle.NearKink:
            continue
    raise AssertionError(f"{name}: ten cases out of ten lie at a kink")


def make_layer(name: str, groups: int, **fields: Any) -> nn.Module:
    """The layer with `groups` groups, if it has any."""
    if name.startswith(("gn_", "evonorm_s")):
        fields["num_groups"] = groups
    return norm_act(name, epsilon=EPSILON, **fields)()


def deviation(value: Any, reference: np.ndarray) -> tuple[float, float]:
    """Largest absolute deviation, and that over the largest absolute reference."""
    absolute = np.abs(np.asarray(value).astype(np.float64) - reference).max()
    return float(absolute), float(absolute / np.abs(reference).max())


def _row(label: str, value: tuple[Any, ...], reference: tuple[Any, ...]) -> str:
    (y, by_x, by_params), (expected_y, expected_x, expected_params) = value, reference
    parts = [
        [deviation(y, expected_y)],
        [deviation(by_x, expected_x)],
        [deviation(by_params[key], expected_params[key]) for key in expected_params],
    ]
    columns = [f"{max(pair[i] for pair in part):10.1e}" for part in parts for i in (0, 1)]
    return f"{label:42s}" + "".join(columns)


def main(shape: tuple[int, ...] = (4, 5, 5, 8), groups: int = 4) -> None:
    """Prints the tables."""
    print(f"x {list(shape)}, {groups} groups, jax {jax.__version__} on {jax.default_backend()}")
    parts = "".join(f"{part:>20s}" for part in ("values", "gradient by x", "by parameters"))
    print(f"{'':42s}{parts}\n{'against the oracle':42s}" + f"{'abs':>10s}{'rel':>10s}" * 3)
    run = jax.jit(run_layer, static_argnums=(0, 2))
    for name in norm_act_names():
        for dtype in ("float32", "bfloat16"):
            for train in (True, False) if name in oracle.TRACKED else (True,):
                case, expected = case_with_oracle(
                    name, dtype, groups=groups, train=train, shape=shape
                )
                *value, _ = run(make_layer(name, groups), case, train)
                label = f"{name} {dtype} {'train' if train else 'eval'}"
                print(_row(label, tuple(value), expected), flush=True)
    if importlib.util.find_spec("torch") and importlib.util.find_spec("timm"):
        from tests.layers import timm_layers

        print("against timm")
        for name in ("evonorm_b0", "evonorm_s0"):
            for train in (True, False):
                case = make_case(name, shape=shape)
                *value, _ = run(make_layer(name, groups), case, train)
                theirs = timm_layers.run(name, case, groups=groups, epsilon=EPSILON, train=train)
                label = f"{name} float32 {'train' if train else 'eval'}"
                print(_row(label, tuple(value), theirs[:3]), flush=True)


if __name__ == "__main__":
    main()
