"""The blocks that the config files share: every field with its default, and four recipes.

Nothing here is computed from the batch size. The learning rate is per 256 images, durations carry
their unit in their name, and both are resolved when a run starts, so that one override such as
`--config.images_per_worker=4` changes the batch size, the learning rate and nothing else.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, FieldReference

from configs.arguments import parse_words
from evonorm_jax.data import dataset_config
from evonorm_jax.models import native_image_size
from evonorm_jax.models.efficientnet import SCALINGS
from evonorm_jax.norm_act import accepts_field

# The second block of the second stage has all that a block can have: an expansion, a residual sum
# and, in EfficientNet, stochastic depth.
_SMOKE_MOBILE = {"stage_sizes": (1, 2), "width_multiplier": 0.25, "dropout_rate": 0.2}
# A smoke run keeps the family of the network, by how its name begins, and shrinks its size.
_SMOKE_MODEL_FIELDS = {
    "cifar_resnet": {"depth": 8, "num_filters": 8},
    "resnet": {"stage_sizes": (1, 1), "num_filters": 8},
    "mobilenet": _SMOKE_MOBILE,
    "mnasnet": _SMOKE_MOBILE,
    "efficientnet": _SMOKE_MOBILE | {"depth_multiplier": 1.0},
}

_SMOKE_TRAIN_EXAMPLES = 32
_SMOKE_EVAL_EXAMPLES = 20  # no multiple of the evaluation batch: the padding is tried too

# What a recipe sets in `config.dataset`; it stays when another source is chosen.
_FIELDS_OF_ANY_SOURCE = (
    *("image_size", "resize_size"),
    *("randaugment_layers", "randaugment_magnitude", "autoaugment"),
)

# What only classifiers have; other tasks take these fields out.
CLASSIFIER_FIELDS = (
    *("label_smoothing", "mixup_alpha", "cutmix_alpha", "random_erasing"),
    *("class_weights", "balanced_classes", "gradient_accumulation_steps"),
)

# Workers of 128 images: the batch of 4096 of the paper's sweep for MobileNetV2, the 1024 and 2048
# of the authors' TPU code for the others.
_MOBILE_WORKERS = {"mobilenet": 32, "mnasnet": 8, "efficientnet": 16}


def base_config() -> ConfigDict:
    """Returns every field that a config has, with its neutral value."""
    # Fields of which the comment says so may be -1: they are then chosen to fit the data, by the
    # rules of evonorm_jax/training/fit_to_data.py.
    config = ConfigDict()
    config.task = "classification"  # name of a task, or package.module:Class of your own
    config.seed = 0  # seed of the weights, of the order of images and of all randomness in training
    config.dtype = "float32"  # dtype of convolutions and activations: "float32" or "bfloat16"

    # A worker is a set of images whose batch statistics are taken together. Workers are laid on
    # whatever devices there are, several to a device if need be; the global batch is num_workers *
    # images_per_worker.
    config.num_workers = 1  # number of workers over all devices
    config.images_per_worker = 128  # images of a worker in a step; -1 = fit to the data
    config.eval_batch_size = 256  # images that all devices evaluate at a time
    config.sync_batch_stats = False  # True: all workers take their batch statistics together

    config.model = ConfigDict(
        {
            "name": "",  # name of the network; docs/models.md lists them
            "norm_act": "",  # name of its layers, one of norm_act_names() or graph:FILE
            "norm_act_fields": ConfigDict(),  # fields of the layers, such as group_size or epsilon
            "fields": ConfigDict(),  # fields of the network, such as depth, dropout_rate or remat
        }
    )
    config.dataset = ConfigDict()  # evonorm_jax/data/config.py explains its fields

    # The weights that a run starts from. A head for other classes is new all the same.
    config.init_from = ""  # a run directory or a safetensors file; "" = weights drawn by the seed
    config.init_from_model = ""  # timm's name of the network; "" = what the file is called

    # Length of the run: exactly one of the two is set, the other stays 0.
    config.num_epochs = 0.0  # passes through the training images
    config.num_steps = 0  # training steps; -1 = fit to the data, unless num_epochs is set

    config.optimizer = ConfigDict(
        {
            "name": "sgd",  # "sgd", "lars", "rmsprop", "adam" or "adamw"
            # The peak of the learning rate: exactly one of the two is set, the other stays 0.
            "learning_rate_per_256": 0.1,  # rate at 256 images; it scales with the global batch
            "learning_rate": 0.0,  # rate at any global batch; -1 = fit to data and weights
            # Further settings. Where a comment names optimizers, the others ignore the field.
            "momentum": 0.9,  # sgd, lars, rmsprop: decay of the momentum
            "nesterov": True,  # sgd, lars, rmsprop: Nesterov momentum
            "weight_decay": 1e-4,  # decay of the kernels of convolutions and dense layers
            "gradient_clip_norm": 0.0,  # largest norm of the whole gradient; 0 = off
            "rmsprop_decay": 0.9,  # rmsprop: decay of the mean square
            "rmsprop_epsilon": 1e-3,  # rmsprop: constant inside the root
            "lars_trust_coefficient": 1e-3,  # lars: factor of the weights' norm over the gradient's
            "adam_beta1": 0.9,  # adam, adamw: decay of the mean
            "adam_beta2": 0.999,  # adam, adamw: decay of the mean square
            "adam_epsilon": 1e-8,  # adam, adamw: constant outside the root
            # Parts of the network, named by patterns of the paths in parameters.txt of a run.
            "frozen_paths": (),  # parts that keep their values: ("stem_*", "stage1_*")
            "rate_multipliers": (),  # parts with another rate: ("head=10",); the first match counts
            # Each layer learns at a share of the rate of the next one.
            "layer_decay": 1.0,  # the share; 1 = off
            "layer_paths": (),  # layers from the images on: ("stem_*", "stage1_*", ..., "head*")
        }
    )
    config.schedule = ConfigDict(
        {
            "name": "cosine",  # "cosine", "step", "constant" or "exponential"
            "warmup_epochs": 0.0,  # epochs of linear warm-up from 0; -1 = fit to the data
            "boundaries": (30 / 90, 60 / 90, 80 / 90),  # step: fractions of the run
            "decay_factor": 0.1,  # step: at each boundary; exponential: every decay_epochs
            "decay_epochs": 2.4,  # exponential: epochs between two decays
        }
    )

    config.label_smoothing = 0.0  # probability that is spread evenly over all classes
    config.mixup_alpha = 0.0  # parameter of the Beta distribution of mixup's weights; 0 = off
    config.cutmix_alpha = 0.0  # the same of CutMix's areas; with both, an image gets one of the two
    config.random_erasing = 0.0  # probability that noise fills a rectangle of an image

    # Weights of the classes in the loss of training.
    config.class_weights = ()  # one positive number for each class; () = all alike
    config.balanced_classes = False  # True: each class as a whole weighs the same

    config.ema_decay = 0.0  # decay of an average of the weights, evaluated as well; 0 = off
    config.gradient_accumulation_steps = 1  # micro-batches that a step is computed in

    config.log_every_steps = 100  # steps between two rows of training metrics
    config.eval_every_epochs = 1.0  # epochs between evaluations; 0 = at the end; -1 = fit to data
    config.checkpoint_every_steps = 1000  # steps between checkpoints; each evaluation has one too
    config.keep_checkpoints = 2  # number of newest checkpoints that stay
    config.keep_best_checkpoint = True  # True: the one with the best main metric stays as well
    # The run ends after so many evaluations in a row without a better main metric.
    config.early_stopping_patience = 0  # 0 = off

    config.tensorboard = True  # True: event files as well, where TensorFlow is installed
    config.metric_writers = ()  # classes of your own that get the metrics, "package.module:Class"
    config.profile_start_step = 0  # first step of a trace of the devices; steps count from 1
    config.profile_steps = 0  # number of steps that are traced; 0 = off
    return config


def digits(norm_act: str) -> ConfigDict:
    """Trains on the built-in 8x8 digits, 1,437 and 360, in well under a minute on a CPU."""
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


def imagenet_mobile(model: str, norm_act: str) -> ConfigDict:
    """ImageNet as in the authors' TPU code of MnasNet and EfficientNet, for MobileNetV2 as well.

    RMSProp (decay 0.9, momentum 0.9, epsilon 1e-3), learning rate 0.016 per 256 that falls by 0.97
    every 2.4 epochs after 5 of warm-up, weight decay 1e-5, label smoothing 0.1, moving average
    0.9999 of the weights, 350 epochs. BatchNorm has momentum 0.99 and epsilon 1e-3; other layers
    keep their own, as EvoNorm does in the authors' ResNets. Images have the network's native size,
    cut from 32 pixels more in evaluation. EfficientNet has the dropout of its table (B0 0.2,
    B5 0.4), survival probability 0.8 and AutoAugment, but B5 RandAugment of 2 layers with
    magnitude 17: of that code's results those come nearest to the paper's.

    The paper says no more than that settings are inherited from the original networks. Our choices
    are this recipe and a dropout of 0.2 for MobileNetV2, workers of 128 images for all, and
    bfloat16.
    """
    config = base_config()
    config.dtype = "bfloat16"
    config.num_workers = _MOBILE_WORKERS[_family(model, _MOBILE_WORKERS)]
    config.images_per_worker = 128
    config.eval_batch_size = 1024
    config.model.name = model
    config.model.norm_act = norm_act
    if norm_act.startswith("bn_"):
        config.model.norm_act_fields.update({"momentum": 0.99, "epsilon": 1e-3})
    config.model.fields.dropout_rate = 0.2
    image_size = FieldReference(native_image_size(model))
    config.dataset = dataset_config(
        "imagenet2012", "tfds", image_size=image_size, resize_size=image_size + 32
    )
    if model in SCALINGS:
        config.model.fields.dropout_rate = SCALINGS[model].dropout_rate
        config.model.fields.survival_probability = 0.8
        config.dataset.autoaugment = model != "efficientnet_b5"
    if model == "efficientnet_b5":
        config.dataset.update({"randaugment_layers": 2, "randaugment_magnitude": 17})
    config.num_epochs = 350.0
    config.optimizer.name = "rmsprop"
    config.optimizer.learning_rate_per_256 = 0.016
    config.optimizer.nesterov = False
    config.optimizer.weight_decay = 1e-5
    config.schedule.name = "exponential"
    config.schedule.warmup_epochs = 5.0
    config.schedule.decay_factor = 0.97
    config.schedule.decay_epochs = 2.4
    config.label_smoothing = 0.1
    config.ema_decay = 0.9999
    config.checkpoint_every_steps = 2500
    return config


def layer_overrides(norm_act: str, *, group_size: int = 0) -> dict[str, Any]:
    """Returns what a sweep over layers overrides: the name and, where it has groups, their size.

    Args:
      norm_act: Name of a layer.
      group_size: Channels per group of the layers that have groups; 0 leaves their default.

    >>> layer_overrides("gn_relu", group_size=8)
    {'model.norm_act': 'gn_relu', 'model.norm_act_fields.group_size': 8}
    """
    layer: dict[str, Any] = {"model.norm_act": norm_act}
    if group_size and accepts_field(norm_act, "group_size"):
        layer["model.norm_act_fields.group_size"] = group_size
    return layer


def parse_arg(config: ConfigDict, arg: str) -> ConfigDict:
    """Applies what follows the colon of `--config FILE.py:ARG`.

    "" leaves the config as it is, "smoke" shrinks it to seconds on a CPU, and "tfds", "folder" or
    "npz" reads the data set from there, with the splits that such a source usually has;
    `--config.dataset.path=...` then says where it lies. "smoke,folder" shrinks the run and reads a
    few images from a folder.

    Raises:
      UserError: There is anything else.
    """
    sources = () if config.dataset.source == "embedded" else ("tfds", "folder", "npz")
    small, source = parse_words(arg, ("smoke",), sources)
    if source:
        kept = {field: config.dataset.get_ref(field) for field in _FIELDS_OF_ANY_SOURCE}
        config.dataset = dataset_config(config.dataset.name, source, **kept)
    return smoke(config, keep_source=bool(source)) if small else config


def smoke(config: ConfigDict, *, keep_source: bool = False) -> ConfigDict:
    """Shrinks a run: a tiny network, fake images, two epochs of four steps.

    Layer, optimizer, schedule, dropout and dtype stay: they are what a smoke run tries out.

    Args:
      config: Is changed in place.
      keep_source: Whether the images are the first ones of the data set instead of fake ones.

    Returns:
      The same config.
    """
    family = _family(config.model.name, _SMOKE_MODEL_FIELDS)
    config.model.fields.update(_SMOKE_MODEL_FIELDS[family])
    image_size = 8 if family == "cifar_resnet" else 16  # pixels
    if keep_source:
        config.dataset.train_split += f"[:{_SMOKE_TRAIN_EXAMPLES}]"
        config.dataset.eval_split += f"[:{_SMOKE_EVAL_EXAMPLES}]"
        if not config.dataset.in_memory:  # what is held in memory keeps the size it is stored in
            config.dataset.update({"image_size": image_size, "resize_size": 0})
    else:
        config.dataset = dataset_config(
            config.dataset.name,
            "fake",
            in_memory=config.dataset.in_memory,  # ImageNet streams in small, too
            image_size=image_size,
            resize_size=0,
            num_classes=10,
            num_train_examples=_SMOKE_TRAIN_EXAMPLES,
            num_eval_examples=_SMOKE_EVAL_EXAMPLES,
        )
    config.init_from = config.init_from_model = ""  # of the full-sized network
    config.num_workers = 2
    config.images_per_worker = 4
    config.eval_batch_size = 16
    if config.num_steps:
        config.num_steps = 8
    else:
        config.num_epochs = 2.0
    config.schedule.warmup_epochs = min(config.schedule.warmup_epochs, 0.5)
    config.log_every_steps = 1
    config.checkpoint_every_steps = 4
    config.tensorboard = False  # importing TensorFlow takes longer than training
    return config


def _family(model: str, families: Mapping[str, Any]) -> str:
    """Returns the one of `families` that the name of the network begins with."""
    return next(family for family in families if model.startswith(family))
