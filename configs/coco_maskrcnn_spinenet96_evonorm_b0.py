"""EvoNorm-B0 in a Mask R-CNN of SpineNet-96 on COCO: 32 x 8 images, 350 epochs.

    python -m experiments.train --config configs/coco_maskrcnn_spinenet96_evonorm_b0.py

Hardware: 32 accelerators (a TPU v3-64); fewer hold several workers each, where memory allows.
Paper: gives no number for SpineNet (arXiv v1).
"""

from ml_collections import ConfigDict

from configs import detection_recipes


def get_config(arg: str = "") -> ConfigDict:
    return detection_recipes.parse_arg(
        detection_recipes.coco("maskrcnn_spinenet96", "evonorm_b0"), arg
    )
