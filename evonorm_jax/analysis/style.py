"""How all figures look: colours, markers, dashes, the order of the layers.

A layer has the same colour in every figure. Layers of one family share it, and differ in marker and
dashes, which also show lines that coincide.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from evonorm_jax.analysis.runs import layer_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, told apart with any common colour vision; yellow is left out because
# it vanishes on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1, 1.5)))

#: Bars and marks that are of no layer.
NEUTRAL = "#4D4D4D"

# Families in the order of every figure and table: baselines first, as in the paper. The first layer
# of a family has a whole line and the family's marker; the others follow.
_FAMILIES = {
    "#0072B2": ("bn_relu", "bn_silu", "bn_swish", "bn_relu6"),
    "#E69F00": ("gn_relu", "gn_silu", "gn_swish"),
    "#CC79A7": ("frn",),
    "#009E73": ("evonorm_b0", "evonorm_b1", "evonorm_b2"),
    "#D55E00": ("evonorm_s0", "evonorm_s1", "evonorm_s2"),
    "#56B4E9": ("ln_relu", "in_relu", "pixel_norm_relu"),
    "#000000": ("batch_instance_norm_relu", "switchable_norm_relu"),
    "#999999": ("random", "random_rej", "rs_rej"),
}
#: Name -> place of the family, place in the family.
_LAYERS = {
    name: (family, place)
    for family, names in enumerate(_FAMILIES.values())
    for place, name in enumerate(names)
}
_FAMILY_COLOURS = tuple(_FAMILIES)


def sort_layers(layers: Iterable[str]) -> list[str]:
    """Sorts layers in the order of the paper's tables, the ones it does not have behind them.

    >>> sort_layers({"evonorm_s0", "ln_relu", "bn_relu", "gn_relu,group_size=8"})
    ['bn_relu', 'gn_relu,group_size=8', 'evonorm_s0', 'ln_relu']
    """
    order = list(_LAYERS)

    def rank(layer: str) -> tuple[int, str]:
        name = _name(layer)
        return (order.index(name) if name in order else len(order), layer)

    return sorted(layers, key=rank)


def layer_styles(layers: Sequence[str]) -> list[dict[str, Any]]:
    """Returns colour, marker and dashes for each line of a figure.

    Args:
      layers: Registered name and fields of the layer of each line, such as `gn_relu,group_size=8`.
        A layer may come more than once: its lines have one colour, and differ in the rest. Layers
        without a colour of their own, such as searched ones, have one that no other line has, as
        long as there is any.
    """
    names = [_name(layer) for layer in layers]
    known = {name: _LAYERS[name] for name in names if name in _LAYERS}
    families = {family for family, _ in known.values()}
    every = range(len(_FAMILY_COLOURS))
    free = [family for family in every if family not in families] or list(every)
    strangers = dict.fromkeys(name for name in names if name not in known)
    own = known | {name: (free[i % len(free)], i // len(free)) for i, name in enumerate(strangers)}
    taken: set[tuple[int, int]] = set()
    styles = []
    for family, place in (own[name] for name in names):
        if (family, place) in taken:  # the first line of a layer has its own look
            looks = taken | set(own.values())
            place = next(i for i in itertools.count() if (family, i) not in looks)
        taken.add((family, place))
        styles.append(_look(family, place))
    return styles


def _look(family: int, place: int) -> dict[str, Any]:
    return {
        "color": _FAMILY_COLOURS[family],
        "marker": MARKERS[(family + place) % len(MARKERS)],
        "linestyle": DASHES[place % len(DASHES)],
    }


def layer_style(layer: str, layers: Sequence[str]) -> dict[str, Any]:
    """Returns colour, marker and dashes of a layer among the layers of a figure."""
    return layer_styles(layers)[list(layers).index(layer)]


def colour_in_text(text: str) -> str | None:
    """Returns the colour of the layer whose name a text begins with, or None.

    >>> colour_in_text("EvoNorm-S0, timm compiled") == colour_in_text("evonorm_s0/seed=0")
    True
    >>> colour_in_text("memory limit") is None
    True
    """
    # The longest first: "BN-ReLU6" begins with "BN-ReLU".
    for name in sorted(_LAYERS, key=len, reverse=True):
        if text.startswith((name, layer_label(name))):
            return _FAMILY_COLOURS[_LAYERS[name][0]]
    return None


def clean_axes(axis: Axes) -> None:
    """Gives axes a light grid and no frame."""
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def _name(layer: str) -> str:
    return layer if layer.startswith("graph:") else layer.partition(",")[0]
