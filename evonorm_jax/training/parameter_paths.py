"""Parameters by patterns of their paths: which are frozen, and the learning rates of the others.

A path is what `parameters.txt` of a run directory lists, such as `stage1_block2/conv1/kernel`. A
pattern is a path, or a module on it ("head" stands for all below `head/`), with `*` for any text:
"stage1_*" takes the whole first stage.
"""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax

from evonorm_jax.errors import UserError

if TYPE_CHECKING:
    import ml_collections


def path_name(path: Sequence[Any]) -> str:
    """Joins a key path of JAX as `stage1_block2/conv1/kernel`."""
    return "/".join(str(key.key) for key in path)


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern takes a parameter.

    >>> matches("head", "head/kernel"), matches("head", "head_norm/scale")
    (True, False)
    >>> matches("stage1_*", "stage1_block2/conv1/kernel")
    True
    """
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}/*")


def freezes(optimizer: Mapping[str, Any] | ml_collections.ConfigDict, name: str) -> bool:
    """Whether a section such as `config.optimizer` freezes the parameter of that name."""
    return any(matches(pattern, name) for pattern in optimizer.get("frozen_paths", ()))


def stop_frozen(optimizer: ml_collections.ConfigDict, params: Any) -> Any:
    """Cuts the gradient of what is frozen off, so that the compiler leaves its computation out."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: jax.lax.stop_gradient(x) if freezes(optimizer, path_name(path)) else x,
        params,
    )


def by_path(
    optimizer: ml_collections.ConfigDict,
    update: optax.GradientTransformation,
    *,
    name: str = "optimizer",
) -> optax.GradientTransformation:
    """Freezes parameters of an optimizer, and multiplies the rates of others.

    Of a frozen parameter neither the gradient nor the weight decay counts: it keeps its value to
    the bit, and has no part in the norm that `update` may clip. All that `config.optimizer` offers
    is linear in the learning rate, so multiplying the update multiplies the rate.

    Args:
      optimizer: A section such as `config.optimizer`: `frozen_paths`, `rate_multipliers`,
        `layer_paths` and `layer_decay` are read.
      update: What the whole section describes but for these.
      name: What the section is called in the config.

    Returns:
      `update` itself where none of the four says anything.

    Raises:
      UserError: A multiplier is no positive number. When the optimizer is initialised: a pattern
        takes no parameter, a parameter is in no layer, or all are frozen.
    """
    rates = _Rates(optimizer, name)
    if not rates.given:
        return update

    def init(params: Any) -> optax.EmptyState:
        rates.check([path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)])
        return optax.EmptyState()

    def scale(updates: Any, state: optax.EmptyState, params: Any = None) -> Any:
        del params

        def scaled(path: Any, x: jax.Array) -> jax.Array:
            factor = rates.factor(path_name(path))
            # Not 0 * x, which is NaN where x is not finite.
            return x * factor if factor else jnp.zeros_like(x)

        return jax.tree_util.tree_map_with_path(scaled, updates), state

    def freeze(updates: Any, state: optax.EmptyState, params: Any = None) -> Any:
        del params

        def kept(path: Any, x: jax.Array) -> jax.Array:
            return jnp.zeros_like(x) if freezes(optimizer, path_name(path)) else x

        return jax.tree_util.tree_map_with_path(kept, updates), state

    return optax.chain(
        optax.GradientTransformation(init, freeze),
        update,
        optax.GradientTransformation(lambda _: optax.EmptyState(), scale),
    )


class _Rates:
    """The four fields of a section, read and checked."""

    def __init__(self, optimizer: ml_collections.ConfigDict, section: str) -> None:
        self._section = section
        self._frozen = tuple(optimizer.get("frozen_paths", ()))
        self._multipliers = self._read(optimizer.get("rate_multipliers", ()))
        self._layers = tuple(optimizer.get("layer_paths", ()))
        self._decay = optimizer.get("layer_decay", 1.0)
        if not 0 < self._decay <= 1:
            raise UserError(
                f"config.{section}.layer_decay is {self._decay}, but must be above 0 and at most 1:"
                " the rate of a layer is that of the next one times this."
            )
        if self._decay < 1 and len(self._layers) < 2:
            raise UserError(
                f"config.{section}.layer_decay={self._decay} needs the layers, from the images to"
                f" the classes, as patterns of paths: config.{section}.layer_paths ="
                " ('stem_*', 'stage1_*', 'stage2_*', 'stage3_*', 'stage4_*', 'head*')."
            )

    @property
    def given(self) -> bool:
        """Whether they say anything."""
        return bool(self._frozen or self._multipliers or self._decay < 1)

    def factor(self, name: str) -> float:
        """By what the rate of a parameter is multiplied; 0 where it is frozen."""
        if any(matches(pattern, name) for pattern in self._frozen):
            return 0.0
        multiplier = next((x for pattern, x in self._multipliers if matches(pattern, name)), 1.0)
        if self._decay == 1:
            return multiplier
        return multiplier * self._decay ** (len(self._layers) - 1 - self._layer(name))

    def check(self, names: Sequence[str]) -> None:
        """Holds the patterns against the parameters of the network."""
        for field, patterns in (
            ("frozen_paths", self._frozen),
            ("rate_multipliers", [pattern for pattern, _ in self._multipliers]),
            ("layer_paths", self._layers if self._decay < 1 else ()),
        ):
            for pattern in patterns:
                if not any(matches(pattern, name) for name in names):
                    raise UserError(
                        f"config.{self._section}.{field}: {pattern!r} matches no parameter of the"
                        f" network. {_near(pattern, names)}"
                    )
        if self._decay < 1:
            for name in names:
                self._layer(name)
        if not any(map(self.factor, names)):
            raise UserError(
                f"config.{self._section}.frozen_paths={self._frozen} freezes all {len(names)}"
                " parameters of the network: leave some to train, such as those of 'head'."
            )

    def _layer(self, name: str) -> int:
        for index, pattern in enumerate(self._layers):
            if matches(pattern, name):
                return index
        raise UserError(
            f"config.{self._section}.layer_paths={self._layers} leaves {name!r} out, but with a"
            " layer_decay every parameter must be in a layer: add a pattern for it."
        )

    def _read(self, texts: Iterable[str]) -> list[tuple[str, float]]:
        pairs = []
        for text in texts:
            pattern, _, number = str(text).rpartition("=")
            try:
                factor = float(number)
            except ValueError:
                factor = 0.0
            if not pattern or not 0 < factor < math.inf:
                raise UserError(
                    f"config.{self._section}.rate_multipliers: {text!r} must be PATTERN=NUMBER"
                    " with a number above 0, such as 'head=10'; frozen_paths is for what stays."
                )
            pairs.append((pattern, factor))
        return pairs


def _near(pattern: str, names: Sequence[str]) -> str:
    """Names the parameters or modules that a pattern may have meant."""
    modules = dict.fromkeys(name.partition("/")[0] for name in names)
    close = difflib.get_close_matches(pattern, [*modules, *names], n=3, cutoff=0.5)
    if any(name.startswith(pattern) for name in names):
        close = [repr(f"{pattern}*")]
    shown = list(modules)
    text = f"It has {', '.join(shown[:12])}{', ...' if len(shown) > 12 else ''}."
    return f"Did you mean {' or '.join(close)}? {text}" if close else text
