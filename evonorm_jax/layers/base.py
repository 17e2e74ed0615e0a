"""A definition of a layer as a Linen module: the module holds parameters and running statistics."""

import inspect
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from flax import linen as nn

from evonorm_jax.errors import UserError
from evonorm_jax.layers.definitions.base import INITIAL_STATISTIC, LayerDefinition


class NormActLayer(LayerDefinition, nn.Module):
    """A normalisation and an activation as one layer, `[N, H, W, C]` to `[N, H, W, C]`.

    A layer of this class is a subclass of a definition and of this class, in that order. It keeps
    its running statistics in the collection `batch_stats`.

    Attributes:
      use_running_average: True in evaluation, False in training. It can be an argument of the call
        instead. Layers without batch statistics accept and ignore it, so that a network need not
        know which layer it holds.
    """

    use_running_average: bool | None = None

    def __init_subclass__(cls, kw_only: bool = True, **kwargs: Any) -> None:
        cls.__doc__ = cls.__doc__ or inspect.getdoc(cls.__bases__[0])
        super().__init_subclass__(kw_only=kw_only, **kwargs)

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

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        use_running_average: bool | None = None,
        scale: jax.Array | None = None,
        bias: jax.Array | None = None,
        *,
        with_shortcut: bool = False,
    ) -> jax.Array | tuple[jax.Array, jax.Array]:
        """Applies the layer.

        Args:
          x: Images `[N, H, W, C]` of any floating dtype.
          use_running_average: True in evaluation, False in training. Give either this argument or
            the field of the same name.
          scale: Scale that takes the place of the parameter, which then does not exist. It is
            `(C,)`, or `[N, C]` for a scale of each example, as in class-conditional synthesis
            (`ConditionalNormAct`).
          bias: Bias that takes the place of the parameter, which then does not exist. It is `(C,)`,
            or `[N, C]` for a bias of each example.
          with_shortcut: Whether to return x too, for the shortcut of a residual block. Then the
            kernel of EvoNorm-S0 can add the shortcut's gradient
            (`evonorm_jax.kernels.evonorm_s0_with_shortcut`).

        Returns:
          The output `[N, H, W, C]`, in `dtype` or else in the dtype of `x`; `with_shortcut`, a
          tuple of that and `x`.

        Raises:
          UserError: The input, a field or an argument is not acceptable.
        """
        x = jnp.asarray(x)
        self._check_input(x)
        self._check_fields(x.shape[-1])
        params = self._given_params(x, scale=scale, bias=bias)
        for name, (init, shape) in self._parameters(x.shape[-1]).items():
            if name not in params:
                params[name] = self.param(name, init, shape, self.param_dtype)
        kinds = self._running_statistics()
        variables = {
            name: self.variable(
                "batch_stats", name, INITIAL_STATISTIC[kind], x.shape[-1:], jnp.float32
            )
            for name, kind in kinds.items()
        }
        running = {name: variable.value for name, variable in variables.items()}
        if running and self._evaluates(use_running_average):
            y, shortcut, _ = self._compute(x, params, running, with_shortcut=with_shortcut)
            return (y, shortcut) if with_shortcut else y
        if running:
            self._check_mutable()
        initializing = self.is_initializing()
        y, shortcut, batch = self._compute(
            x, params, initializing=initializing, with_shortcut=with_shortcut
        )
        if not initializing:
            for name, value in self._update(running, batch).items():
                variables[name].value = value
        return (y, shortcut) if with_shortcut else y

    def _evaluates(self, use_running_average: bool | None) -> bool:
        given = [
            value for value in (self.use_running_average, use_running_average) if value is not None
        ]
        if len(given) != 1:
            raise UserError(
                f"{type(self).__name__} needs use_running_average exactly once, as a field or in "
                f"the call (here: {len(given)} times): False in training, True in evaluation"
            )
        return given[0]

    def _check_mutable(self) -> None:
        if not self.is_mutable_collection("batch_stats"):
            raise UserError(
                f"{type(self).__name__} with use_running_average=False updates its running "
                "statistics, without which evaluation is wrong: call apply(..., "
                'mutable=["batch_stats"]) and keep the state that it returns, or evaluate with '
                "use_running_average=True"
            )
