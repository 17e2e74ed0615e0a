"""Known layers written as graphs.

A layer of the space ends in the affine map `scale`, `bias`. What a layer has before its activation
must come from the two vectors inside, `v1` (initialised to 1) as a scale and `v0` (to 0) as an
offset; with n the normalised x, the layers that need more than those two use what follows::

    BN-ReLU, GN-ReLU   max(v1 n + v0, 0), followed by the affine map as it is initialised
    GN-Swish           z sigma(v z) with z = g n + b is u sigma(u) / v with u = v g n + v b:
                       v1 = v g, v0 = v b, and scale = 1 / v behind it
    FRN                max(g n + b, t) = max(g n, t - b) + b: v1 = g, v0 = t - b, bias = b behind

So every graph equals its layer for all parameters (GN-Swish: v not 0) and starts where it starts.
`to_graph_params` is that map. (The paper's own table writes the affine map inside BN and GN.)

>>> print(LIBRARY["evonorm_s0"])
n4 = mul(x, v1); n5 = sigmoid(n4); n6 = mul(x, n5); n7 = std_whcg(x); n8 = div(n6, n7)
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp

from evonorm_jax.graphs.graph import Graph

#: v1 n + v0, with n the input less its mean over its standard deviation.
_STANDARDIZED = (
    "n4 = mean_{0}(x); n5 = neg(n4); n6 = add(x, n5); n7 = std_{0}(x); n8 = div(n6, n7);"
    "n9 = mul(n8, v1); n10 = add(n9, v0);"
)

_TEXTS = {
    "bn_relu": _STANDARDIZED.format("bwh") + "n11 = max(n10, 0)",
    "gn_relu": _STANDARDIZED.format("whcg") + "n11 = max(n10, 0)",
    "gn_swish": _STANDARDIZED.format("whcg") + "n11 = sigmoid(n10); n12 = mul(n10, n11)",
    "frn": "n4 = rms_wh(x); n5 = div(x, n4); n6 = mul(n5, v1); n7 = max(n6, v0)",
    "evonorm_b0": (
        "n4 = mul(x, v1); n5 = std_wh(x); n6 = add(n4, n5); n7 = std_bwh(x); n8 = max(n6, n7);"
        "n9 = div(x, n8)"
    ),
    # There is no constant 1: (x + 1) r is x r + r.
    "evonorm_b1": (
        "n4 = rms_wh(x); n5 = mul(x, n4); n6 = add(n4, n5); n7 = std_bwh(x); n8 = max(n6, n7);"
        "n9 = div(x, n8)"
    ),
    "evonorm_b2": (
        "n4 = rms_wh(x); n5 = neg(x); n6 = add(n4, n5); n7 = std_bwh(x); n8 = max(n6, n7);"
        "n9 = div(x, n8)"
    ),
    "evonorm_s0": (
        "n4 = mul(x, v1); n5 = sigmoid(n4); n6 = mul(x, n5); n7 = std_whcg(x); n8 = div(n6, n7)"
    ),
    "evonorm_s1": "n4 = sigmoid(x); n5 = mul(x, n4); n6 = std_whcg(x); n7 = div(n5, n6)",
    "evonorm_s2": "n4 = sigmoid(x); n5 = mul(x, n4); n6 = rms_whcg(x); n7 = div(n5, n6)",
    "random": "n4 = abs(x); n5 = sigmoid(n4); n6 = std_wh(n5); n7 = sqrt(n6)",
    "random_rej": "n4 = tanh(x); n5 = max(x, n4); n6 = tanh(n5)",
    "rs_rej": "n4 = max(x, 0); n5 = rms_bwh(x); n6 = div(n4, n5)",
}

#: Known layers as graphs, by the names that `norm_act` has for them.
LIBRARY: Mapping[str, Graph] = MappingProxyType(
    {name: Graph.from_text(text) for name, text in _TEXTS.items()}
)

Params = Mapping[str, jax.Array]


def _inner_affine(p: Params) -> dict[str, jax.Array]:
    return {"v0": p["bias"], "v1": p["scale"]} | _identity(p)


def _swish(p: Params) -> dict[str, jax.Array]:
    v0, v1 = p["v"] * p["bias"], p["v"] * p["scale"]
    return {"v0": v0, "v1": v1, "scale": 1 / p["v"], "bias": jnp.zeros_like(p["bias"])}


def _frn(p: Params) -> dict[str, jax.Array]:
    inner = {"v0": p["threshold"] - p["bias"], "v1": p["scale"]}
    return inner | {"scale": jnp.ones_like(p["scale"]), "bias": p["bias"]}


def _slope(p: Params) -> dict[str, jax.Array]:
    return {"v1": p["v"], "scale": p["scale"], "bias": p["bias"]}


def _identity(p: Params) -> dict[str, jax.Array]:
    return {"scale": jnp.ones_like(p["scale"]), "bias": jnp.zeros_like(p["bias"])}


_PARAMS: dict[str, Callable[[Params], dict[str, jax.Array]]] = {
    "bn_relu": _inner_affine,
    "gn_relu": _inner_affine,
    "gn_swish": _swish,
    "frn": _frn,
    "evonorm_b0": _slope,
    "evonorm_s0": _slope,
}


def to_graph_params(name: str, params: Params) -> dict[str, jax.Array]:
    """Returns the parameters with which the graph of that name equals the layer of that name.

    Args:
      name: A key of `LIBRARY`.
      params: The parameters of the layer, `(C,)` each.

    Returns:
      The parameters of the graph's layer. The map is differentiable, so gradients translate, too.

    >>> one = jnp.ones(3)
    >>> sorted(to_graph_params("bn_relu", {"scale": 2 * one, "bias": one}))
    ['bias', 'scale', 'v0', 'v1']
    """
    return _PARAMS.get(name, dict)(params)
