"""timm's networks as functions of NumPy arrays; timm is imported without torchvision.

`import timm` needs torchvision for its data loading and for one class that no network here uses.
Where torchvision is not installed, timm's folders are imported without their `__init__.py`, the
constants stand for `timm.data`, and a placeholder for that class.
"""

import importlib
import importlib.metadata
import importlib.util
import pathlib
import sys
import types
from typing import Any

import numpy as np

from tests.interop.cases import Case, Outputs


def import_timm(module: str) -> types.ModuleType:
    """The module `timm.models.<module>`."""
    if "timm" not in sys.modules and importlib.util.find_spec("torchvision") is None:
        _put_placeholders()
    return importlib.import_module(f"timm.models.{module}")


def create(name: str, **fields: Any) -> Any:
    """timm's network of that name, float32, without dropout."""
    families = {"resnetv2": "resnetv2", "resnet": "resnet"}
    module = next((m for start, m in families.items() if name.startswith(start)), "efficientnet")
    return getattr(import_timm(module), name)(**fields)


def shapes_of(network: Any) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a network, step counters included."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def run(network: Any, case: Case, *, dtype: Any = np.float32) -> Outputs:
    """What timm's network computes of a case; it keeps the weights, converted to that dtype."""
    import torch  # here, so that collecting doctests does without it

    network = network.to(torch.tensor(np.zeros((), dtype)).dtype)
    network.load_state_dict({name: torch.tensor(array) for name, array in case.state_dict.items()})
    network.zero_grad()
    images = torch.tensor(np.ascontiguousarray(case.images.transpose(0, 3, 1, 2), dtype))
    with torch.no_grad():
        eval_logits = network.eval()(images).numpy()
    train_logits = network.train()(images)
    train_logits.backward(torch.tensor(case.cotangent.astype(dtype)))
    norms = {name: float(p.grad.norm()) for name, p in network.named_parameters()}
    return Outputs(eval_logits, train_logits.detach().numpy(), norms)


def _put_placeholders() -> None:
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError('timm is not installed: in the clone, pip install -e ".[parity]"')
    root = pathlib.Path(spec.origin).parent
    for name, folder in {"timm": root, "timm.models": root / "models"}.items():
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    sys.modules["timm"].__version__ = importlib.metadata.version("timm")
    constants = importlib.util.spec_from_file_location("timm.data", root / "data" / "constants.py")
    sys.modules["timm.data"] = importlib.util.module_from_spec(constants)
    constants.loader.exec_module(sys.modules["timm.data"])
    for name in ("torchvision", "torchvision.ops", "torchvision.ops.misc"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["torchvision.ops.misc"].FrozenBatchNorm2d = type("FrozenBatchNorm2d", (), {})
