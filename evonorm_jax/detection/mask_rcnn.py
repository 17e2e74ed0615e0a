"""Mask R-CNN (He et al., arXiv:1703.06870), with one argument for all norms and activations.

The layout is that of the EvoNorm paper's Table 4 (arXiv:2004.02967v1, section 5.3). No public code
has it, but the parameter counts of the table determine it. The pyramid has levels 2 to 6 and a norm
on every level. A layer stands behind every convolution of the three heads, in the proposal head one
for each level. The box head has four convolutions and a dense layer. An EvoNorm without activation
is its affine map alone. What the counts leave open follows the authors' TensorFlow code
(tensorflow/tpu, models/official/detection). The differences from it are deliberate:

* Coordinates are continuous, and RoIAlign shifts by half a pixel. `legacy_coordinates=True` selects
  the authors' rule, for weights that were trained with it.
* Regions and detections are clipped to the picture, not to the canvas that it is padded to.
* A slot for which there is no region repeats one that was drawn and does not count in the losses.
  The authors' code counts it as background.
* The scale at the end of every residual block starts at zero, see `evonorm_jax.models.resnet_v1`.

Everything has a fixed shape. Boxes, overlaps, suppression, targets and the last linear map of every
head are float32 whatever the dtype.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from evonorm_jax.detection import targets
from evonorm_jax.detection.anchors import ASPECT_RATIOS, anchors
from evonorm_jax.detection.boxes import Weights
from evonorm_jax.detection.detections import Detections, select_detections
from evonorm_jax.detection.fpn import FeaturePyramid
from evonorm_jax.detection.heads import BoxHead, MaskHead, RegionProposalHead
from evonorm_jax.detection.losses import TrainingOutputs
from evonorm_jax.detection.matching import Truth
from evonorm_jax.detection.proposals import propose
from evonorm_jax.detection.roi_align import roi_align
from evonorm_jax.errors import UserError
from evonorm_jax.models.classifier import (
    check_divisible,
    check_images,
    check_positive,
    check_positive_int,
)
from evonorm_jax.models.complexity import Complexity, measure_init
from evonorm_jax.models.resnet import FeatureMaps, NormActFactory

#: Factors of the deltas of the box head; its targets then have about unit variance.
BOX_WEIGHTS: Weights = (10.0, 10.0, 5.0, 5.0)

#: Bins to the side of a region, for its box and its mask; the mask head doubles the latter.
_BOX_BINS, _MASK_BINS = 7, 14


class MaskRCNN(nn.Module):
    """A detector of boxes and masks for images `[N, H, W, 3]`.

    `apply(variables, images, valid_size)` detects; with `method=MaskRCNN.training_outputs` it
    returns the argument of `evonorm_jax.detection.detection_losses`. Parameters are float32, under
    `backbone`, `fpn`, `rpn`, `box_head` and `mask_head`.

    Attributes:
      backbone: Network that returns feature maps by level, such as
        `create_model("resnet50_v1", None, "evonorm_s0", residual_norm="affine")`. `norm_act` does
        not reach into it; `evonorm_jax.detection.create_detector` gives both the same layer.
      num_classes: Number of classes with the background, which is class 0: 91 for COCO's ids 1 to
        90.
      norm_act: Factory of the norm-activation layers (see `evonorm_jax.norm_act`).
      use_fpn: Whether a feature pyramid follows the backbone.
      min_level: Finest level of the maps that the heads see.
      max_level: Coarsest level; the sides of an image are multiples of 2^max_level pixels.
      fpn_filters: Number of channels of the pyramid.
      rpn_filters: Number of channels of the proposal head.
      rpn_num_convs: Number of 3x3 convolutions of the proposal head.
      head_filters: Number of channels of the convolutions of the box head and the mask head.
      head_num_convs: Number of 3x3 convolutions of the box head, and of the mask head.
      head_units: Number of channels of the box head's dense layer.
      anchor_scale: Side of a square anchor, in pixels of its feature map.
      rpn_samples: Number of anchors per image with a trained score, at most half of them positive.
      train_candidates: Number of anchors of each level, those of the highest scores, that enter
        the suppression in training.
      train_proposals: Number of regions per image that leave the suppression in training.
      candidates: Number of anchors of each level that enter the suppression in evaluation.
      proposals: Number of regions per image that leave the suppression in evaluation.
      rpn_nms_iou: Overlap of proposals that the suppression tolerates, as intersection over union.
      box_samples: Number of regions per image that the box head is trained on.
      mask_samples: Number of regions per image that the mask head is trained on, and the most that
        may stand for objects.
      roi_canonical_size: Side in pixels from which on a square region is read from level 4.
      roi_sampling_ratio: Number of sampling points along the side of a RoIAlign bin.
      score_threshold: Probability that a detection must exceed.
      nms_iou: Overlap of detections of one class that the suppression tolerates, as intersection
        over union.
      max_detections: Number D of detections per image.
      legacy_coordinates: Whether boxes follow the coordinate rule of the authors' code, see
        `evonorm_jax.detection.boxes`.
      dtype: Dtype of convolutions and layers.

    Raises:
      UserError: A field is out of range when the model is constructed, or the images have the
        wrong shape, size or dtype when it is called. Under `jax.export` the number of images may
        be symbolic, but not their height and width.
    """

    backbone: nn.Module
    num_classes: int
    norm_act: NormActFactory
    use_fpn: bool = True
    min_level: int = 2
    max_level: int = 6
    fpn_filters: int = 256
    rpn_filters: int = 256
    rpn_num_convs: int = 1
    head_filters: int = 256
    head_num_convs: int = 4
    head_units: int = 1024
    anchor_scale: float = 8.0
    rpn_samples: int = 256
    train_candidates: int = 2000
    train_proposals: int = 1000
    candidates: int = 1000
    proposals: int = 1000
    rpn_nms_iou: float = 0.7
    box_samples: int = 512
    mask_samples: int = 128
    roi_canonical_size: float = 224.0
    roi_sampling_ratio: int = 1
    score_threshold: float = 0.05
    nms_iou: float = 0.5
    max_detections: int = 100
    legacy_coordinates: bool = False
    dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        _check_fields(self)
        super().__post_init__()

    def setup(self) -> None:
        shared: dict[str, Any] = {"norm_act": self.norm_act, "dtype": self.dtype}
        if self.use_fpn:
            self.fpn = FeaturePyramid(
                min_level=self.min_level,
                max_level=self.max_level,
                num_filters=self.fpn_filters,
                **shared,
            )
        self.rpn = RegionProposalHead(
            num_anchors=len(ASPECT_RATIOS),
            num_convs=self.rpn_num_convs,
            num_filters=self.rpn_filters,
            **shared,
        )
        branch: dict[str, Any] = {
            "num_classes": self.num_classes,
            "num_convs": self.head_num_convs,
            "num_filters": self.head_filters,
            **shared,
        }
        self.box_head = BoxHead(num_units=self.head_units, **branch)
        self.mask_head = MaskHead(**branch)

    def __call__(self, images: jax.Array, valid_size: jax.Array | None = None) -> Detections:
        """Detects objects, with running statistics where the layers have them.

        Args:
          images: Normalised images `[N, H, W, 3]` in floating point; padding at the bottom and on
            the right is 0.
          valid_size: Height and width of each image without the padding, `[N, 2]` int32 in pixels;
            None for no padding.

        Returns:
          The detections of the N images.
        """
        _check_sides(images)
        valid_size = _full_size(images) if valid_size is None else valid_size
        maps = self.feature_maps(images, train=False)
        scores, deltas = self.rpn(maps, train=False)
        regions, valid = self._propose(
            scores, deltas, images, valid_size, self.candidates, self.proposals
        )
        logits, box_deltas = self.box_head(self._align(maps, regions, _BOX_BINS), train=False)
        select = functools.partial(
            select_detections,
            score_threshold=self.score_threshold,
            iou_threshold=self.nms_iou,
            max_detections=self.max_detections,
            weights=BOX_WEIGHTS,
            extent=self._extent,
        )
        sizes = self._clip_sizes(images, valid_size)
        boxes, found_scores, classes = jax.vmap(select)(logits, box_deltas, regions, valid, sizes)
        mask_logits = self.mask_head(self._align(maps, boxes, _MASK_BINS), classes, train=False)
        masks = jnp.round(255 * nn.sigmoid(mask_logits)).astype(jnp.uint8)
        return Detections(boxes, found_scores, classes, masks)

    def training_outputs(
        self,
        images: jax.Array,
        truth: Truth,
        keys: jax.Array,
        valid_size: jax.Array | None = None,
        train: bool = True,
    ) -> TrainingOutputs:
        """Computes the answers of the network and the targets that the losses compare them with.

        Args:
          images: Normalised images `[N, H, W, 3]` in floating point; padding at the bottom and on
            the right is 0.
          truth: Objects of the images.
          keys: PRNG keys `[N]`, one for each image, that draw the anchors and regions to train on.
            Where a key depends only on the place of the image in the global batch, the training is
            independent of the number of devices.
          valid_size: Height and width of each image without the padding, `[N, 2]` int32 in pixels;
            None for no padding.
          train: Whether the layers take the statistics of the batch. If they keep any,
            `batch_stats` must then be mutable.
        """
        _check_sides(images)
        valid_size = _full_size(images) if valid_size is None else valid_size
        maps = self.feature_maps(images, train)
        scores, deltas = self.rpn(maps, train)
        regions, valid = self._propose(
            scores, deltas, images, valid_size, self.train_candidates, self.train_proposals
        )
        anchor_keys, region_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        anchor_targets = self._anchor_targets(anchor_keys, images, truth)
        region_targets = self._region_targets(region_keys, regions, valid, truth)

        boxes, classes = region_targets.boxes, region_targets.classes[:, : self.mask_samples]
        class_logits, box_deltas = self.box_head(self._align(maps, boxes, _BOX_BINS), train)
        with_mask = self._align(maps, boxes[:, : self.mask_samples], _MASK_BINS)
        return TrainingOutputs(
            rpn_scores=jnp.concatenate(list(scores.values()), axis=1),
            rpn_deltas=jnp.concatenate(list(deltas.values()), axis=1),
            anchor_targets=anchor_targets,
            class_logits=class_logits,
            box_deltas=box_deltas,
            mask_logits=self.mask_head(with_mask, classes, train),
            region_targets=region_targets,
        )

    def feature_maps(self, images: jax.Array, train: bool = False) -> FeatureMaps:
        """Returns the maps that the heads read: level -> `[N, H / 2^l, W / 2^l, C]` in `dtype`."""
        check_images(images)
        check_divisible(images, self.max_level)
        maps = self.backbone(images, train=train)
        wanted = set(range(self.min_level, self.max_level + 1))
        if not (self.min_level in maps if self.use_fpn else wanted == set(maps)):
            raise UserError(
                f"min_level={self.min_level}, max_level={self.max_level}: the backbone has levels "
                f"{sorted(maps)}, and only a feature pyramid adds coarser ones."
            )
        return self.fpn(maps, train) if self.use_fpn else maps

    def num_parameters(self, image_size: int | tuple[int, int] = 1024) -> int:
        """Returns the number of trainable values, which does not depend on the image size.

        `image_size` is one side or (height, width) in pixels. Sides must still be multiples of
        2^max_level.
        """
        return self.complexity(image_size).parameters

    def complexity(self, image_size: int | tuple[int, int] = 1024) -> Complexity:
        """Counts the parameters, and the multiply-adds of the training graph for one image.

        `image_size` is one side or (height, width) in pixels. The training graph has `box_samples`
        regions in the box head and `mask_samples` in the mask head. As in
        `evonorm_jax.models.complexity`, only convolutions and dense layers count.
        """
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        truth = Truth(
            boxes=jnp.zeros((1, 1, 4)),
            classes=jnp.zeros((1, 1), jnp.int32),
            masks=jnp.zeros((1, 1, 8, 8), jnp.uint8),
        )
        images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
        init = functools.partial(self.init, method=MaskRCNN.training_outputs)
        return measure_init(init, images, truth, jax.random.split(jax.random.key(0), 1))

    @property
    def _extent(self) -> float:
        return 1.0 if self.legacy_coordinates else 0.0

    def _anchors(self, images: jax.Array) -> dict[int, jax.Array]:
        levels = range(self.min_level, self.max_level + 1)
        made = anchors((images.shape[1], images.shape[2]), levels, self.anchor_scale)
        return {level: jnp.asarray(boxes) for level, boxes in made.items()}

    def _clip_sizes(self, images: jax.Array, valid_size: jax.Array) -> jax.Array:
        return _full_size(images) if self.legacy_coordinates else valid_size

    def _propose(
        self,
        scores: dict[int, jax.Array],
        deltas: dict[int, jax.Array],
        images: jax.Array,
        valid_size: jax.Array,
        num_candidates: int,
        num_proposals: int,
    ) -> tuple[jax.Array, jax.Array]:
        """Returns regions `[N, P, 4]` and their validity `[N, P]` bool; False marks padding."""
        one_image = functools.partial(
            propose,
            num_candidates=num_candidates,
            num_proposals=num_proposals,
            iou_threshold=self.rpn_nms_iou,
            extent=self._extent,
        )
        sizes = self._clip_sizes(images, valid_size)
        return jax.vmap(one_image, in_axes=(0, 0, None, 0))(
            scores, deltas, self._anchors(images), sizes
        )

    def _anchor_targets(
        self, keys: jax.Array, images: jax.Array, truth: Truth
    ) -> targets.AnchorTargets:
        one_image = functools.partial(
            targets.anchor_targets,
            num_samples=self.rpn_samples,
            max_positives=self.rpn_samples // 2,
        )
        all_anchors = jnp.concatenate(list(self._anchors(images).values()))
        return jax.vmap(one_image, in_axes=(0, None, 0))(keys, all_anchors, truth)

    def _region_targets(
        self, keys: jax.Array, regions: jax.Array, valid: jax.Array, truth: Truth
    ) -> targets.RegionTargets:
        one_image = functools.partial(
            targets.region_targets,
            num_samples=self.box_samples,
            max_positives=self.mask_samples,
            mask_size=2 * _MASK_BINS,
            weights=BOX_WEIGHTS,
            extent=self._extent,
        )
        return jax.vmap(one_image)(keys, regions, valid, truth)

    def _align(self, maps: FeatureMaps, boxes: jax.Array, bins: int) -> jax.Array:
        return roi_align(
            maps,
            boxes,
            output_size=bins,
            canonical_size=self.roi_canonical_size,
            sampling_ratio=self.roi_sampling_ratio,
            half_pixel=not self.legacy_coordinates,
        )


def _full_size(images: jax.Array) -> jax.Array:
    """Returns the height and width of the canvas for every image, `[N, 2]` int32."""
    return jnp.broadcast_to(jnp.array(images.shape[1:3], jnp.int32), (images.shape[0], 2))


def _check_sides(images: jax.Array) -> None:
    """Raises `UserError` for a symbolic height or width of `jax.export`."""
    if not all(isinstance(side, int) for side in images.shape[1:3]):
        raise UserError(
            f"images have shape {images.shape}: height and width must be numbers, because the "
            "anchors of a detector follow from them. Export a program for each size; the number of "
            "images may be symbolic."
        )


def _check_fields(model: MaskRCNN) -> None:
    """Raises `UserError` for a field out of range."""
    counts = (
        *("num_classes", "min_level", "max_level", "fpn_filters", "rpn_filters", "rpn_num_convs"),
        *("head_filters", "head_num_convs", "head_units", "rpn_samples", "train_candidates"),
        *("train_proposals", "candidates", "proposals", "box_samples", "mask_samples"),
        *("roi_sampling_ratio", "max_detections"),
    )
    for field in counts:
        check_positive_int(field, getattr(model, field))
    for field in ("num_classes", "rpn_samples"):
        if getattr(model, field) < 2:
            raise UserError(
                f"{field}={getattr(model, field)}: expected at least 2, one of them background."
            )
    for field, limit in (("mask_samples", "box_samples"), ("min_level", "max_level")):
        if getattr(model, field) > getattr(model, limit):
            raise UserError(
                f"{field}={getattr(model, field)}: expected at most {limit}, "
                f"{getattr(model, limit)}."
            )
    for field in ("anchor_scale", "roi_canonical_size"):
        check_positive(field, getattr(model, field))
    for field in ("rpn_nms_iou", "nms_iou", "score_threshold"):
        if not 0 <= getattr(model, field) <= 1:
            raise UserError(f"{field}={getattr(model, field)}: expected a number from 0 to 1.")
