"""The blocks that the configs of instance segmentation share: their fields, and three recipes.

A run has no label smoothing, mixup or gradient accumulation, so its config has no such fields.
"""

from ml_collections import ConfigDict

from configs import recipes
from configs.arguments import parse_words
from evonorm_jax.data.instances import instance_dataset_config
from evonorm_jax.norm_act import accepts_field

# A smoke run keeps the family of the network and shrinks its size, its proposals and its regions.
_SMOKE_HEADS = {
    **dict.fromkeys(("rpn_filters", "head_filters"), 16),
    "head_num_convs": 1,
    "rpn_num_convs": 1,
    "head_units": 32,
    "rpn_samples": 64,
    **dict.fromkeys(("train_candidates", "candidates"), 64),
    **dict.fromkeys(("train_proposals", "proposals"), 32),
    "box_samples": 32,
    "mask_samples": 8,
    "max_detections": 20,
}
_SMOKE_FPN = {
    "fpn_filters": 16,
    "max_level": 5,
    "backbone_fields": {"stage_sizes": (1, 1), "num_filters": 8},
}


def base_config() -> ConfigDict:
    """Returns every field of instance segmentation, with its neutral value."""
    config = recipes.base_config()
    config.task = "instance_segmentation"  # the task
    for name in recipes.CLASSIFIER_FIELDS:
        del config[name]
    config.max_dets = (1, 10, 100)  # detections of an image and a category that count (COCO's)
    config.optimizer.nesterov = False  # plain momentum, as in the authors' detection code
    return config


def coco(model: str, norm_act: str) -> ConfigDict:
    """COCO 2017 from scratch, as near to the paper's Table 4 as is known.

    The paper says Mask R-CNN, 1024 pixels and from scratch; its schedule is in no public text.
    Momentum 0.9 without Nesterov and 91 classes are those of the authors' detection code; weight
    decay 4e-5, images scaled by 0.5 to 2 and 2,000 steps of warm-up those of its SpineNet, which it
    trains from scratch. Our choices are 8 workers of 8 images, 73 epochs (135,000 steps), learning
    rate 0.1 at that batch, and a tenth of it after 8/9 and again after 26/27 of the run.

    SpineNet has the rest from there, too: a batch of 256, 350 epochs, learning rate 0.28, a tenth
    of it at steps 148,160 and 157,420 of 162,050, and BatchNorm with momentum 0.99 and epsilon
    1e-3. Deliberate differences are a warm-up from 0, there from 0.0067, and bfloat16.
    """
    config = base_config()
    config.dtype = "bfloat16"
    config.num_workers = 8
    config.images_per_worker = 8
    config.eval_batch_size = 64
    config.model.name = model
    config.model.norm_act = norm_act
    config.dataset = instance_dataset_config(
        "coco2017", "coco_json", path="data/coco2017", scale_jitter=(0.5, 2.0)
    )
    config.num_epochs = 73.0
    config.optimizer.learning_rate_per_256 = 0.4
    config.optimizer.weight_decay = 4e-5
    config.schedule.name = "step"
    config.schedule.warmup_epochs = 1.08  # 2,000 steps
    config.schedule.boundaries = (8 / 9, 26 / 27)
    if "spinenet" in model:
        config.num_workers = 32
        config.eval_batch_size = 256
        config.num_epochs = 350.0
        config.optimizer.learning_rate_per_256 = 0.28
        config.schedule.warmup_epochs = 4.33  # 2,000 steps
        config.schedule.boundaries = (148_160 / 162_050, 157_420 / 162_050)
        if norm_act.startswith("bn_"):
            config.model.norm_act_fields.update({"momentum": 0.99, "epsilon": 1e-3})
    config.eval_every_epochs = 10.0
    config.checkpoint_every_steps = 2500
    return config


def nuclei(norm_act: str) -> ConfigDict:
    """The embedded microscope images, 48 and 16 of 256 pixels, on a CPU.

    A ResNet-18 of half the width and heads of 64 channels. Half of the nuclei are smaller than 316
    pixels, so anchors are half as large as usual and regions are read from finer levels.
    """
    config = base_config()
    config.num_workers = 1
    config.images_per_worker = 4
    config.eval_batch_size = 4
    config.model.name = "maskrcnn_r18_fpn"
    config.model.norm_act = norm_act
    _set_group_size(config, 8)
    config.model.fields = ConfigDict(
        {
            "backbone_fields": {"num_filters": 32},
            **dict.fromkeys(("fpn_filters", "rpn_filters", "head_filters"), 64),
            "head_units": 256,
            "anchor_scale": 4.0,
            "roi_canonical_size": 56.0,
            "box_samples": 128,
            "mask_samples": 32,
            **dict.fromkeys(("train_candidates", "candidates"), 500),
            **dict.fromkeys(("train_proposals", "proposals"), 300),
        }
    )
    config.dataset = instance_dataset_config("nuclei256", "embedded", scale_jitter=(0.8, 1.25))
    config.num_epochs = 50.0
    config.optimizer.learning_rate_per_256 = 1.28  # 0.02 at a batch of 4
    # Without it the box head with EvoNorm-B0 diverges in the warm-up (docs/detection.md).
    config.optimizer.gradient_clip_norm = 1.0
    config.schedule.warmup_epochs = 5.0
    config.log_every_steps = 12
    config.eval_every_epochs = 10.0
    config.checkpoint_every_steps = 120
    config.tensorboard = False  # importing TensorFlow takes seconds
    return config


def digit_scenes(norm_act: str) -> ConfigDict:
    """Digits on noise, drawn on the device: 128 pixels, 10 classes, on a CPU."""
    config = nuclei(norm_act)
    config.images_per_worker = 8
    config.eval_batch_size = 20
    config.model.fields.backbone_fields.num_filters = 16
    config.model.fields.update(dict.fromkeys(("fpn_filters", "rpn_filters", "head_filters"), 32))
    config.model.fields.update({"head_units": 128, "box_samples": 64, "mask_samples": 16})
    config.dataset = instance_dataset_config("digit_scenes", "generated")
    config.num_epochs = 4.0
    config.schedule.warmup_epochs = 0.4
    config.log_every_steps = 25
    config.eval_every_epochs = 1.0
    config.checkpoint_every_steps = 250
    return config


def parse_arg(config: ConfigDict, arg: str) -> ConfigDict:
    """Applies what follows the colon of `--config FILE.py:ARG`.

    "" leaves the config as it is, and "smoke" shrinks it to seconds on a CPU.

    Raises:
      UserError: There is anything else.
    """
    (small,) = parse_words(arg, ("smoke",))
    return smoke(config) if small else config


def smoke(config: ConfigDict) -> ConfigDict:
    """Shrinks a run: a tiny network, digit scenes of 64 pixels, two epochs of four steps.

    Layer, optimizer, schedule, augmentation and dtype stay: they are what a smoke run tries out.
    Only the groups of a layer become those of a narrow network.

    Args:
      config: Is changed in place.

    Returns:
      The same config.
    """
    fields = {"anchor_scale": 4.0, "roi_canonical_size": 56.0, **_SMOKE_HEADS}
    if "spinenet" in config.model.name:
        config.model.name = "maskrcnn_spinenet49s"
        fields |= {"backbone_fields": {"filter_scale": 0.125, "endpoint_filters": 16}}
        image_size = 128  # one pixel on the coarsest level
    else:
        fields |= _SMOKE_FPN
        image_size = 64
    config.model.fields = ConfigDict(fields)
    _set_group_size(config, 4)
    config.dataset = instance_dataset_config(
        "digit_scenes",
        "generated",
        image_size=image_size,
        mask_size=config.dataset.mask_size,
        flip=config.dataset.flip,
        scale_jitter=config.dataset.scale_jitter,
        num_train_examples=32,
        num_eval_examples=20,  # no multiple of the evaluation batch: the padding is tried too
    )
    config.init_from = config.init_from_model = ""  # of the full-sized network
    config.num_workers = 2
    config.images_per_worker = 4
    config.eval_batch_size = 16
    config.num_epochs = 2.0
    config.schedule.warmup_epochs = min(config.schedule.warmup_epochs, 0.5)
    config.log_every_steps = 1
    config.eval_every_epochs = 2.0
    config.checkpoint_every_steps = 4
    config.tensorboard = False  # importing TensorFlow takes longer than training
    return config


def _set_group_size(config: ConfigDict, size: int) -> None:
    """Sets the channels of a group, as the usual 32 groups would have one or two.

    With one channel in a group, EvoNorm-S0 diverges within 6 steps of a smoke run on COCO's recipe.
    """
    if accepts_field(config.model.norm_act, "group_size"):
        config.model.norm_act_fields.group_size = size
