"""GN-ReLU in a Mask R-CNN of ResNet-101 and FPN on COCO: 8 x 8 images, 73 epochs.

    python -m experiments.train --config configs/coco_maskrcnn_r101_fpn_gn_relu.py

Hardware: eight accelerators (a TPU v3-8, a host with eight GPUs); fewer hold several workers each.
Paper: box AP 44.0 %, mask AP 39.4 % (arXiv v1, Table 4).
"""

from ml_collections import ConfigDict

from configs import detection_recipes


def get_config(arg: str = "") -> ConfigDict:
    return detection_recipes.parse_arg(detection_recipes.coco("maskrcnn_r101_fpn", "gn_relu"), arg)
