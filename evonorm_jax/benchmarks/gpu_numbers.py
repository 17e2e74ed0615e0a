"""Values and gradients of every layer on a GPU, compared with float64 on the processor."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from evonorm_jax.benchmarks.deadline import Deadline
from evonorm_jax.benchmarks.gpu import require_gpu
from evonorm_jax.benchmarks.layer_program import attempt_twice
from evonorm_jax.benchmarks.results import Report, Result
from evonorm_jax.benchmarks.suite import Options
from evonorm_jax.errors import UserError
from evonorm_jax.norm_act import accepts_field, norm_act, norm_act_names

#: The maps of a ResNet-50 behind its pooling, its stem, a tail of 65 rows, an EfficientNet's.
SHAPES = (
    (8, 56, 56, 64),
    (8, 28, 28, 128),
    (8, 14, 14, 256),
    (8, 7, 7, 512),
    (4, 112, 112, 64),
    (3, 5, 13, 32),
    (4, 28, 28, 240),
)
QUICK_SHAPES = ((2, 4, 4, 32),)
#: Every other layer is tried at one shape.
COMMON_SHAPE = (8, 28, 28, 64)
QUICK_COMMON_SHAPE = (2, 3, 3, 32)
DTYPES = ("float32", "bfloat16")
#: Mean over standard deviation of x.
OFFSETS = (0.0, 100.0)

#: The largest deviation that is right, relative to the largest value: float32 loses digits at mean
#: / std = 100; bfloat16 rounds y and dx (2^-8), never the sums of the parameters' gradients.
LIMITS = {
    ("float32", "y"): 1e-4,
    ("float32", "dx"): 1e-4,
    ("float32", "dparams"): 1e-4,
    ("bfloat16", "y"): 1e-2,
    ("bfloat16", "dx"): 1e-2,
    ("bfloat16", "dparams"): 1e-3,
}
BEYOND = "beyond their limits"
NOTES = (
    "Deviations are the largest |value - float64| over the largest |float64|, the worst over "
    f"x of mean {' and '.join(f'{offset:.0f}' for offset in OFFSETS)} with standard deviation 1. "
    "float64 is the plain formula, computed on the processor from the same rounded inputs. "
    "`pallas_shortcut` is y + x / 2, so that the kernel has a shortcut's gradient to add.",
    "Limits: "
    + ", ".join(f"{dtype} {name} {limit:g}" for (dtype, name), limit in LIMITS.items())
    + f". `{BEYOND}` counts the figures of a row above theirs.",
)


@dataclasses.dataclass(frozen=True)
class Subject:
    """A layer in one of its forms.

    Attributes:
      name: Name of the layer, one of `norm_act_names()`.
      implementation: Implementation of its kernel; None where the layer has no choice.
    """

    name: str
    implementation: str | None = None

    @property
    def has_shortcut(self) -> bool:
        """Whether the result is y + x / 2; the two gradients differ, so none can be confused."""
        return self.implementation == "pallas_shortcut"

    @property
    def title(self) -> str:
        """Name of the layer and its form in the report."""
        return self.name if self.implementation is None else f"{self.name}, {self.implementation}"

    def layer(self, **fields: Any) -> nn.Module:
        """Returns the layer in training mode, with further fields where they are given."""
        factory = norm_act(self.name)
        if accepts_field(factory, "implementation") and self.implementation is not None:
            fields["implementation"] = self.implementation
        return factory(use_running_average=False, **fields)


def measure(options: Options) -> Report:
    """Compares every layer at one shape, and the forms of EvoNorm-S0 and B0 at all shapes.

    Raises:
      UserError: There is no GPU, or JAX may not use the processor.
    """
    require_gpu(options)
    host_device()
    deadline = Deadline(options.minutes)
    results: list[Result] = []

    def report() -> Report:
        return Report("gpu_numbers", "Values and gradients on a GPU", NOTES, tuple(results), ())

    cases = list(_cases(quick=options.quick))
    # Compiling is what takes the time, and most of it lets other threads go on.
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(_compare, *case, deadline) for case in cases]
        for case, future in zip(cases, futures, strict=True):
            results.append(future.result())
            options.log(f"{results[-1].group} {results[-1].case} {case[0].title}: done")
            if len(results) % 8 == 0:
                options.save(report())
    beyond = [result for result in results if result.figures.get(BEYOND)]
    options.log(f"{len(results)} comparisons, {len(beyond)} with a figure beyond its limit")
    return report()


def _cases(*, quick: bool) -> Iterator[tuple[Subject, tuple[int, ...], str]]:
    """Yields layer, shape and dtype of each comparison, in the order of their worth."""
    forms = [Subject("evonorm_s0", form) for form in ("pallas", "pallas_shortcut", "xla")]
    forms += [Subject("evonorm_b0", "xla")]
    names = ("bn_relu", "gn_relu") if quick else norm_act_names()
    for shape in QUICK_SHAPES if quick else SHAPES:
        for dtype in DTYPES:
            yield from ((subject, shape, dtype) for subject in forms)
    for dtype in DTYPES:
        for name in names:
            yield Subject(name), QUICK_COMMON_SHAPE if quick else COMMON_SHAPE, dtype


def _compare(subject: Subject, shape: tuple[int, ...], dtype: str, deadline: Deadline) -> Result:
    case = "x".join(map(str, shape))

    def without(note: str) -> Result:
        return Result(dtype, case, subject.title, note=note)

    if deadline.passed:
        return without(deadline.note)
    try:
        worst = attempt_twice(lambda: deviations(subject, shape, dtype))
    except UserError as error:  # a kernel that has no such shape or device
        return without(str(error))
    except jax.errors.JaxRuntimeError as error:  # one failed compiler must not end the rest
        return without(str(error).partition("\n")[0])
    above = sum(not value <= LIMITS[dtype, name] for name, value in worst.items())
    return Result(dtype, case, subject.title, figures={**worst, BEYOND: above})


def deviations(subject: Subject, shape: tuple[int, ...], dtype: str) -> dict[str, float]:
    """Computes the largest relative deviations of y, dx and parameter gradients from float64."""
    layer = subject.layer()
    run = functools.partial(_output_and_gradients, with_shortcut=subject.has_shortcut)
    step = jax.jit(lambda *operands: run(layer, *operands))
    fields = (
        {"implementation": "reference"} if accepts_field(subject.name, "implementation") else {}
    )
    exact = norm_act(subject.name)(use_running_average=False, **fields)
    worst: dict[str, float] = {}
    for offset in OFFSETS:
        operands = _operands(layer, shape, dtype, offset)
        actual = jax.tree.map(np.asarray, step(*operands))
        with jax.enable_x64(True), jax.default_device(host_device()):
            wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), operands)
            expected = jax.jit(lambda *operands: run(exact, *operands))(*wide)
            expected = jax.tree.map(np.asarray, expected)
        for name, ours in actual.items():
            pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(expected[name]), strict=True)
            errors = [_relative_error(a, b) for a, b in pairs]
            worst[name] = max([worst.get(name, 0.0), *errors])
    return worst


def host_device() -> jax.Device:
    """Returns the processor, which computes in float64.

    Raises:
      UserError: JAX may not use it.
    """
    try:
        return jax.devices("cpu")[0]
    except RuntimeError as error:
        platforms = jax.config.values["jax_platforms"]
        raise UserError(
            "The suite gpu_numbers compares with float64 on the processor, which "
            f"JAX_PLATFORMS={platforms} keeps from JAX: set JAX_PLATFORMS=cuda,cpu, or unset it."
        ) from error


def _output_and_gradients(
    layer: nn.Module,
    x: jax.Array,
    params: Any,
    state: Any,
    dy: jax.Array,
    *,
    with_shortcut: bool,
) -> dict[str, Any]:
    def forward(x: jax.Array, params: Any) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": state}
        apply = functools.partial(layer.apply, variables, x, mutable=["batch_stats"])
        if not with_shortcut:
            return apply()
        (y, shortcut), updates = apply(with_shortcut=True)
        return y + shortcut / 2, updates

    y, pull, _ = jax.vjp(forward, x, params, has_aux=True)
    dx, dparams = pull(dy)
    return {"y": y, "dx": dx, "dparams": dparams}


def _operands(layer: nn.Module, shape: tuple[int, ...], dtype: str, offset: float) -> Any:
    """Draws x, parameters off their initial values, batch statistics and dy."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(offset, 1, shape), dtype)
    variables = jax.eval_shape(layer.init, jax.random.key(0), x)
    params, state = (
        jax.tree.map(lambda s: jnp.asarray(rng.uniform(0.5, 1.5, s.shape), s.dtype), tree)
        for tree in (variables["params"], variables.get("batch_stats", {}))
    )
    return x, params, state, jnp.asarray(rng.normal(size=shape), dtype)


def _relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Returns the largest deviation over the largest value; infinity if that is not finite."""
    error = np.abs(actual.astype(np.float64) - expected).max() / (np.abs(expected).max() or 1.0)
    return float(error) if np.isfinite(error) else float("inf")
