"""Writes torch_cases.npz: what PyTorch and torch-fidelity compute, for tests without them.

    python -m tests.gan.record_torch_cases

Needs torch, scipy and torch-fidelity 0.4. Weights and inputs are not recorded: the `*_case.py`
files here draw them again.
"""

import importlib.util
import json
import sys
import tempfile
import types
from pathlib import Path

import numpy as np

from tests.gan import discriminator_case, inception_case, metric_case

FILE = Path(__file__).with_name("torch_cases.npz")
#: Arguments of the recorded figures, as torch-fidelity calls them.
KERNEL = {"kid_subsets": 5, "kid_subset_size": 30, "verbose": False}


def main() -> None:
    recorded = _discriminator() | _inception() | _metrics()
    np.savez_compressed(FILE, **recorded)
    print(f"{FILE}: {', '.join(recorded)}; {FILE.stat().st_size / 1000:.0f} kB")


def _discriminator():
    from tests.gan import torch_discriminator

    result = torch_discriminator.run(discriminator_case.make_case())
    scores = result.pop("scores")
    return {"discriminator/scores": scores, "discriminator/norms": json.dumps(result)}


def _inception():
    import torch

    _put_placeholders()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    shapes = _inception_shapes()
    state_dict = inception_case.make_state_dict(shapes)
    FeatureExtractorInceptionV3.INPUT_IMAGE_SIZE = inception_case.SIZE
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        torch.save({name: torch.tensor(array) for name, array in state_dict.items()}, path)
        network = FeatureExtractorInceptionV3(
            "inception",
            ["2048", "logits_unbiased"],
            feature_extractor_weights_path=str(path),
            feature_extractor_internal_dtype="float64",
        )
    images = torch.tensor(inception_case.make_images().transpose(0, 3, 1, 2))
    features, logits = network(images)
    return {
        "inception/shapes": json.dumps(shapes),
        "inception/features": features.numpy(),
        "inception/logits": logits.numpy(),
    }


def _inception_shapes():
    """Names and shapes of the tensors, without the weights that the constructor wants."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Empty(FeatureExtractorInceptionV3):
        def load_state_dict(self, state_dict):
            del state_dict

    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        import torch

        torch.save({}, file.name)
        network = Empty("inception", ["2048"], feature_extractor_weights_path=file.name)
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _metrics():
    import torch

    _put_placeholders()
    from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

    first, second = (torch.tensor(x).double() for x in metric_case.make_features())
    statistics = (metric_fid.fid_features_to_statistics(x) for x in (first, second))
    kernel = metric_kid.kid_features_to_metric(first, second, **KERNEL)
    coverage = metric_prc.prc_features_to_metric(first, second, verbose=False)
    score = metric_isc.isc_features_to_metric(torch.tensor(metric_case.make_logits()))
    fid = metric_fid.fid_statistics_to_metric(*statistics, False)
    values = {**fid, **kernel, **coverage, **score}
    return {"metrics": json.dumps(values)}


class _Placeholder(types.ModuleType):
    """A module with every class that is asked for."""

    def __getattr__(self, name: str) -> type:
        return type(name, (), {})


def _put_placeholders() -> None:
    """torch-fidelity imports torchvision, for data sets and networks that are not used here."""
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is not None:
        return
    sys.modules["torchvision"] = _Placeholder("torchvision")
    for name in (
        "torchvision.datasets",
        "torchvision.transforms",
        "torchvision.transforms.functional",
    ):
        sys.modules[name] = _Placeholder(name)
        parent, child = name.rsplit(".", 1)
        setattr(sys.modules[parent], child, sys.modules[name])


if __name__ == "__main__":
    main()
