"""The blocks that the config files share: every field with its default, recipes, and sweeps.

Nothing here is computed from the batch size. The learning rate is per 256 images, durations carry
their unit in their name, and both are resolved when a run starts, so that one override such as
`--config.images_per_worker=4` changes the batch size, the learning rate and nothing else.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from evonorm_jax.data import dataset_config
from evonorm_jax.errors import UserError
from evonorm_jax.layers import accepts_field

# The layers of the paper's batch-size experiment (arXiv v1, Table 3).
BATCH_SIZE_LAYERS = (
    "bn_relu",
    "gn_relu",
    "gn_swish",
    "frn",
    "evonorm_s0",
    "evonorm_s1",
    "evonorm_s2",
)

# A smoke run keeps the family of the network and shrinks its size.
_SMOKE_MODEL_FIELDS = {
    "cifar_resnet": {"depth": 8, "num_filters": 8},
    "resnet": {"stage_sizes": (1, 1), "num_filters": 8},
}


def base_config() -> ConfigDict:
    """Every field that a config has, with its neutral value."""
    config = ConfigDict()
    config.seed = 0
    config.dtype = "float32"  # "float32" or "bfloat16": of convolutions and activations

    # A worker is what takes batch statistics together. Workers are laid on whatever devices there
    # are, several to a device if need be; the global batch is num_workers * images_per_worker.
    config.num_workers = 1
    config.images_per_worker = 128
    config.eval_batch_size = 256  # images, over all devices
    config.sync_batch_stats = False  # True: batch statistics over all workers together

    config.model = ConfigDict(
        {"name": "", "norm_act": "", "norm_act_fields": ConfigDict(), "fields": ConfigDict()}
    )
    config.dataset = ConfigDict()  # evonorm_jax/data/config.py explains its fields

    # Length of the run: exactly one of the two, the other stays 0.
    config.num_epochs = 0.0
    config.num_steps = 0

    config.optimizer = ConfigDict(
        {
            "name": "sgd",  # "sgd", "lars" or "rmsprop"
            "learning_rate_per_256": 0.1,  # peak; scales linearly with the global batch
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": 1e-4,  # L2, on the kernels of convolutions and dense layers only
            "gradient_clip_norm": 0.0,  # of the whole gradient; 0 = off
            "rmsprop_decay": 0.9,
            "rmsprop_epsilon": 1e-3,
            "lars_trust_coefficient": 1e-3,
        }
    )
    config.schedule = ConfigDict(
        {
            "name": "cosine",  # "cosine", "step", "constant" or "exponential"
            "warmup_epochs": 0.0,  # linear from 0
            "boundaries": (30 / 90, 60 / 90, 80 / 90),  # step: fractions of the whole run
            "decay_factor": 0.1,  # step and exponential: at each boundary, every decay_epochs
            "decay_epochs": 2.4,  # exponential
        }
    )

    config.label_smoothing = 0.0
    config.mixup_alpha = 0.0  # 0 = off
    config.ema_decay = 0.0  # moving average of the weights, evaluated as well; 0 = off
    config.gradient_accumulation_steps = 1

    config.log_every_steps = 100
    config.eval_every_epochs = 1.0
    config.checkpoint_every_steps = 1000
    config.keep_checkpoints = 2
    config.tensorboard = True  # event files too, where TensorFlow is installed
    config.profile_start_step = 0
    config.profile_steps = 0  # 0 = off
    return config


def digits(norm_act: str) -> ConfigDict:
    """The built-in 8x8 digits in well under a minute on a CPU: 1,437 to train, 360 to test."""
    config = base_config()
    config.model.name = "cifar_resnet20"
    config.model.norm_act = norm_act
    config.model.fields = ConfigDict({"depth": 8})
    config.dataset = dataset_config("digits", "embedded")
    config.images_per_worker = 64
    config.eval_batch_size = 360
    config.num_epochs = 20.0
    config.schedule.warmup_epochs = 2.0
    config.optimizer.learning_rate_per_256 = 0.2
    config.log_every_steps = 22
    config.tensorboard = False  # importing TensorFlow takes longer than training
    return config


def cifar10(model: str, norm_act: str) -> ConfigDict:
    """CIFAR-10 as is usual for the 6n + 2 ResNets.

    Batch 128, learning rate 0.1 (0.2 per 256) divided by 10 at 1/2 and 3/4 of the run, weight
    decay 1e-4, crops of the image padded by 4, flips: He et al., arXiv:1512.03385 section 4.2.
    Our choices are 200 epochs, Nesterov momentum, and 5 epochs of warm-up for every layer alike,
    and groups of 8 channels: at these widths of 16 to 64 the usual 32 groups are single channels
    or pairs (EvoNorm-S0 after three epochs: 65.8 % against 61.7 %, results/cifar10_jpeg_resnet20).
    """
    config = base_config()
    config.model.name = model
    config.model.norm_act = norm_act
    if accepts_field(norm_act, "group_size"):
        config.model.norm_act_fields.group_size = 8
    config.dataset = dataset_config("cifar10", "tfds")
    config.eval_batch_size = 1000
    config.num_epochs = 200.0
    config.optimizer.learning_rate_per_256 = 0.2
    config.schedule.name = "step"
    config.schedule.warmup_epochs = 5.0
    config.schedule.boundaries = (0.5, 0.75)
    config.checkpoint_every_steps = 4000
    return config


def imagenet_resnet(model: str, norm_act: str) -> ConfigDict:
    """ImageNet as in the authors' ResNet code: 8 workers of 128 images, 90 epochs.

    Learning rate 0.1 per 256, 5 epochs of warm-up, divided by 10 after 30, 60 and 80 of 90 epochs,
    Nesterov momentum 0.9, weight decay 1e-4, no label smoothing, bfloat16. The paper takes the
    settings of the original networks over unchanged; that its tables used exactly these defaults
    of the authors' repository is our reading.
    """
    config = base_config()
    config.dtype = "bfloat16"
    config.num_workers = 8
    config.images_per_worker = 128
    config.eval_batch_size = 1024
    config.model.name = model
    config.model.norm_act = norm_act
    config.dataset = dataset_config("imagenet2012", "tfds")
    config.num_epochs = 90.0
    config.schedule.name = "step"
    config.schedule.warmup_epochs = 5.0
    config.checkpoint_every_steps = 2500
    return config


def batch_size_sweep(
    norm_acts: Sequence[str],
    images_per_worker: Sequence[int],
    *,
    num_seeds: int,
    group_size: int = 0,
    arg: str = "",
) -> Iterator[dict[str, Any]]:
    """The overrides of every run of a batch-size experiment.

    Nothing else changes between the columns: the learning rate is per 256 images and durations are
    in epochs. Seed by seed, so that a sweep cut short has whole figures of fewer seeds.

    Args:
      norm_acts: names of layers.
      images_per_worker: sizes, in the order they are to run in.
      num_seeds: seeds 0, 1, ...
      group_size: channels per group of the layers that have groups; 0 leaves their default.
      arg: of the config; "smoke" leaves two layers, two sizes and one seed of the sweep.
    """
    if arg == "smoke":
        norm_acts, images_per_worker, num_seeds = (norm_acts[0], norm_acts[-1]), (4, 2), 1
    for seed in range(num_seeds):
        for images in images_per_worker:
            for norm_act in norm_acts:
                layer: dict[str, Any] = {"model.norm_act": norm_act}
                if group_size and accepts_field(norm_act, "group_size"):
                    layer["model.norm_act_fields.group_size"] = group_size
                yield layer | {"images_per_worker": images, "seed": seed}


def parse_arg(config: ConfigDict, arg: str) -> ConfigDict:
    """Applies what follows the colon of `--config FILE.py:ARG`.

    "" leaves the config as it is, "smoke" shrinks it to seconds on a CPU, and "tfds", "folder" or
    "npz" reads the data set from there, with the splits that such a source usually has;
    `--config.dataset.path=...` then says where it lies.

    Raises:
      UserError: for anything else.
    """
    sources = () if config.dataset.source == "embedded" else ("tfds", "folder", "npz")
    if arg == "smoke":
        return smoke(config)
    if arg in sources:
        config.dataset = dataset_config(config.dataset.name, arg)
    elif arg:
        raise UserError(
            f"Unknown config argument '{arg}' after the colon: this config knows "
            f"{', '.join(('smoke', *sources))}."
        )
    return config


def smoke(config: ConfigDict) -> ConfigDict:
    """The same run in small: fake images, a tiny network, two epochs of four steps.

    Layer, optimizer, schedule and dtype stay, so that they are what a smoke run tries out.
    """
    family = "cifar_resnet" if config.model.name.startswith("cifar_resnet") else "resnet"
    config.model.fields = ConfigDict(_SMOKE_MODEL_FIELDS[family])
    config.dataset = dataset_config(
        config.dataset.name,
        "fake",
        in_memory=config.dataset.in_memory,  # ImageNet streams in small, too
        image_size=16 if family == "resnet" else 8,  # pixels
        resize_size=0,
        num_classes=10,
        num_train_examples=32,
        num_eval_examples=20,  # no multiple of the evaluation batch: the padding is tried too
    )
    config.num_workers = 2
    config.images_per_worker = 4
    config.eval_batch_size = 16
    config.num_epochs = 2.0
    config.schedule.warmup_epochs = min(config.schedule.warmup_epochs, 0.5)
    config.log_every_steps = 1
    config.checkpoint_every_steps = 4
    config.tensorboard = False  # importing TensorFlow takes longer than training
    return config
