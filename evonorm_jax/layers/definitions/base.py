"""The parts that all norm-activation layers share: fields, affine map, running statistics.

A layer is computed in one of two ways. Most override `_transform` with a function of
`evonorm_jax.kernels` (`FusedLayer`), which keeps x and two numbers per sample and channel for the
backward pass. The others supply their formula as `_normalize`, between the checks and the affine
map, and leave the rest to JAX:

    y = activation(normalize(x) * scale + bias)

Either way all arithmetic is done in float32 (float64 for float64 input) and rounded to the output
dtype once, at the end: rounding to bfloat16 after every operation costs 7 to 12 % in the gradients
of the parameters.

Methods have private names because a module inherits them, and `nnx.tabulate` compiles every public
method of a module.
"""

import dataclasses
import typing
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer
from jax.nn import initializers

from evonorm_jax.errors import UserError
from evonorm_jax.kernels import moments
from evonorm_jax.kernels.pooling import over_examples
from evonorm_jax.kernels.validation import check_statistics_batch
from evonorm_jax.layers.groups import resolve_num_groups

#: The activations that have no parameters, by the names that the layers and kernels give them.
ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = MappingProxyType(
    {"relu": jax.nn.relu, "relu6": jax.nn.relu6, "silu": jax.nn.silu}
)

#: A fresh running statistic is that of standard normal values. A variance that starts at 0 gives
#: absurd outputs until enough steps have been averaged.
INITIAL_STATISTIC = {"mean": jnp.zeros, "var": jnp.ones, "mean_square": jnp.ones}

#: Arrays by name.
Arrays = Mapping[str, jax.Array]

_Class = TypeVar("_Class")


class Parameter(NamedTuple):
    """How a parameter begins: its initializer and its shape."""

    init: Initializer
    shape: tuple[int, ...]


@dataclasses.dataclass
class BatchStatistics:
    """The statistics over the batch, on their way into a layer and out of it.

    Attributes:
      running: In evaluation, the running statistics by name, `(C,)` each; None in training.
      pooling: Which examples and devices share their statistics: arguments of the kernels.
      batch: In training, the layer leaves the statistics of the batch here, `(C,)` each.
    """

    running: Arrays | None
    pooling: Mapping[str, Any]
    batch: dict[str, jax.Array] = dataclasses.field(default_factory=dict)


@typing.dataclass_transform(kw_only_default=True, eq_default=False)
def definition(cls: type[_Class]) -> type[_Class]:
    """Makes the annotations of a class fields; the modules made of it get `__init__` and the rest.

    The fields are keywords, because a module puts arguments of its own before them.
    """
    return dataclasses.dataclass(kw_only=True, init=False, repr=False, eq=False)(cls)


@definition
class LayerDefinition:
    """A normalisation and an activation as one layer, `[N, H, W, C]` to `[N, H, W, C]`.

    Attributes:
      nonlinearity: False where the network has a normalisation with no activation after it. A
        layer with `fuses_activation` is then the affine map alone; any other layer is the
        normalisation without the activation.
      epsilon: Constant added to variances and second moments, inside the root.
      dtype: Dtype of the output; None means that of the input.
      param_dtype: Dtype of the parameters.
      scale_init: Initializer of the parameter `scale`, `(C,)`.
      bias_init: Initializer of the parameter `bias`, `(C,)`.
    """

    nonlinearity: bool = True
    epsilon: float = 1e-5
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    scale_init: Initializer = initializers.ones
    bias_init: Initializer = initializers.zeros

    #: The formula has no normalisation that could stand without its activation.
    fuses_activation: ClassVar[bool] = False
    #: Name of what follows the affine map; "" for nothing, or for what the formula contains.
    activation: ClassVar[str] = ""

    @property
    def _is_affine(self) -> bool:
        """Whether the layer is the affine map alone."""
        return self.fuses_activation and not self.nonlinearity

    @property
    def adds_shortcut(self) -> bool:
        """Whether the layer computes the gradient of a shortcut that it returns (`with_shortcut`).

        If it does not, there is no gain in asking for x.
        """
        return False

    def _parameters(self, num_channels: int) -> dict[str, Parameter]:
        """Returns the parameters that the layer has, by name; scale and bias come first."""
        own = {} if self._is_affine else self._own_parameters(num_channels)
        channel = (num_channels,)
        scale, bias = Parameter(self.scale_init, channel), Parameter(self.bias_init, channel)
        return {"scale": scale, "bias": bias, **own}

    def _own_parameters(self, num_channels: int) -> dict[str, Parameter]:
        """Returns the parameters of the formula and the activation, by name."""
        del num_channels
        return {}

    def _running_statistics(self) -> dict[str, str]:
        """Returns the kind of each running statistic, a key of `INITIAL_STATISTIC`, by name.

        Each has the shape `(C,)` and the dtype float32. A layer without them has no mode.
        """
        return {}

    def _compute(
        self,
        x: jax.Array,
        params: Arrays,
        running: Arrays | None = None,
        *,
        initializing: bool = False,
        with_shortcut: bool = False,
    ) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        """Computes the layer.

        Args:
          x: Images `[N, H, W, C]` that have passed `_check_input`.
          params: All `_parameters`. `scale` and `bias` may also be `[N, C]`.
          running: All `_running_statistics` in evaluation; None in training.
          initializing: Whether nothing is averaged, pooled or split.
          with_shortcut: Whether `_transform_with_shortcut` takes the place of `_transform`.

        Returns:
          The output `[N, H, W, C]`, in `dtype` or else in the dtype of `x`; x; and in training the
          statistics of the batch by the names of the running ones, `(C,)` each.

        Raises:
          UserError: A transformation has made a traced array of `with_shortcut`.
        """
        if not isinstance(with_shortcut, bool):
            raise UserError(
                "with_shortcut must be True or False, not a traced array: transforms of modules "
                "such as nn.remat trace every argument; transform the block around the layer "
                "instead"
            )
        shortcut, input_dtype = x, x.dtype
        output_dtype = x.dtype if self.dtype is None else self.dtype
        x = x.astype(jnp.promote_types(x.dtype, output_dtype))
        statistics = BatchStatistics(running, {} if initializing else self._pooling())
        if self._is_affine:
            y = affine(moments.upcast(x), params["scale"], params["bias"])
        elif with_shortcut:
            y, shortcut = self._transform_with_shortcut(x, params, statistics)
        else:
            y = self._transform(x, params, statistics)
        return y.astype(output_dtype), shortcut.astype(input_dtype), statistics.batch

    def _transform(self, x: jax.Array, params: Arrays, statistics: BatchStatistics) -> jax.Array:
        """Computes the layer, without the activation where `nonlinearity` is False."""
        x = moments.upcast(x)
        z = affine(self._normalize(x, params, statistics), params["scale"], params["bias"])
        return ACTIVATIONS[self.activation](z) if self.activation and self.nonlinearity else z

    def _transform_with_shortcut(
        self, x: jax.Array, params: Arrays, statistics: BatchStatistics
    ) -> tuple[jax.Array, jax.Array]:
        """Computes `_transform`, and returns x beside it for the shortcut of a residual block."""
        return self._transform(x, params, statistics), x

    def _normalize(self, x: jax.Array, params: Arrays, statistics: BatchStatistics) -> jax.Array:
        """Computes the formula before the affine map."""
        raise NotImplementedError

    def _pooling(self) -> dict[str, Any]:
        """Returns the arguments that choose which examples and devices share their statistics."""
        return {}

    def _update(self, running: Arrays, batch: Arrays) -> dict[str, jax.Array]:
        """Returns the running statistics after a batch; none for a batch-independent layer."""
        del running, batch
        return {}

    def _std(self, variance: jax.Array) -> jax.Array:
        """Returns sqrt(variance + epsilon) of a variance or second moment.

        With epsilon above 0 the root is never 0 and its gradient is finite.
        """
        return jnp.sqrt(variance + self.epsilon)

    def _standardize(self, x: jax.Array, mean: jax.Array, var: jax.Array) -> jax.Array:
        """Subtracts the mean from `x` and divides by the standard deviation."""
        return (x - mean) * jax.lax.rsqrt(var + self.epsilon)

    def _check_fields(self, num_channels: int) -> None:
        """Raises `UserError` if a field has a value that it cannot have."""
        del num_channels
        if self.epsilon < 0:
            raise UserError(
                f"{type(self).__name__}: epsilon={self.epsilon} must not be negative, e.g. 1e-5"
            )

    def _check_input(self, x: jax.Array) -> None:
        """Raises `UserError` unless x is a floating `[N, H, W, C]` that is not empty."""
        layer = type(self).__name__
        if x.ndim != 4 or x.size == 0:
            raise UserError(
                f"{layer} takes images [N, H, W, C], none of them 0, not an array of shape "
                f"{x.shape}; reshape it, with axes of length 1 where it has none"
            )
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise UserError(
                f"{layer} takes floating-point images, not {x.dtype}; convert them first, "
                "e.g. x.astype(jnp.float32)"
            )

    def _given_params(self, x: jax.Array, **given: Any) -> dict[str, jax.Array]:
        """Returns the `scale` and `bias` that the caller gives, without those that are None.

        Raises:
          UserError: One is not of floating-point numbers `(C,)` or `[N, C]`.
        """
        arrays = {name: jnp.asarray(value) for name, value in given.items() if value is not None}
        n, c = x.shape[0], x.shape[-1]
        for name, array in arrays.items():
            if array.shape in ((c,), (n, c)) and jnp.issubdtype(array.dtype, jnp.floating):
                continue
            raise UserError(
                f"{type(self).__name__}: {name} is {array.dtype}{list(array.shape)}: for x of "
                f"shape {x.shape} give floating-point numbers of shape ({c},), or ({n}, {c}) for "
                f"a {name} of each example"
            )
        return arrays


def affine(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Returns `x * scale + bias` in the dtype of `x`.

    `scale` and `bias` are `(C,)`, or `[N, C]` with one row for each example.
    """

    def expand(param: jax.Array) -> jax.Array:
        # All four axes are written out, for users of jax_numpy_rank_promotion="raise".
        return param.reshape(-1, 1, 1, param.shape[-1]).astype(x.dtype)

    return x * expand(scale) + expand(bias)


@definition
class FusedLayer(LayerDefinition):
    """A layer that computes through `evonorm_jax.kernels`.

    Attributes:
      implementation: Name of the implementation. None chooses the fastest one for the device that
        the program is compiled for; "xla" and "reference" are those of `evonorm_jax.kernels`.
        Forward-mode derivatives and Hessians need "reference".
    """

    implementation: str | None = None


@definition
class GroupLayer(LayerDefinition):
    """A layer with statistics of groups of channels.

    Attributes:
      num_groups: Number of groups, which is lowered by one until it divides the channels. None
        means 32, unless `group_size` is given.
      group_size: Exact number of channels in a group; None leaves it to `num_groups`.
    """

    num_groups: int | None = None
    group_size: int | None = None

    def _resolve_num_groups(self, num_channels: int) -> int:
        """Returns the number of groups that the channels fall into."""
        return resolve_num_groups(num_channels, self.num_groups, self.group_size)

    def _check_fields(self, num_channels: int) -> None:
        super()._check_fields(num_channels)
        if not self._is_affine:
            self._resolve_num_groups(num_channels)


@definition
class BatchDependentLayer(LayerDefinition):
    """A layer with statistics over the batch, of which it keeps running averages.

    In training the layer uses the statistics of the batch, and each running statistic becomes
    `momentum * running + (1 - momentum) * batch`; in evaluation it uses the running statistics.
    These are float32, biased, and the mean over the virtual batches. While Linen variables are
    initialised nothing is averaged, pooled or split: one image without a `pmap` around it will do.

    Attributes:
      momentum: Share of the old running statistic that is kept, between 0 and 1.
      virtual_batch_size: Number of consecutive examples that share their statistics, e.g. the
        images of one worker when one device plays several; None means the whole batch of the
        device.
      axis_name: Name of a `pmap` or `shard_map` axis over which the statistics are pooled; None
        means that devices do not pool.
      axis_index_groups: Lists of the devices of that axis that pool with one another; None means
        that all of them do.
    """

    momentum: float = 0.9
    virtual_batch_size: int | None = None
    axis_name: str | None = None
    axis_index_groups: Sequence[Sequence[int]] | None = None

    #: Names of the statistics of x over the batch, "mean" and "var", or one of "var" and
    #: "mean_square".
    tracked: ClassVar[tuple[str, ...]] = ()

    def _running_statistics(self) -> dict[str, str]:
        return {} if self._is_affine else {name: name for name in self.tracked}

    def _batch_statistics(self, x: jax.Array, statistics: BatchStatistics) -> dict[str, jax.Array]:
        """Returns the tracked statistics of this batch, or the running ones in evaluation.

        They broadcast against `x`.
        """
        if statistics.running is not None:
            return {
                name: value.astype(x.dtype).reshape(1, 1, 1, -1)
                for name, value in statistics.running.items()
            }
        if self.tracked == ("mean_square",):
            batch = {"mean_square": moments.batch_mean_square(x, **statistics.pooling)}
        else:
            batch = moments.batch_moments(x, **statistics.pooling)._asdict()
        for name in self.tracked:
            statistics.batch[name] = jnp.mean(batch[name], axis=(0, 1, 2))
        return {name: over_examples(batch[name], x.shape[0]) for name in self.tracked}

    def _run_batch_kernels(
        self,
        training_kernel: Callable[..., Any],
        inference_kernel: Callable[..., jax.Array],
        x: jax.Array,
        statistics: BatchStatistics,
        **operands: Any,
    ) -> jax.Array:
        """Computes a layer that has kernels.

        Args:
          training_kernel: Function that takes `operands` and the fields that choose the statistics
            batch, as `kernels.evonorm_b0` does. It returns the output and the tracked statistics of
            the batch, `(C,)` each.
          inference_kernel: Function that takes `operands`, and each tracked statistic as
            `running_<name>`.
          x: Images `[N, H, W, C]`.
          statistics: Statistics over the batch.
          **operands: Parameters and static arguments by name.

        Returns:
          The layer's output, `[N, H, W, C]`.
        """
        if statistics.running is not None:
            operands |= {f"running_{name}": value for name, value in statistics.running.items()}
            return inference_kernel(x, **operands)
        y, *batch = training_kernel(x, **operands, **statistics.pooling)
        statistics.batch.update(zip(self.tracked, batch, strict=True))
        return y

    def _pooling(self) -> dict[str, Any]:
        return {
            "virtual_batch_size": self.virtual_batch_size,
            "axis_name": self.axis_name,
            "axis_index_groups": self.axis_index_groups,
        }

    def _update(self, running: Arrays, batch: Arrays) -> dict[str, jax.Array]:
        def average(value: jax.Array, statistic: jax.Array) -> jax.Array:
            statistic = statistic.astype(jnp.float32)
            return self.momentum * value + (1 - self.momentum) * statistic

        # Nothing is learnt through an average, and the references that NNX may keep it in cannot
        # hold derivatives.
        return {
            name: jax.lax.stop_gradient(average(value, batch[name]))
            for name, value in running.items()
        }

    def _check_fields(self, num_channels: int) -> None:
        super()._check_fields(num_channels)
        if self._is_affine:  # a network binds these fields for all of its layers
            return
        check_statistics_batch(self.virtual_batch_size, self.axis_name, self.axis_index_groups)
        if not 0 <= self.momentum <= 1:
            raise UserError(
                f"{type(self).__name__}: momentum={self.momentum} must lie between 0 and 1: it is "
                "the share of the old statistic that is kept, e.g. 0.9"
            )
