"""BN-ReLU in a small Mask R-CNN of ResNet-18 and FPN on scenes of digits, offline.

    python -m experiments.train --config configs/digit_scenes_maskrcnn_r18_fpn_bn_relu.py

Hardware: two CPU cores, no TensorFlow, no download.
Paper: gives no number for this data set.
"""

from ml_collections import ConfigDict

from configs import detection_recipes


def get_config(arg: str = "") -> ConfigDict:
    return detection_recipes.parse_arg(detection_recipes.digit_scenes("bn_relu"), arg)
