"""Writes biggan_case.npz: what pytorch-pretrained-biggan computes of a small generator.

    python -m tests.interop.record_biggan_case

Needs torch and pytorch-pretrained-biggan, whose downloads (boto3, requests) are not used. The
weights are not recorded: `biggan_case.make_state_dict` draws them again.
"""

import json
import sys
import types
from pathlib import Path

import numpy as np

from tests.interop.biggan_case import CONFIG, PIXELS, TRUNCATION, make_inputs, make_state_dict

FILE = Path(__file__).with_name("biggan_case.npz")


def main() -> None:
    import torch

    biggan = _import_biggan()
    model = biggan.BigGAN(biggan.BigGANConfig(**CONFIG))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    state_dict = make_state_dict(shapes)
    model.load_state_dict({name: torch.tensor(array) for name, array in state_dict.items()})
    z, labels = make_inputs()
    one_hot = np.eye(CONFIG["num_classes"])[labels]
    with torch.no_grad():
        network = model.double().eval()
        images = network(torch.tensor(z).double(), torch.tensor(one_hot), TRUNCATION)
    images = images.numpy().transpose(0, 2, 3, 1)
    np.savez_compressed(FILE, shapes=json.dumps(shapes), images=images[PIXELS].astype(np.float32))
    print(
        f"{FILE}: {len(shapes)} tensors, images of standard deviation {images.std():.3f}, ", end=""
    )
    print(f"{FILE.stat().st_size / 1000:.0f} kB")


def _import_biggan() -> types.ModuleType:
    """The package, with placeholders for what it downloads with."""
    for name in ("boto3", "requests", "botocore", "botocore.exceptions", "tqdm"):
        try:
            __import__(name)
        except ModuleNotFoundError:
            sys.modules[name] = types.ModuleType(name)
    sys.modules["botocore.exceptions"].ClientError = Exception
    sys.modules["tqdm"].tqdm = iter
    import pytorch_pretrained_biggan

    return pytorch_pretrained_biggan


if __name__ == "__main__":
    main()
