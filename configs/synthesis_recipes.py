"""The blocks that the configs of image synthesis share: every field, and three recipes.

The comment beside a value, or the recipe, says where it is from:
  DeepMind      Brock, Donahue and Simonyan, arXiv:1809.11096, text and appendices
  PyTorch code  ajbrock/BigGAN-PyTorch, by the first author of that paper
  StudioGAN     POSTECH-CVLab/PyTorch-StudioGAN
We do not know what the EvoNorm paper changed in BigGAN-deep beside the layers of the generator, and
take DeepMind's settings.
"""

from ml_collections import ConfigDict

from configs import recipes
from configs.arguments import parse_words
from evonorm_jax.data import dataset_config
from evonorm_jax.norm_act import accepts_field

#: The rows of the paper's Table 5.
LAYERS = ("bn_relu", "evonorm_b0", "gn_relu", "ln_relu", "pixel_norm_relu", "evonorm_s0")

_NOT_OF_SYNTHESIS = ("optimizer", "init_from", "init_from_model", *recipes.CLASSIFIER_FIELDS)
# The generator's tanh ends at -1 and 1, and so do the images of the data.
_FROM_MINUS_1_TO_1 = 127.5
# What a recipe sets in `config.dataset`; it stays when another source is chosen.
_FIELDS_OF_ANY_SOURCE = (
    *("image_size", "resize_size", "mean", "std", "flip", "pad"),
    *("train_crop", "resize_method"),
)


def base_config(norm_act: str) -> ConfigDict:
    """Returns every field that a config of image synthesis has."""
    config = recipes.base_config()
    optimizer = config.optimizer
    for field in _NOT_OF_SYNTHESIS:
        del config[field]
    config.task = "image_synthesis"  # the task
    config.model.norm_act = norm_act  # name of the generator's layers; the discriminator has none

    # Adam with betas 0 and 0.999: DeepMind. Its epsilon: PyTorch code. The rates do not follow the
    # batch: those of SA-GAN, a batch of 256, were the best of BigGAN's at small batches as well.
    for player in ("generator", "discriminator"):
        section = optimizer.copy_and_resolve_references()
        section.update({"name": "adam", "learning_rate_per_256": 0.0, "weight_decay": 0.0})
        section.update({"adam_beta1": 0.0, "adam_beta2": 0.999, "adam_epsilon": 1e-6})
        config[f"{player}_optimizer"] = section
    config.schedule.name = "constant"  # as DeepMind has it (arXiv:1809.11096)
    config.discriminator_steps = 2  # updates of the discriminator for one of the generator

    # Averages of the generator's weights, which are what is sampled. Both values are those of
    # BigGAN's PyTorch code.
    config.ema_decay = 0.9999  # decay of the averages
    config.ema_start_steps = 20_000  # steps until which the averages equal the weights

    config.orthogonal_regularization = 0.0  # weight of the penalty, as in the PyTorch code

    # Batch statistics for sampling, of layers that have any: the mean over batches of noise.
    config.standing_passes = 100  # number of batches (100: DeepMind); 0 = running statistics
    config.standing_batch_size = 0  # images of a batch; 0 = as many as share statistics in training

    # Figures of samples at every evaluation; evonorm_jax/training/sample_figures.py computes them.
    config.figures = ConfigDict(
        {
            "network": "",  # what sees images: "digits", a .npz or .safetensors file; "" = nothing
            "num_samples": 10_000,  # number of samples
            "reference": "train",  # split that samples are compared with: "train" or "eval"
        }
    )
    return config


def biggan_deep_imagenet128(norm_act: str) -> ConfigDict:
    """ImageNet at 128 pixels, 150,000 steps of 2,048 images.

    Rates 5e-5 and 2e-4, two steps of the discriminator, averages 0.9999, batch statistics over all
    workers, orthogonal initialisation and spectral normalisation: DeepMind. Images are the whole
    shorter side about the centre, resized by area, not flipped: DeepMind, but for the flips, of
    which it says nothing. Averages from step 20,000, and 150,000 steps: PyTorch code. 16 groups,
    bfloat16, and 16 workers are ours, as is epsilon 1e-4 in BatchNorm and in the spectral norm,
    which DeepMind's published networks have.
    """
    config = base_config(norm_act)
    config.dtype = "bfloat16"
    config.num_workers = 16
    config.images_per_worker = 128
    config.sync_batch_stats = True
    config.eval_batch_size = 1024
    config.model.name = "biggan_deep_128"
    config.model.fields.spectral_epsilon = 1e-4
    if norm_act.startswith("bn_"):
        config.model.norm_act_fields.epsilon = 1e-4
    if accepts_field(norm_act, "num_groups"):
        config.model.norm_act_fields.num_groups = 16
    config.dataset = dataset_config(
        "imagenet2012",
        "tfds",
        **_pixels(channels=3),
        image_size=128,
        resize_size=0,
        train_crop="center",
        resize_method="area",
    )
    config.generator_optimizer.learning_rate = 5e-5
    config.discriminator_optimizer.learning_rate = 2e-4
    config.num_steps = 150_000
    config.standing_batch_size = 256  # of 2,048 images a device would hold all at once
    # The validation images: to see all training images would take longer than to draw the samples.
    config.figures.update({"num_samples": 50_000, "reference": "eval"})
    config.eval_every_epochs = 8.0  # 2,496 steps
    config.checkpoint_every_steps = 1000
    return config


def biggan_deep_cifar10(norm_act: str) -> ConfigDict:
    """CIFAR-10, 100,000 steps of 64 images.

    Rates 2e-4, four steps of the discriminator, averages from step 1,000: the PyTorch code's for
    its BigGAN on CIFAR-10, which is not deep. Batch and number of steps: StudioGAN's for
    BigGAN-deep. 64 filters, no non-local block, groups of 8 channels and no augmentation are ours.
    `config.figures.network` may name a file of `experiments.export`, from a run on
    CIFAR-10.
    """
    config = base_config(norm_act)
    config.images_per_worker = 64
    config.eval_batch_size = 500
    config.model.name = "biggan_deep_32"
    config.model.fields.num_filters = 64
    _group_size_of_8(config)
    config.dataset = dataset_config("cifar10", "tfds", **_pixels(channels=3))
    config.discriminator_steps = 4
    config.generator_optimizer.learning_rate = 2e-4
    config.discriminator_optimizer.learning_rate = 2e-4
    config.ema_start_steps = 1000
    config.num_steps = 100_000
    config.eval_every_epochs = 26.0  # 5,070 steps
    config.checkpoint_every_steps = 5000
    return config


def biggan_deep_digits(norm_act: str) -> ConfigDict:
    """The built-in 8x8 digits, 3,000 steps of 64 images: minutes on a CPU.

    Rates 1e-4 and 4e-4 and one step of the discriminator: SA-GAN's, which DeepMind calls the best
    at small batches. All else is ours, above all a discriminator that is four times as wide as the
    generator: one that is too narrow does not see that samples of a class are all alike.
    """
    config = base_config(norm_act)
    config.images_per_worker = 64
    config.eval_batch_size = 500
    config.model.name = "biggan_deep_8"
    config.model.fields.update({"num_filters": 8, "discriminator_num_filters": 32})
    config.model.fields.update({"z_dim": 32, "embedding_dim": 32})
    _group_size_of_8(config)
    config.dataset = dataset_config("digits", "embedded", **_pixels(channels=1))
    config.discriminator_steps = 1
    config.generator_optimizer.learning_rate = 1e-4
    config.discriminator_optimizer.learning_rate = 4e-4
    config.ema_decay = 0.999
    config.ema_start_steps = 200
    config.standing_passes = 20
    config.figures.update({"network": "digits", "num_samples": 1437})
    config.num_steps = 3000
    config.log_every_steps = 50
    config.eval_every_epochs = 23.0  # 506 steps
    config.tensorboard = False  # importing TensorFlow takes longer than a hundred steps
    return config


def parse_arg(config: ConfigDict, arg: str) -> ConfigDict:
    """Applies what follows the colon of `--config FILE.py:ARG`, as `recipes.parse_arg` does.

    Raises:
      UserError: There is anything else than "smoke" and the name of a source.
    """
    sources = () if config.dataset.source == "embedded" else ("tfds", "folder", "npz")
    small, source = parse_words(arg, ("smoke",), sources)
    if source:
        kept = {field: config.dataset[field] for field in _FIELDS_OF_ANY_SOURCE}
        config.dataset = dataset_config(config.dataset.name, source, **kept)
    return smoke(config) if small else config


def smoke(config: ConfigDict) -> ConfigDict:
    """Shrinks a run to eight steps of tiny players on fake images of 8 pixels.

    Layer, optimizers, numbers of steps of the discriminator and dtype stay.

    Returns:
      The same config.
    """
    config.model.name = "biggan_deep_8"
    config.model.fields.update({"num_filters": 8, "z_dim": 8, "embedding_dim": 8})
    config.model.fields.discriminator_num_filters = 8
    dataset = config.dataset
    config.dataset = dataset_config(
        dataset.name,
        "fake",
        in_memory=dataset.in_memory,  # ImageNet streams in small, too
        mean=dataset.mean,
        std=dataset.std,
        flip=False,
        pad=0,
        image_size=8,
        resize_size=0,
        num_classes=10,
        num_train_examples=32,
        num_eval_examples=20,  # no multiple of the evaluation batch: the padding is tried too
    )
    config.num_workers = 2
    config.images_per_worker = 4
    config.eval_batch_size = 16
    config.ema_start_steps = 4
    config.standing_passes = 2
    config.standing_batch_size = 0
    config.figures.network = ""
    config.num_steps = 8
    config.eval_every_epochs = 0.0  # at the end
    config.log_every_steps = 1
    config.checkpoint_every_steps = 4
    config.tensorboard = False  # importing TensorFlow takes longer than training
    return config


def _pixels(*, channels: int) -> dict[str, object]:
    mean = (_FROM_MINUS_1_TO_1,) * channels
    return {"mean": mean, "std": mean, "flip": False, "pad": 0}


def _group_size_of_8(config: ConfigDict) -> None:
    """Of the layers that have groups: inside the narrow blocks 32 groups are single channels."""
    if accepts_field(config.model.norm_act, "group_size"):
        config.model.norm_act_fields.group_size = 8
