"""Writes timm_cases.npz: what short versions of timm's networks compute, for tests without PyTorch.

    python -m tests.interop.record_timm_cases

Needs the `parity` extra. The weights are not recorded: `cases.make_case` draws them again.
"""

import json
import re
from pathlib import Path

import numpy as np

from tests.interop import timm_networks
from tests.interop.cases import make_case

FILE = Path(__file__).with_name("timm_cases.npz")
IMAGE_SIZE, BATCH, NUM_CLASSES = 33, 4, 5

#: timm's name -> the fields that make our network as short as the recorded one.
FIELDS = {
    "resnet18": {"stage_sizes": (1, 1, 1, 1)},
    "resnet50d": {"stage_sizes": (1, 1, 1, 1), "num_filters": 8},
    "resnetv2_50": {"stage_sizes": (1, 1), "num_filters": 8},
    "resnetv2_50d_evos": {"stage_sizes": (1, 1)},
    "mobilenetv2_050": {"stage_sizes": (1, 2)},
    "mnasnet_100": {"stage_sizes": (1, 1, 1)},
    "efficientnet_b0": {"stage_sizes": (1, 2)},
    "tf_efficientnet_b0": {"stage_sizes": (1, 1, 1)},
}
#: And the arguments that make timm's so; its mobile networks are cut by `_cut_stages`.
_TIMM_ARGUMENTS = {
    "resnet18": {"layers": (1, 1, 1, 1)},
    "resnet50d": {"layers": (1, 1, 1, 1), "channels": (8, 16, 32, 64), "stem_width": 4},
    "resnetv2_50": {"layers": (1, 1), "channels": (32, 64), "stem_chs": 8},
    # 32 groups need 64 channels, 32 in the stem.
    "resnetv2_50d_evos": {"layers": (1, 1), "channels": (256, 512)},
}


def main() -> None:
    recorded = {}
    for name, fields in FIELDS.items():
        network = _create(name, fields["stage_sizes"])
        shapes = timm_networks.shapes_of(network)
        case = make_case(shapes, batch=BATCH, image_size=IMAGE_SIZE, num_classes=NUM_CLASSES)
        outputs = timm_networks.run(network, case, dtype=np.float64)
        recorded[f"{name}/shapes"] = np.array(json.dumps(shapes))
        recorded[f"{name}/eval_logits"] = outputs.eval_logits
        recorded[f"{name}/train_logits"] = outputs.train_logits
        recorded[f"{name}/gradient_norms"] = np.array(json.dumps(outputs.gradient_norms))
    np.savez_compressed(FILE, **recorded)
    print(f"{FILE}: {len(FIELDS)} networks, {FILE.stat().st_size / 1000:.0f} kB")


def _create(name, stage_sizes):
    arguments = {"num_classes": NUM_CLASSES, **_TIMM_ARGUMENTS.get(name, {})}
    if name in _TIMM_ARGUMENTS:
        return timm_networks.create(name, **arguments)
    module = timm_networks.import_timm("efficientnet")
    whole = module.decode_arch_def
    module.decode_arch_def = lambda arch_def, *rest, **options: whole(
        _cut_stages(arch_def, stage_sizes), *rest, **options
    )
    try:
        return timm_networks.create(name, **arguments)
    finally:
        module.decode_arch_def = whole


def _cut_stages(arch_def, stage_sizes):
    """timm's table of stages with fewer of them and fewer blocks, `r<n>`, in each."""
    kept = zip(arch_def, stage_sizes, strict=False)
    return [[re.sub(r"_r\d+_", f"_r{size}_", row) for row in rows] for rows, size in kept]


if __name__ == "__main__":
    main()
