"""A definition of a layer as an NNX module: the module holds parameters and running statistics."""

import dataclasses
import inspect
import numbers
import typing
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from flax import nnx

from evonorm_jax.errors import UserError
from evonorm_jax.layers.definitions.base import INITIAL_STATISTIC, LayerDefinition


@typing.dataclass_transform(kw_only_default=True, eq_default=False)
@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class NormActLayer(LayerDefinition, nnx.Module):
    """A normalisation and an activation as one layer, `[N, H, W, C]` to `[N, H, W, C]`.

    A layer of this class is a subclass of a definition and of this class, in that order; its fields
    become arguments of `__init__`.

    Attributes:
      num_features: Number of channels, C.
      use_running_average: True in evaluation, False in training, as `.eval()` and `.train()` of any
        module around the layer set it. Layers without batch statistics ignore it.
      use_scale: Whether the layer has the parameter `scale`; without it nothing is scaled unless
        the call gives a scale.
      use_bias: Whether the layer has the parameter `bias`, likewise.
      rngs: Where the keys of the initializers come from, the stream `params`; argument of
        `__init__`.

    Raises:
      UserError: On construction, if a field has a value that it cannot have.
    """

    num_features: int = dataclasses.field(kw_only=False)
    use_running_average: bool | None = False
    use_scale: bool = True
    use_bias: bool = True
    rngs: dataclasses.InitVar[nnx.Rngs]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        cls.__doc__ = cls.__doc__ or inspect.getdoc(cls.__bases__[0])
        super().__init_subclass__(**kwargs)
        dataclasses.dataclass(kw_only=True, eq=False, repr=False)(cls)
        # NNX makes modules in a metaclass, which takes any arguments and hides those of `__init__`.
        signature = inspect.signature(cls.__init__)
        own = [item for name, item in signature.parameters.items() if name != "self"]
        cls.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]

    def __post_init__(self, rngs: nnx.Rngs) -> None:
        if not isinstance(self.num_features, numbers.Integral) or self.num_features < 1:
            raise UserError(
                f"{type(self).__name__}: num_features={self.num_features!r} must be the number of "
                "channels of the images, e.g. 64"
            )
        name = "axis_index_groups"
        if groups := getattr(self, name, None):
            # `nnx.jit` hashes the structure of a module, which a list would make unhashable.
            setattr(self, name, tuple(map(tuple, groups)))
        self._check_fields(self.num_features)
        for name, (init, shape) in self._parameters(self.num_features).items():
            if getattr(self, f"use_{name}", True):
                setattr(self, name, nnx.Param(init(rngs.params(), shape, self.param_dtype)))
            else:
                setattr(self, name, nnx.data(None))
        for name, kind in self._running_statistics().items():
            initial = INITIAL_STATISTIC[kind]((self.num_features,), jnp.float32)
            setattr(self, name, nnx.BatchStat(initial))

    @overload
    def __call__(
        self,
        x: jax.Array,
        use_running_average: bool | None = None,
        scale: jax.Array | None = None,
        bias: jax.Array | None = None,
        *,
        with_shortcut: Literal[False] = False,
    ) -> jax.Array: ...

    @overload
    def __call__(
        self,
        x: jax.Array,
        use_running_average: bool | None = None,
        scale: jax.Array | None = None,
        bias: jax.Array | None = None,
        *,
        with_shortcut: Literal[True],
    ) -> tuple[jax.Array, jax.Array]: ...

    def __call__(
        self,
        x: jax.Array,
        use_running_average: bool | None = None,
        scale: jax.Array | None = None,
        bias: jax.Array | None = None,
        *,
        with_shortcut: bool = False,
    ) -> jax.Array | tuple[jax.Array, jax.Array]:
        """Applies the layer, and in training moves its running statistics.

        Args:
          x: Images `[N, H, W, C]` of any floating dtype.
          use_running_average: True in evaluation, False in training; None leaves it to the
            attribute of the same name.
          scale: Scale that takes the place of the parameter; make the layer with `use_scale=False`
            to have none. It is `(C,)`, or `[N, C]` for a scale of each example, as in
            class-conditional synthesis (`ConditionalNormAct`).
          bias: Bias that takes the place of the parameter, likewise.
          with_shortcut: Whether to return x too, for the shortcut of a residual block. Then the
            kernel of EvoNorm-S0 can add the shortcut's gradient
            (`evonorm_jax.kernels.evonorm_s0_with_shortcut`).

        Returns:
          The output `[N, H, W, C]`, in `dtype` or else in the dtype of `x`; `with_shortcut`, a
          tuple of that and `x`.

        Raises:
          UserError: The input or an argument is not acceptable, or nothing says whether the layer
            trains.
        """
        x = jnp.asarray(x)
        self._check_input(x)
        if x.shape[-1] != self.num_features:
            raise UserError(
                f"{type(self).__name__} of num_features={self.num_features} takes images with as "
                f"many channels, not an array of shape {x.shape}"
            )
        params = self._params() | self._given_params(x, scale=scale, bias=bias)
        variables: dict[str, nnx.BatchStat] = {
            name: getattr(self, name) for name in self._running_statistics()
        }
        running = {name: variable[...] for name, variable in variables.items()}
        if running and self._evaluates(use_running_average):
            y, shortcut, _ = self._compute(x, params, running, with_shortcut=with_shortcut)
            return (y, shortcut) if with_shortcut else y
        y, shortcut, batch = self._compute(x, params, with_shortcut=with_shortcut)
        for name, value in self._update(running, batch).items():
            variables[name].set_value(value)
        return (y, shortcut) if with_shortcut else y

    def set_view(self, use_running_average: bool | None = None) -> None:
        """Sets the mode of a view; `flax.nnx.view` calls it."""
        if use_running_average is not None:
            self.use_running_average = use_running_average

    def _params(self) -> dict[str, jax.Array]:
        """Returns the parameters; ones and zeros for a scale and a bias that are none."""
        neutral = {"scale": jnp.ones, "bias": jnp.zeros}
        return {
            name: neutral[name](shape, self.param_dtype)
            if getattr(self, name) is None
            else getattr(self, name)[...]
            for name, (_, shape) in self._parameters(self.num_features).items()
        }

    def _evaluates(self, use_running_average: bool | None) -> bool:
        if use_running_average is None:
            use_running_average = self.use_running_average
        if use_running_average is None:
            raise UserError(
                f"{type(self).__name__} does not know whether it trains: call .train() or .eval() "
                "on the model, or give use_running_average=False in training, True in evaluation"
            )
        return use_running_average
