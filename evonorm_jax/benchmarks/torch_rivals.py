"""EvoNorm by timm and BatchNorm by PyTorch on the CPU, where they are installed.

Nothing here imports torch before a rival is made.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pathlib
import sys
import types
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from evonorm_jax.benchmarks.layer_program import Inputs
from evonorm_jax.provenance import num_cores


def load_timm_evonorm() -> types.ModuleType:
    """Returns the module timm/layers/evo_norm.py without the rest of timm, which needs torchvision.

    timm/__init__.py imports timm's models, and they import torchvision. Here the folder of the
    layers becomes a package of its own, in which evo_norm.py finds the modules beside it.

    Raises:
      ModuleNotFoundError: The package timm is not installed.
    """
    if "timm_layers_only" not in sys.modules:
        spec = importlib.util.find_spec("timm")
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(
                'timm is not installed: in the clone, pip install -e ".[parity]"'
            )
        package = types.ModuleType("timm_layers_only")
        package.__path__ = [str(pathlib.Path(spec.origin).parent / "layers")]
        sys.modules["timm_layers_only"] = package
    return importlib.import_module("timm_layers_only.evo_norm")


def missing_package(rival: str) -> str | None:
    """Returns the first package that a rival needs and that is not installed, or None."""
    needed = ("torch", "timm") if "timm" in rival else ("torch",)
    return next((name for name in needed if importlib.util.find_spec(name) is None), None)


def _timm(layer: str, inputs: Inputs, *, compiled: bool) -> Callable[[], Any]:
    channels = inputs.x.shape[-1]
    module = getattr(load_timm_evonorm(), layer)(channels)
    return _forward_and_backward(module, inputs, compiled=compiled)


def _batch_norm_relu(inputs: Inputs) -> Callable[[], Any]:
    import torch

    module = torch.nn.Sequential(torch.nn.BatchNorm2d(inputs.x.shape[-1]), torch.nn.ReLU())
    return _forward_and_backward(module, inputs, compiled=False)


def _forward_and_backward(module: Any, inputs: Inputs, *, compiled: bool) -> Callable[[], Any]:
    """Returns a call that computes the output and the gradients of the input and all parameters.

    The arrays lie channels last in memory, like those of this project.
    """
    import torch

    torch.set_num_threads(num_cores())
    x, dy = (_channels_last(array) for array in (inputs.x, inputs.dy))
    x.requires_grad_(True)
    module.train()
    wanted = [x, *module.parameters()]

    def call() -> None:
        torch.autograd.grad(forward(x), wanted, dy)

    with warnings.catch_warnings():
        # The compiler's own: of its imports, and on its first call of what it does not support.
        warnings.simplefilter("ignore")
        forward = torch.compile(module) if compiled else module
        call()
    return call


def _channels_last(array: Any) -> Any:
    """Returns the array `[N, H, W, C]` as a tensor `[N, C, H, W]` with the same order in memory."""
    import torch

    tensor = torch.from_numpy(np.array(array, np.float32)).permute(0, 3, 1, 2)
    assert tensor.is_contiguous(memory_format=torch.channels_last)
    return tensor.to(getattr(torch, str(array.dtype)))


#: By contender: from the inputs to a call.
RIVALS: Mapping[str, Callable[[Inputs], Callable[[], Any]]] = {
    "EvoNorm-S0, timm": functools.partial(_timm, "EvoNorm2dS0", compiled=False),
    "EvoNorm-B0, timm": functools.partial(_timm, "EvoNorm2dB0", compiled=False),
    "EvoNorm-S0, timm compiled": functools.partial(_timm, "EvoNorm2dS0", compiled=True),
    "EvoNorm-B0, timm compiled": functools.partial(_timm, "EvoNorm2dB0", compiled=True),
    "BN-ReLU, PyTorch": _batch_norm_relu,
}
