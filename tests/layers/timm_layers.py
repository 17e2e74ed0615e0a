"""Output and gradients of timm's EvoNorm layers."""

from typing import NamedTuple

import numpy as np

from evonorm_jax.benchmarks.torch_rivals import load_timm_evonorm
from tests.layers.deviations import Case

#: timm's names of our parameters.
PARAMS = {"scale": "weight", "bias": "bias", "v": "v"}


class Result(NamedTuple):
    y: np.ndarray
    by_x: np.ndarray
    by_params: dict[str, np.ndarray]
    running_var: np.ndarray | None


def run(name: str, case: Case, *, groups: int, epsilon: float, train: bool) -> Result:
    """Output and gradients of timm's layer, in our layout and under our names.

    Epsilon, 1e-3 by default in timm's B0, is set to ours. timm's running variance is unbiased,
    ours biased; the one returned is made biased again, see `biased`.
    """
    import torch  # here, so that collecting doctests does without it

    module = load_timm_evonorm()
    channels = case.x.shape[-1]
    if name == "evonorm_b0":
        layer = module.EvoNorm2dB0(channels, eps=epsilon)
        layer.running_var.copy_(torch.tensor(np.asarray(case.running["var"])))
    else:
        layer = module.EvoNorm2dS0(channels, groups=groups, eps=epsilon)
    layer.train(train)
    with torch.no_grad():
        for ours, theirs in PARAMS.items():
            getattr(layer, theirs).copy_(torch.tensor(np.asarray(case.params[ours])))
    x = torch.tensor(np.asarray(case.x).transpose(0, 3, 1, 2), requires_grad=True)
    y = layer(x)
    y.backward(torch.tensor(np.asarray(case.cotangent).transpose(0, 3, 1, 2)))
    running_var = None
    if name == "evonorm_b0":
        running_var = layer.running_var.numpy()
        if train:
            count = case.x.size // channels
            running_var = biased(running_var, np.asarray(case.running["var"]), count)
    return Result(
        y=y.detach().numpy().transpose(0, 2, 3, 1),
        by_x=x.grad.numpy().transpose(0, 2, 3, 1),
        by_params={ours: getattr(layer, theirs).grad.numpy() for ours, theirs in PARAMS.items()},
        running_var=running_var,
    )


def biased(running: np.ndarray, old: np.ndarray, count: int, momentum: float = 0.9) -> np.ndarray:
    """timm's new running variance with the factor n / (n - 1) taken out of the batch's part."""
    batch = (running - momentum * old) * (count - 1) / count
    return momentum * old + batch
