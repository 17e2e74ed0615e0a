"""How all figures look: colours, markers, the order of the layers."""

from collections.abc import Iterable
from typing import Any

from matplotlib.axes import Axes

# Okabe and Ito's colours, told apart with any common colour vision; yellow is left out because
# it vanishes on white. After seven lines the markers change, so no two look alike until 35.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v")

# In every figure and table of a sweep: baselines first, as in the paper. A layer keeps its colour
# whatever the others are.
_LAYERS = {
    "bn_relu": ("#0072B2", "o"),
    "bn_silu": ("#0072B2", "s"),
    "bn_swish": ("#0072B2", "^"),
    "gn_relu": ("#E69F00", "o"),
    "gn_silu": ("#E69F00", "s"),
    "gn_swish": ("#E69F00", "^"),
    "frn": ("#CC79A7", "D"),
    "evonorm_b0": ("#009E73", "o"),
    "evonorm_b1": ("#009E73", "s"),
    "evonorm_b2": ("#009E73", "^"),
    "evonorm_s0": ("#D55E00", "o"),
    "evonorm_s1": ("#D55E00", "s"),
    "evonorm_s2": ("#D55E00", "^"),
}


def sort_layers(layers: Iterable[str]) -> list[str]:
    """Sorts layers in the order of the paper's tables, the ones it does not have behind them.

    >>> sort_layers({"evonorm_s0", "ln_relu", "bn_relu", "gn_relu,group_size=8"})
    ['bn_relu', 'gn_relu,group_size=8', 'evonorm_s0', 'ln_relu']
    """
    order = list(_LAYERS)

    def rank(layer: str) -> tuple[int, str]:
        name = layer.partition(",")[0]
        return (order.index(name) if name in order else len(order), layer)

    return sorted(layers, key=rank)


def layer_style(layer: str, layers: list[str]) -> dict[str, Any]:
    """Returns colour and marker of a layer among the layers of a figure."""
    name = layer.partition(",")[0]
    same = [other for other in layers if other.partition(",")[0] == name]
    if name in _LAYERS and len(same) == 1:
        colour, marker = _LAYERS[name]
    else:  # not the paper's, or one layer with several fields: the next free look
        index = layers.index(layer)
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[-1 - index // len(COLOURS)]
    return {"color": colour, "marker": marker}


def clean_axes(axis: Axes) -> None:
    """Gives axes a light grid and no frame."""
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
