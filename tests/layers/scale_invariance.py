"""Which layers notice that their input was multiplied: `python -m tests.layers.scale_invariance`.

Prints the table of docs/layer_search.md: for each layer, by the float64 oracle without an epsilon,
the largest change of an output when x is multiplied by a factor, in percent of the largest output.
"""

import numpy as np

from tests.layers import oracle

FACTORS = (0.1, 10, 100)

_CHANNELS = 16
_X = np.random.default_rng(0).normal(size=(8, 8, 8, _CHANNELS))


def initial_params(name: str) -> oracle.Params:
    """The parameters as layers initialise them."""
    params = {"scale": np.ones(_CHANNELS), "bias": np.zeros(_CHANNELS)}
    for extra, size in oracle.EXTRA_PARAMS.get(name, {}).items():
        initial = np.ones if extra in ("v", "gate", "mean_mixture", "var_mixture") else np.zeros
        params[extra] = initial(size or _CHANNELS)
    return params


def changes(name: str) -> list[float]:
    """The largest change of an output for each factor, in percent of the largest output."""

    def output(x):
        return oracle.apply(name, x, initial_params(name), groups=4, epsilon=0.0)

    y = output(_X)
    return [float(100 * abs(output(a * _X) - y).max() / abs(y).max()) for a in FACTORS]


def table() -> list[str]:
    """A row for each layer that changes by more than rounding, and one for all others."""
    lines = ["| layer | x 0.1 (%) | x 10 (%) | x 100 (%) |", "|---|---|---|---|"]
    found = {name: changes(name) for name in oracle.LAYERS}
    variant = {name: values for name, values in found.items() if max(values) > 1e-10}
    for name, values in variant.items():
        lines.append(f"| `{name}` | {' | '.join(f'{value:.0f}' for value in values)} |")
    lines.append(f"| the other {len(found) - len(variant)} | 0 | 0 | 0 |")
    return lines


if __name__ == "__main__":
    print("\n".join(table()))
