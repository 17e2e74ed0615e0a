"""Instance segmentation: Mask R-CNN with the norm-activation layer as one argument.

registry.py          name -> detector
mask_rcnn.py         the module: images -> detections, or what the losses take
fpn.py, heads.py     the parts of the network behind the backbone
boxes.py             overlap, encoding, clipping: the rule of the coordinates
anchors.py           the boxes that the proposal head corrects
proposals.py         the answers of the proposal head -> regions
nms.py               non-maximum suppression
roi_align.py         the features of a region
detections.py        the answers of the box head -> detections
matching.py          which object an anchor or region stands for, and which of them are trained on
targets.py           what the network should answer there
losses.py            the five losses
paste.py             masks of regions -> masks of images, on the host like all that follow
coco_masks.py        COCO's run lengths and polygons
coco_evaluation.py   COCO's average precision
precision_recall.py  the table of precision over recall
drawing.py           boxes and masks drawn into pictures

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
