"""A layer's forward and backward pass as one compiled program, and the memory that it takes."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.extend.core import Var

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The arrays that all contenders of a case get.

    Attributes:
      x: Activation, the input of the layer.
      dy: Gradient of the layer's output, of the same shape and dtype as x.
    """

    x: jax.Array
    dy: jax.Array


@dataclasses.dataclass(frozen=True)
class LayerProgram:
    """A compiled forward and backward pass.

    Attributes:
      call: Runs the program and returns its outputs.
      compile_seconds: Seconds of tracing, lowering and compiling.
      residuals: Bytes that the forward pass keeps for the backward pass, divided by those of x.
      temporaries: Most bytes of scratch memory at once, divided by those of x.
    """

    call: Callable[[], Any]
    compile_seconds: float
    residuals: float
    temporaries: float

    @property
    def figures(self) -> dict[str, float]:
        """The figures of the program by their names in the report."""
        return {
            "residuals, copies of x": self.residuals,
            "temporaries, copies of x": self.temporaries,
            "compile seconds": self.compile_seconds,
        }


def make_inputs(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Inputs:
    """Draws normally distributed inputs; x has a mean of 0.3, as activations are not centred."""
    rng = np.random.default_rng(seed)
    x, dy = (rng.standard_normal(shape, np.float32) for _ in range(2))
    return Inputs(x=jnp.asarray(x + 0.3, dtype), dy=jnp.asarray(dy, dtype))


def compile_layer(layer: nn.Module, inputs: Inputs) -> LayerProgram:
    """Compiles y, the new statistics and the gradients of x and the parameters as one program.

    Args:
      layer: Module that is called as `layer(x)` in training mode; its batch statistics, if it keeps
        any, are in the collection `batch_stats`.
      inputs: Inputs of the program.
    """
    x, dy = inputs.x, inputs.dy
    variables = jax.jit(layer.init)(jax.random.key(0), x)
    params, state = variables["params"], variables.get("batch_stats", {})

    def forward(x: jax.Array, params: Any) -> tuple[jax.Array, Any]:
        return layer.apply({"params": params, "batch_stats": state}, x, mutable=["batch_stats"])

    def forward_and_backward(x: jax.Array, params: Any, dy: jax.Array) -> Any:
        return forward_then_backward(forward, x, params, dy)

    start = time.perf_counter()
    lowered = jax.jit(forward_and_backward).lower(x, params, dy)
    program = attempt_twice(lowered.compile)
    seconds = time.perf_counter() - start
    memory: Any = program.memory_analysis()
    return LayerProgram(
        call=lambda: program(x, params, dy),
        compile_seconds=seconds,
        residuals=residual_bytes(forward, x, params) / x.nbytes,
        temporaries=memory.temp_size_in_bytes / x.nbytes,
    )


def attempt_twice(compile_or_run: Callable[[], T]) -> T:
    """Calls a function, and calls it a second time after a runtime error.

    Where many programs are compiled at once, a GPU's assembler now and then fails to start
    ("Failed to launch ptxas" on a machine with 16 cores and 14 compilers).
    """
    try:
        return compile_or_run()
    except jax.errors.JaxRuntimeError:
        return compile_or_run()


def forward_then_backward(
    forward: Callable[..., tuple[jax.Array, Any]], x: jax.Array, params: Any, dy: jax.Array
) -> Any:
    """Returns what a layer gives in training: y, new statistics, gradients of x and `params`.

    Args:
      forward: Returns y, and new statistics that have no gradient, for x and the parameters.
      x: Input `[N, H, W, C]` of the layer.
      params: Parameters of the layer.
      dy: Gradient of y, of the same shape and dtype as y.
    """
    y, pull, statistics = jax.vjp(forward, x, params, has_aux=True)
    # In a network dy exists only after y. Without the tie XLA starts the backward pass first, and
    # shares with it what a network would have to keep or to compute again.
    y, dy = lax.optimization_barrier((y, dy))
    return y, statistics, pull(dy)


def residual_bytes(forward: Callable[..., Any], *arguments: Any) -> int:
    """Counts the bytes that the forward pass keeps for the backward pass, each array once.

    >>> residual_bytes(lambda x: (jnp.sin(x), ()), jnp.ones(8))  # keeps cos(x)
    32
    """
    jaxpr = jax.make_jaxpr(lambda *args: jax.vjp(forward, *args, has_aux=True)[1])(*arguments)
    kept = {var for var in jaxpr.jaxpr.outvars if isinstance(var, Var)}
    avals: list[Any] = [var.aval for var in kept]
    return sum(math.prod(aval.shape) * aval.dtype.itemsize for aval in avals)


def peak_bytes(program: Any) -> int:
    """Returns the bytes that a program takes at once on a device: arguments, results, scratch."""
    memory = program.memory_analysis()
    # Donated inputs and the outputs in their place are the same memory.
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )


def compile_copy(inputs: Inputs) -> Callable[[], jax.Array]:
    """Compiles one read and one write of x, by every core: the limit that memory sets."""
    # Times a number that the compiler does not know: it hands a plain copy, and a negation, to one
    # thread (0.68 instead of 0.34 ms for 12.8 MB).
    factor = jnp.asarray(-1, inputs.x.dtype)
    program = jax.jit(jnp.multiply).lower(inputs.x, factor).compile()
    return lambda: program(inputs.x, factor)
