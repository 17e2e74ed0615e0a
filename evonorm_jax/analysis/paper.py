"""What the paper prints, by model and layer: percent but for Table 5.

Source: Liu, Brock, Simonyan, Le, "Evolving Normalization-Activation Layers", arXiv:2004.02967v1
(April 2020), Tables 2 and 3: ImageNet top-1, Table 4: average precision on COCO val2017, and
Table 5: image synthesis. The later versions of the paper print other numbers.
"""

from collections.abc import Mapping
from typing import NamedTuple

# Table 2, by the registered names of models and layers. 0.1 is chance, which it prints as 1e-3.
IMAGENET: Mapping[str, Mapping[str, float]] = {
    "resnet50": {
        "bn_relu": 76.1,
        "bn_silu": 77.2,
        "bn_swish": 77.0,
        "random": 0.1,
        "random_rej": 70.2,
        "rs_rej": 76.3,
        "evonorm_b0": 77.8,
        "evonorm_b1": 77.5,
        "evonorm_b2": 77.8,
    },
    "resnet101": {
        "bn_relu": 77.9,
        "bn_silu": 78.7,
        "bn_swish": 78.6,
        "random": 0.1,
        "random_rej": 71.6,
        "rs_rej": 78.1,
        "evonorm_b0": 79.1,
        "evonorm_b1": 78.7,
        "evonorm_b2": 79.0,
    },
    "mobilenet_v2": {
        "bn_relu": 73.1,
        "bn_silu": 74.4,
        "bn_swish": 74.5,
        "random": 0.1,
        "random_rej": 0.1,
        "rs_rej": 73.4,
        "evonorm_b0": 75.1,
        "evonorm_b1": 74.5,
        "evonorm_b2": 74.7,
    },
    "mnasnet_b1": {
        "bn_relu": 74.5,
        "bn_silu": 75.1,
        "bn_swish": 75.3,
        "random": 0.1,
        "random_rej": 0.1,
        "rs_rej": 74.7,
        "evonorm_b0": 75.3,
        "evonorm_b1": 75.1,
        "evonorm_b2": 74.9,
    },
    "efficientnet_b0": {
        "bn_relu": 76.4,
        "bn_silu": 77.0,
        "bn_swish": 77.0,
        "random": 0.1,
        "random_rej": 0.1,
        "rs_rej": 76.4,
        "evonorm_b0": 76.8,
        "evonorm_b1": 76.5,
        "evonorm_b2": 76.6,
    },
    "efficientnet_b5": {
        "bn_relu": 83.6,
        "bn_silu": 83.4,
        "bn_swish": 83.5,
        "random": 0.1,
        "random_rej": 0.1,
        "rs_rej": 83.2,
        "evonorm_b0": 83.6,
        "evonorm_b1": 83.6,
        "evonorm_b2": 83.4,
    },
}

# Table 3: its columns, its numbers of workers, and its rows.
BATCH_SIZE_IMAGES_PER_WORKER = (128, 64, 32, 16, 8, 4)
BATCH_SIZE_WORKERS: Mapping[str, int] = {"resnet50": 8, "mobilenet_v2": 32}
BATCH_SIZE: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "resnet50": {
        "bn_relu": (76.1, 76.2, 76.1, 75.6, 74.3, 70.7),
        "gn_relu": (75.4, 75.7, 75.9, 75.8, 75.8, 75.7),
        "gn_swish": (77.2, 77.3, 77.2, 77.3, 77.0, 77.3),
        "frn": (75.3, 75.8, 75.9, 75.9, 75.8, 76.0),
        "evonorm_s0": (77.4, 77.4, 77.6, 77.3, 77.3, 77.5),
        "evonorm_s1": (77.5, 77.3, 77.4, 77.4, 77.3, 77.4),
        "evonorm_s2": (76.9, 77.3, 77.1, 77.2, 77.1, 77.1),
    },
    "mobilenet_v2": {
        "bn_relu": (73.3, 73.2, 72.7, 70.0, 64.5, 60.4),
        "gn_relu": (71.5, 72.6, 72.9, 72.5, 72.7, 72.6),
        "gn_swish": (73.4, 73.7, 73.7, 73.6, 74.0, 73.5),
        "frn": (73.3, 73.4, 73.5, 73.6, 73.5, 73.5),
        "evonorm_s0": (74.0, 74.0, 73.9, 73.9, 73.9, 73.8),
        "evonorm_s1": (73.7, 74.0, 73.6, 73.7, 73.7, 73.8),
        "evonorm_s2": (73.8, 73.4, 73.7, 73.9, 73.9, 73.8),
    },
}


class AveragePrecision(NamedTuple):
    """A row of Table 4: of boxes and of masks, over all overlaps and at 0.5 and 0.75."""

    box_ap: float
    box_ap50: float
    box_ap75: float
    mask_ap: float
    mask_ap50: float
    mask_ap75: float


# Table 4, by the registered names of detectors and layers.
COCO: Mapping[str, Mapping[str, AveragePrecision]] = {
    "maskrcnn_r50_fpn": {
        "bn_relu": AveragePrecision(42.1, 62.9, 46.2, 37.8, 60.0, 40.6),
        "evonorm_b0": AveragePrecision(44.0, 65.2, 48.1, 39.5, 62.7, 42.4),
        "gn_relu": AveragePrecision(42.7, 63.8, 46.6, 38.4, 61.2, 41.2),
        "evonorm_s0": AveragePrecision(43.6, 64.9, 47.9, 39.4, 62.3, 42.7),
    },
    "maskrcnn_r101_fpn": {
        "bn_relu": AveragePrecision(43.8, 64.2, 48.2, 39.2, 61.3, 42.5),
        "evonorm_b0": AveragePrecision(45.1, 66.2, 49.0, 40.1, 63.3, 43.1),
        "gn_relu": AveragePrecision(44.0, 64.7, 48.3, 39.4, 62.1, 42.7),
        "evonorm_s0": AveragePrecision(44.5, 65.3, 48.7, 39.6, 62.3, 42.6),
    },
}

# Table 5: BigGAN-deep on ImageNet at 128 pixels, the layer in the generator. Inception Score and
# FID; where two numbers stand, median and best of three seeds.
IMAGE_SYNTHESIS: Mapping[str, tuple[str, str]] = {
    "bn_relu": ("118.77 / 124.01", "7.85 / 7.29"),
    "evonorm_b0": ("101.13 / 113.63", "6.91 / 5.87"),
    "gn_relu": ("99.09", "8.14"),
    "ln_relu": ("91.56", "8.35"),
    "pixel_norm_relu": ("88.58", "10.41"),
    "evonorm_s0": ("104.64 / 113.96", "6.86 / 6.26"),
}
