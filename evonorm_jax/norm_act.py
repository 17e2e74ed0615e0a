"""From a name, a class or a partial to a factory of norm-activation layers.

A network holds one factory and calls it wherever it needs a layer; it never names a normalisation
or an activation itself.

>>> import functools
>>> from evonorm_jax import norm_act
>>> factory = norm_act("evonorm_s0", group_size=8)
>>> layer = factory(nonlinearity=False)
>>> layer.group_size, layer.nonlinearity
(8, False)

A network that binds what all of its layers share serves layers with and without batch statistics:

>>> bound = functools.partial(norm_act("bn_relu"), use_running_average=True)
>>> bound().use_running_average
True
>>> norm_act("evonrom_s0")
Traceback (most recent call last):
    ...
evonorm_jax.errors.UserError: unknown layer 'evonrom_s0'. Did you mean evonorm_s0? Known: ...
"""

import dataclasses
import functools
import typing
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from evonorm_jax.errors import UserError, did_you_mean
from evonorm_jax.graphs.graph import Graph
from evonorm_jax.graphs.layer import graph_layer
from evonorm_jax.graphs.sources import PREFIX, inline_graph, read_graph
from evonorm_jax.layers import baselines, evonorm
from evonorm_jax.layers.definitions.base import ACTIVATIONS

#: What names a layer, that is one of `norm_act_names()`, a class, or a partial of a class.
LayerLike = str | type[nn.Module] | functools.partial

#: The closed list of names, with the class of each.
NORM_ACTS: Mapping[str, type[nn.Module]] = MappingProxyType(
    {
        "evonorm_b0": evonorm.EvoNormB0,
        "evonorm_b1": evonorm.EvoNormB1,
        "evonorm_b2": evonorm.EvoNormB2,
        "evonorm_s0": evonorm.EvoNormS0,
        "evonorm_s1": evonorm.EvoNormS1,
        "evonorm_s2": evonorm.EvoNormS2,
        "bn_relu": baselines.BatchNormReLU,
        "bn_relu6": baselines.BatchNormReLU6,
        "bn_silu": baselines.BatchNormSiLU,
        "bn_swish": baselines.BatchNormSwish,
        "gn_relu": baselines.GroupNormReLU,
        "gn_silu": baselines.GroupNormSiLU,
        "gn_swish": baselines.GroupNormSwish,
        "ln_relu": baselines.LayerNormReLU,
        "in_relu": baselines.InstanceNormReLU,
        "pixel_norm_relu": baselines.PixelNormReLU,
        "frn": baselines.FilterResponseNorm,
        "batch_instance_norm_relu": baselines.BatchInstanceNormReLU,
        "switchable_norm_relu": baselines.SwitchableNormReLU,
        "random": baselines.RandomLayer,
        "random_rej": baselines.RandomRejectionLayer,
        "rs_rej": baselines.RandomSearchRejectionLayer,
    }
)


@dataclasses.dataclass(frozen=True)
class Registry:
    """The layers as modules of one kind.

    Attributes:
      classes: The class of each name.
      module: The class of all modules of the kind, e.g. `flax.linen.Module`.
      graph_layer: Makes the factory of the layer of a graph.
      unbound: Fields that a factory leaves to its calls.
    """

    classes: Mapping[str, type]
    module: type
    graph_layer: Callable[[Graph], functools.partial]
    unbound: tuple[str, ...]

    def factory(self, layer: Any, fields: Mapping[str, Any]) -> functools.partial:
        """Returns the factory of the layer with `fields` bound; see `norm_act`."""
        layer = self._read_searched(layer)
        cls = self.layer_class(layer)
        bound = dict(layer.keywords) if isinstance(layer, functools.partial) else {}
        bound |= fields
        known = self.field_types(cls)
        for field, value in bound.items():
            if field not in known:
                raise UserError(_unknown(f"field of {cls.__name__}", field, known))
            _check_type(cls, field, value, known[field])
        return functools.partial(cls, **bound)

    def layer_class(self, layer: Any) -> type:
        """Returns the class of a layer that is given as `norm_act` takes it."""
        layer = self._read_searched(layer)
        if isinstance(layer, str):
            if layer not in self.classes:
                raise UserError(_unknown("layer", layer, self.classes))
            return self.classes[layer]
        cls: Callable[..., Any] = layer
        if isinstance(layer, functools.partial):
            if layer.args:
                raise UserError(f"{layer} binds fields by position: give them by name")
            cls = layer.func
        if isinstance(cls, type) and issubclass(cls, self.module):
            return cls
        kind = self.module.__module__.rpartition(".")[0]
        raise UserError(
            f"a norm-activation layer is given by name, as a {kind}.Module class or as a "
            f"functools.partial of one, not by {layer!r}"
        )

    def field_types(self, cls: type) -> dict[str, Any]:
        """Returns the annotation of each field that may be bound."""
        fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
        return {field.name: field.type for field in fields if field.name not in self.unbound}

    def _read_searched(self, layer: Any) -> Any:
        """Returns the factory of a searched layer; every other layer as it is."""
        if not (isinstance(layer, str) and layer.startswith(PREFIX)):
            return layer
        return self.graph_layer(read_graph(layer.removeprefix(PREFIX)))


#: The layers as Linen modules. `parent` and `name` belong to Flax: the same name on every layer of
#: a network would clash.
LINEN = Registry(NORM_ACTS, nn.Module, graph_layer, unbound=("parent", "name"))


def norm_act_names() -> tuple[str, ...]:
    """Returns the names that `norm_act` knows."""
    return tuple(NORM_ACTS)


def norm_act(layer: LayerLike, **fields: Any) -> functools.partial:
    """Returns a factory of the layer with `fields` bound; a call may bind more or override them.

    Args:
      layer: One of `norm_act_names()`; `graph:PATH` for a searched layer, its graph in a file (or
        `graph:` and what else `evonorm_jax.graphs.read_graph` takes); or a `flax.linen.Module`
        class with the same call, or a partial of one.
      **fields: Fields of the layer, e.g. `epsilon`, `num_groups` or `virtual_batch_size`.

    Raises:
      UserError: The name or a field is unknown, or `layer` is none of the three.
    """
    return LINEN.factory(layer, fields)


def accepts_field(factory: LayerLike, field: str) -> bool:
    """Tells whether the layers of this factory have the field.

    >>> accepts_field("evonorm_b0", "virtual_batch_size"), accepts_field("evonorm_s0", "momentum")
    (True, False)
    """
    return field in LINEN.field_types(LINEN.layer_class(factory))


def fuses_activation(factory: LayerLike) -> bool:
    """Tells whether no normalisation is left when the activation is taken away.

    Such a layer cannot be used where a network normalises without activating, as a
    post-activation residual network does before each addition.

    >>> fuses_activation("evonorm_s0"), fuses_activation("bn_relu")
    (True, False)
    """
    return bool(getattr(LINEN.layer_class(factory), "fuses_activation", False))


def activation_of(factory: LayerLike) -> Callable[[jax.Array], jax.Array]:
    """Returns the activation of a layer, e.g. for the sum of a post-activation residual block.

    >>> activation_of("gn_relu")(jax.numpy.array([-1.0, 2.0])).tolist()
    [0.0, 2.0]

    Raises:
      UserError: The layer fuses its activation, or the activation has parameters of its own.
    """
    cls = LINEN.layer_class(factory)
    activation = ACTIVATIONS.get(getattr(cls, "activation", ""))
    if activation is None:
        raise UserError(
            f"{cls.__name__} has no activation that can stand alone: take a layer that ends in "
            "ReLU or SiLU, or a pre-activation network, which needs none"
        )
    return activation


def resolve_norm_act(name: str) -> str:
    """Returns a name of the same layer that needs no file: `graph:PATH` becomes the graph itself.

    >>> resolve_norm_act("evonorm_s0")
    'evonorm_s0'
    """
    if not name.startswith(PREFIX):
        return name
    return PREFIX + inline_graph(name.removeprefix(PREFIX))


def _check_type(cls: type, field: str, value: Any, annotation: Any) -> None:
    """Refuses a value of another type than a plain one (`int`, `float | None`, ...) declared."""
    if field.endswith("_init") and not callable(value):
        raise UserError(f"{field}={value!r} of {cls.__name__}: expected an initializer, a function")
    if field in ("dtype", "param_dtype") and value is not None and not _is_float_dtype(value):
        raise UserError(
            f"{field}={value!r} of {cls.__name__}: expected a floating-point dtype such as float32"
        )
    allowed = set(typing.get_args(annotation) or (annotation,))
    plain = {bool, int, float, str, type(None)}
    if allowed <= plain and not (
        type(value) in allowed or (type(value) is int and float in allowed)
    ):
        names = " or ".join(sorted(kind.__name__ for kind in allowed))
        raise UserError(f"{field}={value!r} of {cls.__name__}: expected {names}")


def _is_float_dtype(value: Any) -> bool:
    try:
        return bool(jnp.issubdtype(jnp.dtype(value), jnp.floating))
    except (TypeError, ValueError):
        return False


def _unknown(what: str, given: str, known: Collection[str]) -> str:
    return f"unknown {what} {given!r}.{did_you_mean(given, known)} Known: {', '.join(known)}"
