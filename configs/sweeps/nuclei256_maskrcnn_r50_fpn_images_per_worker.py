"""Average precision against images per worker: Mask R-CNN of ResNet-50 on the built-in nuclei.

    python -m experiments.sweep \
        --config configs/sweeps/nuclei256_maskrcnn_r50_fpn_images_per_worker.py \
        --workdir runs/nuclei256_maskrcnn_r50_fpn_images_per_worker --jobs 4

Hardware: one GPU.
Paper: gives no numbers for this; detectors have one or two images on a device as a rule.

The network is that of COCO's recipe but for its anchors and regions, which are those of the small
one on these images. The batch stays at 8 images. Only the number of images whose statistics
BatchNorm takes together changes.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from configs import detection_recipes
from configs.sweeps.batch_size_sweep import split_batch_sweep

_BATCH_SIZE = 8


def get_config(arg: str = "") -> ConfigDict:
    config = detection_recipes.nuclei("bn_relu")
    config.model.name = "maskrcnn_r50_fpn"
    config.model.norm_act_fields = ConfigDict()
    config.model.fields = ConfigDict({"anchor_scale": 4.0, "roi_canonical_size": 56.0})
    config.images_per_worker = _BATCH_SIZE
    config.dtype = "bfloat16"
    config.num_epochs = 100.0  # 600 steps
    config.schedule.warmup_epochs = 10.0
    config.eval_every_epochs = 20.0
    config.keep_checkpoints = 1
    config.keep_best_checkpoint = False
    return detection_recipes.parse_arg(config, arg)


def sweep(arg: str = "") -> Iterator[dict[str, Any]]:
    small = arg == "smoke"
    return split_batch_sweep(
        norm_acts=("bn_relu", "evonorm_s0"),
        images_per_worker=(8, 1) if small else (8, 1, 4, 2),
        batch_size=_BATCH_SIZE,
        num_seeds=1 if small else 3,
    )
