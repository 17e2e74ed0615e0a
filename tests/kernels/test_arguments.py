"""What callers get wrong, and what they are told."""

import jax.numpy as jnp
import pytest

from evonorm_jax import kernels
from evonorm_jax.errors import UserError
from evonorm_jax.kernels.implementations import PALLAS

X = jnp.ones((4, 2, 2, 6))
P = jnp.ones(6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_groups": 4}, "num_groups=4 must divide the 6 channels"),
        ({"num_groups": 0}, "num_groups=0 must divide"),
        ({"x": X[0, 0, 0]}, r"x is float32\[6\]"),
        ({"x": X.astype(int)}, "floating point"),
        ({"x": X[:0]}, "non-empty"),
        ({"v": jnp.ones(3)}, r"v has shape \(3,\): .* give shape \(6,\)"),
        ({"scale": jnp.ones((1, 6))}, r"scale has shape \(1, 6\)"),
        ({"bias": jnp.ones(())}, "bias has shape"),
        ({"epsilon": -1e-5}, "epsilon=-1e-05 must not be negative"),
        ({"implementation": "cuda"}, "'cuda' is unknown: use None .*'xla', 'reference'"),
        ({"implementation": "pallas_interpret", "x": X.astype("float16")}, "float16"),
    ],
)
def test_s0(arguments: dict, message: str) -> None:
    valid = {"x": X, "v": P, "scale": P, "bias": P, "num_groups": 3}
    with pytest.raises(UserError, match=message):
        kernels.evonorm_s0(**{**valid, **arguments})
    implementation = arguments.get("implementation", "pallas_shortcut")
    with pytest.raises(UserError, match=message):
        kernels.evonorm_s0_with_shortcut(**{**valid, **arguments, "implementation": implementation})


@pytest.mark.parametrize("implementation", PALLAS)
def test_hand_written_kernels_of_other_layers(implementation: str) -> None:
    with pytest.raises(UserError, match=f"'{implementation}' exists for EvoNorm-S0 alone"):
        kernels.evonorm_s1(X, P, P, num_groups=3, implementation=implementation)
    with pytest.raises(UserError, match=f"'{implementation}' exists for EvoNorm-S0 alone"):
        kernels.evonorm_b0(X, P, P, P, implementation=implementation)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"virtual_batch_size": 3}, "virtual_batch_size=3 must divide the 4 examples"),
        ({"virtual_batch_size": -1}, "virtual_batch_size=-1 must be at least 1, or None"),
        ({"virtual_batch_size": 2, "axis_name": "devices"}, "give one of the two"),
        ({"axis_index_groups": [[0, 1]]}, "needs axis_name"),
    ],
)
def test_b0(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        kernels.evonorm_b0(X, P, P, P, **arguments)


@pytest.mark.parametrize(
    ("activation", "v", "message"),
    [
        ("gelu", None, "activation='gelu' is unknown"),
        ("swish", None, "activation='swish' needs parameter v"),
        ("relu", P, "activation='relu' has no parameter v"),
    ],
)
def test_activations(activation: str, v: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        kernels.group_norm(X, P, P, v, num_groups=3, activation=activation)


def test_running_variance_is_checked() -> None:
    with pytest.raises(UserError, match="running_var has shape"):
        kernels.evonorm_b1_inference(X, P, P, jnp.ones(1))
