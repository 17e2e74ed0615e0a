"""GN-ReLU in a small Mask R-CNN of ResNet-18 and FPN on the built-in nuclei, offline.

    python -m experiments.train --config configs/nuclei256_maskrcnn_r18_fpn_gn_relu.py

Hardware: two CPU cores, no TensorFlow, no download.
Paper: gives no number for this data set.
"""

from ml_collections import ConfigDict

from configs import detection_recipes


def get_config(arg: str = "") -> ConfigDict:
    return detection_recipes.parse_arg(detection_recipes.nuclei("gn_relu"), arg)
