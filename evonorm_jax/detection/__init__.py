"""Instance segmentation: Mask R-CNN with the norm-activation layer as one argument.

>>> from evonorm_jax.detection import create_detector
>>> create_detector("maskrcnn_r101_fpn", norm_act="gn_relu").num_parameters(image_size=256)
65359217
"""

from evonorm_jax.detection.detections import Detections
from evonorm_jax.detection.losses import TrainingOutputs, detection_losses
from evonorm_jax.detection.mask_rcnn import MaskRCNN
from evonorm_jax.detection.matching import Truth
from evonorm_jax.detection.registry import create_detector, detector_names

__all__ = [
    "Detections",
    "MaskRCNN",
    "TrainingOutputs",
    "Truth",
    "create_detector",
    "detection_losses",
    "detector_names",
]
