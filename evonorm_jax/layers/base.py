"""The parts that all norm-activation layers share: fields, affine map, running statistics.

A layer is computed in one of two ways. Most override `transform` with a function of
`evonorm_jax.kernels` (`FusedLayer`), which keeps x and two numbers per sample and channel for the
backward pass. The others supply their formula as `normalize`, between the checks and the affine
map, and leave the rest to JAX:

    y = activation(normalize(x) * scale + bias)

Either way all arithmetic is done in float32 (float64 for float64 input) and rounded to the output
dtype once, at the end: rounding to bfloat16 after every operation costs 7 to 12 % in the gradients
of the parameters.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer

from evonorm_jax.errors import UserError
from evonorm_jax.kernels import moments
from evonorm_jax.kernels.pooling import over_examples
from evonorm_jax.kernels.validation import check_statistics_batch
from evonorm_jax.layers.groups import resolve_num_groups

#: The activations that have no parameters, by the names that the layers and kernels give them.
ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = MappingProxyType(
    {"relu": nn.relu, "relu6": nn.relu6, "silu": nn.silu}
)

#: A fresh running statistic is that of standard normal values. A variance that starts at 0 gives
#: absurd outputs until enough steps have been averaged.
INITIAL_STATISTIC = {"mean": jnp.zeros, "var": jnp.ones, "mean_square": jnp.ones}


class NormActLayer(nn.Module):
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
      use_running_average: True in evaluation, False in training. It can be an argument of the call
        instead. Layers without batch statistics accept and ignore it, so that a network need not
        know which layer it holds.
    """

    nonlinearity: bool = True
    epsilon: float = 1e-5
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    scale_init: Initializer = nn.initializers.ones
    bias_init: Initializer = nn.initializers.zeros
    use_running_average: bool | None = None

    #: The formula has no normalisation that could stand without its activation.
    fuses_activation: ClassVar[bool] = False
    #: Name of what follows the affine map; "" for nothing, or for what the formula contains.
    activation: ClassVar[str] = ""

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        use_running_average: bool | None = None,
        scale: jax.Array | None = None,
        bias: jax.Array | None = None,
    ) -> jax.Array:
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

        Returns:
          The output `[N, H, W, C]`, in `dtype` or else in the dtype of `x`.

        Raises:
          UserError: The input, a field or `use_running_average` is not acceptable.
        """
        x = jnp.asarray(x)
        self._check(x)
        output_dtype = x.dtype if self.dtype is None else self.dtype
        x = x.astype(jnp.promote_types(x.dtype, output_dtype))
        scale = self._affine_operand("scale", scale, self.scale_init, x)
        bias = self._affine_operand("bias", bias, self.bias_init, x)
        if self.nonlinearity or not self.fuses_activation:
            y = self.transform(x, scale, bias, use_running_average)
        else:
            y = affine(moments.upcast(x), scale, bias)
        return y.astype(output_dtype)

    def transform(
        self, x: jax.Array, scale: jax.Array, bias: jax.Array, use_running_average: bool | None
    ) -> jax.Array:
        """Computes the layer, without the activation where `nonlinearity` is False."""
        x = moments.upcast(x)
        z = affine(self.normalize(x, **self.batch_statistics(x, use_running_average)), scale, bias)
        return ACTIVATIONS[self.activation](z) if self.activation and self.nonlinearity else z

    def normalize(self, x: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
        """Computes the formula before the affine map from `x` and the `batch_statistics`."""
        raise NotImplementedError

    def batch_statistics(
        self, x: jax.Array, use_running_average: bool | None
    ) -> dict[str, jax.Array]:
        """Returns the statistics over the batch by name; none for a batch-independent layer."""
        return {}

    def channel_param(self, name: str, init: Initializer, x: jax.Array) -> jax.Array:
        """Returns the parameter `name` of shape `(C,)` in `param_dtype`."""
        return self.param(name, init, (x.shape[-1],), self.param_dtype)

    def _affine_operand(
        self, name: str, given: jax.Array | None, init: Initializer, x: jax.Array
    ) -> jax.Array:
        """Returns the `scale` or `bias` that the caller gives, or else the parameter."""
        if given is None:
            return self.channel_param(name, init, x)
        given = jnp.asarray(given)
        n, c = x.shape[0], x.shape[-1]
        if given.shape not in ((c,), (n, c)) or not jnp.issubdtype(given.dtype, jnp.floating):
            raise UserError(
                f"{type(self).__name__}: {name} is {given.dtype}{list(given.shape)}: for x of "
                f"shape {x.shape} give floating-point numbers of shape ({c},), or ({n}, {c}) for "
                f"a {name} of each example"
            )
        return given

    def std(self, variance: jax.Array) -> jax.Array:
        """Returns sqrt(variance + epsilon) of a variance or second moment.

        With epsilon above 0 the root is never 0 and its gradient is finite.
        """
        return jnp.sqrt(variance + self.epsilon)

    def standardize(self, x: jax.Array, mean: jax.Array, var: jax.Array) -> jax.Array:
        """Subtracts the mean from `x` and divides by the standard deviation."""
        return (x - mean) * jax.lax.rsqrt(var + self.epsilon)

    def _check(self, x: jax.Array) -> None:
        layer = type(self).__name__
        if self.epsilon < 0:
            raise UserError(f"{layer}: epsilon={self.epsilon} must not be negative, e.g. 1e-5")
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


def affine(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Returns `x * scale + bias` in the dtype of `x`.

    `scale` and `bias` are `(C,)`, or `[N, C]` with one row for each example.
    """

    def expand(param: jax.Array) -> jax.Array:
        # All four axes are written out, for users of jax_numpy_rank_promotion="raise".
        return param.reshape(-1, 1, 1, param.shape[-1]).astype(x.dtype)

    return x * expand(scale) + expand(bias)


class FusedLayer(NormActLayer):
    """A layer that computes through `evonorm_jax.kernels`.

    Attributes:
      implementation: Name of the implementation. None chooses the fastest one for the device that
        the program is compiled for; "xla" and "reference" are those of `evonorm_jax.kernels`.
        Forward-mode derivatives and Hessians need "reference".
    """

    implementation: str | None = None


class GroupLayer(NormActLayer):
    """A layer with statistics of groups of channels.

    Attributes:
      num_groups: Number of groups, which is lowered by one until it divides the channels. None
        means 32, unless `group_size` is given.
      group_size: Exact number of channels in a group; None leaves it to `num_groups`.
    """

    num_groups: int | None = None
    group_size: int | None = None

    def resolve_num_groups(self, x: jax.Array) -> int:
        """Returns the number of groups that the channels of `x` fall into."""
        return resolve_num_groups(x.shape[-1], self.num_groups, self.group_size)


class BatchDependentLayer(NormActLayer):
    """A layer with statistics over the batch, tracked in the collection `batch_stats`.

    In training the layer uses the statistics of the batch, and each running statistic becomes
    `momentum * running + (1 - momentum) * batch`; in evaluation it uses the running statistics.
    These are float32, biased, and the mean over the virtual batches. While the variables are
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

    #: Names of the statistics that `normalize` takes, "mean" and "var", or "mean_square".
    tracked: ClassVar[tuple[str, ...]] = ()

    def batch_statistics(
        self, x: jax.Array, use_running_average: bool | None
    ) -> dict[str, jax.Array]:
        """Returns the tracked statistics of this batch, or the running ones in evaluation.

        They broadcast against `x`.
        """
        running = self._running_statistics(x)
        if self._merge(use_running_average):
            return {
                name: variable.value.astype(x.dtype).reshape(1, 1, 1, -1)
                for name, variable in running.items()
            }
        self._check_mutable()
        if self.tracked == ("mean_square",):
            batch = {"mean_square": moments.batch_mean_square(x, **self._pooling())}
        else:
            batch = moments.batch_moments(x, **self._pooling())._asdict()
        self._track(running, {name: jnp.mean(batch[name], axis=(0, 1, 2)) for name in running})
        return {name: over_examples(batch[name], x.shape[0]) for name in self.tracked}

    def run_batch_kernels(
        self,
        training_kernel: Callable[..., Any],
        inference_kernel: Callable[..., jax.Array],
        x: jax.Array,
        use_running_average: bool | None,
        **operands: Any,
    ) -> jax.Array:
        """Computes a layer that has kernels, and in training updates the running statistics.

        Args:
          training_kernel: Function that takes `operands` and the fields that choose the statistics
            batch, as `kernels.evonorm_b0` does. It returns the output and the tracked statistics of
            the batch, `(C,)` each.
          inference_kernel: Function that takes `operands`, and each tracked statistic as
            `running_<name>`.
          x: Images `[N, H, W, C]`.
          use_running_average: Argument of `__call__` of the same name.
          **operands: Parameters and static arguments by name.

        Returns:
          The layer's output, `[N, H, W, C]`.
        """
        running = self._running_statistics(x)
        if self._merge(use_running_average):
            operands |= {f"running_{name}": variable.value for name, variable in running.items()}
            return inference_kernel(x, **operands)
        self._check_mutable()
        y, *batch = training_kernel(x, **operands, **self._pooling())
        self._track(running, dict(zip(self.tracked, batch, strict=True)))
        return y

    def _running_statistics(self, x: jax.Array) -> dict[str, nn.Variable]:
        check_statistics_batch(self.virtual_batch_size, self.axis_name, self.axis_index_groups)
        if not 0 <= self.momentum <= 1:
            raise UserError(
                f"{type(self).__name__}: momentum={self.momentum} must lie between 0 and 1: it is "
                "the share of the old statistic that is kept, e.g. 0.9"
            )
        return {
            name: self.variable(
                "batch_stats", name, INITIAL_STATISTIC[name], (x.shape[-1],), jnp.float32
            )
            for name in self.tracked
        }

    def _track(self, running: dict[str, nn.Variable], batch: dict[str, jax.Array]) -> None:
        """Moves the running statistics towards those of the batch, `(C,)` each."""
        if self.is_initializing():
            return
        for name, variable in running.items():
            statistic = batch[name].astype(jnp.float32)
            variable.value = self.momentum * variable.value + (1 - self.momentum) * statistic

    def _pooling(self) -> dict[str, Any]:
        """Returns the arguments that choose which examples and devices share their statistics."""
        if self.is_initializing():
            return {}
        return {
            "virtual_batch_size": self.virtual_batch_size,
            "axis_name": self.axis_name,
            "axis_index_groups": self.axis_index_groups,
        }

    def _merge(self, use_running_average: bool | None) -> bool:
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
