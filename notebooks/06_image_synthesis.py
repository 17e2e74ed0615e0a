# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/)
#
# # Images from noise
#
# BigGAN-deep with EvoNorm in its generator ([Liu, Brock, Simonyan and Le, NeurIPS
# 2020](https://arxiv.org/abs/2004.02967), Table 5), small enough to train on the built-in digits in
# minutes on a CPU: samples, truncation, interpolations, and what the metrics say and do not.
#
# In Colab: choose the repository and the notebook in the dialog that the badge opens, and give the
# repository's address in the next cell.

# %%
# In Colab: fills the machine with a clone and the packages. Elsewhere they are there already.
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = ""  # @param {type: "string"}

if "google.colab" in sys.modules:
    if not REPOSITORY:
        raise ValueError("Fill in REPOSITORY: the address that this notebook was opened from.")
    ROOT = Path("/content/evonorm_jax")
    has_tpu = Path("/dev/vfio").exists() or Path("/dev/accel0").exists()
    extra = "[cuda12]" if shutil.which("nvidia-smi") else "[tpu]" if has_tpu else ""
    if not ROOT.exists():
        subprocess.run(["git", "clone", "--quiet", "--depth=1", REPOSITORY, ROOT], check=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, f"{ROOT}[train]", f"jax{extra}"], check=True)
else:
    ROOT = next(at for at in (Path.cwd(), *Path.cwd().parents) if (at / "configs").is_dir())
sys.path.insert(0, str(ROOT))  # `configs` and `experiments` are folders of the clone

# %% [markdown]
# ## Two players
#
# A *generator* draws images from noise $z$ and a class; a *discriminator* tells them from real
# ones; each trains against the other. BigGAN-deep is such a pair, here for 8 x 8 pixels and as
# narrow as the digits allow. The layer that this project is about stands in the generator alone,
# nine times, and all but the last are *conditional*: scale and bias are computed from $z$ and the
# class.

# %%
import tempfile

import numpy as np
from matplotlib import pyplot as plt
from PIL import Image

from configs import synthesis_recipes
from evonorm_jax.analysis import load_run
from evonorm_jax.data import create_pipeline
from evonorm_jax.gan.sheets import (
    TRUNCATIONS,
    class_sheet,
    interpolation_sheet,
    neighbour_sheet,
    truncation_sheet,
)
from evonorm_jax.training import train_and_evaluate
from evonorm_jax.training.sample_figures import SampleFigures, real_images
from evonorm_jax.training.trained_generator import load_generator

LAYER = "evonorm_s0"  # "bn_relu", "evonorm_b0", "gn_relu", "ln_relu", "pixel_norm_relu"

config = synthesis_recipes.biggan_deep_digits(LAYER)
config.keep_checkpoints = 1  # the newest alone
config.keep_best_checkpoint = False
print(config.model)

# %% [markdown]
# ## Training
#
# 3,000 steps of 64 images: three minutes on one core. Run again, the cell finds the run in the
# temporary folder and goes on where it was.

# %%
workdir = Path(tempfile.gettempdir(), f"evonorm_jax_digits_gan_{LAYER}")
summary = train_and_evaluate(config, workdir)


# %% [markdown]
# After every evaluation the run draws ten images of each class, always from the same noise: a row
# is a class, a column has the same $z$. The classes come last: some digits are still those of
# another class when their strokes are right.


# %%
def show(axis, sheet, title):
    """Shows images `[rows, columns, H, W, 1]` as one picture."""
    rows, columns, height, width, _ = sheet.shape
    spaced = np.pad(sheet[..., 0], ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=255)
    picture = spaced.transpose(0, 2, 1, 3).reshape(rows * (height + 1), columns * (width + 1))
    axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
    axis.set_title(title, fontsize=9)
    axis.axis("off")


steps = sorted(int(path.stem) for path in (workdir / "samples").glob("0*.png"))
progress, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
for axis, step in zip(axes, (steps[0], steps[len(steps) // 2], steps[-1]), strict=True):
    with Image.open(workdir / "samples" / f"{step:07}.png") as sheet:
        axis.imshow(np.asarray(sheet), cmap="gray")
    axis.set_title(f"step {step:,}", fontsize=9)
    axis.axis("off")

# %% [markdown]
# ## Sampling
#
# `load_generator` reads the averaged weights of a run; on the command line `python -m
# experiments.sample` does the same. *Truncation* draws the noise from a narrower distribution:
# cleaner images, fewer different ones. Along an *interpolation* no image should jump: first the
# class moves, then the noise, then both. And beside each sample stand the training images nearest
# to it: were they equal, the generator would have learned them by heart.

# %%
generator = load_generator(workdir)
z_dim, classes = generator.gan.z_dim, range(10)
training_images, training_labels = real_images(config, config.dataset.train_split)
sheet = class_sheet(generator.draw, z_dim, classes)
neighbours = neighbour_sheet(sheet[:, 0], training_images)
assert sheet.shape == (10, 10, 8, 8, 1)

sheets, axes = plt.subplots(2, 2, figsize=(8, 7), layout="constrained")
show(axes[0, 0], sheet, "a row for each class")
show(axes[0, 1], neighbours, "a sample, and the training images nearest to it")
truncations = ", ".join(map(str, TRUNCATIONS))
show(axes[1, 0], truncation_sheet(generator.draw, z_dim, classes), f"truncation {truncations}")
show(
    axes[1, 1],
    interpolation_sheet(generator.draw, z_dim, 10),
    "the class moves, the noise moves, both do",
)

# %% [markdown]
# ## What the metrics say
#
# FID and Inception Score need a network that was trained on ImageNet. The same formulas on a small
# classifier of the digits are called `classifier_fid` and so on, because they compare with nothing
# published. Beside each stands what held-out real images reach: no generator can do better.
#
# The second column is a fraud: it has learned one training image of each class by heart. The
# classifier finds no fault with it, nor does precision. That it draws ten pictures in all shows in
# the recall, the variance within a class and the distances alone. *No figure is enough by itself.*

# %%
figures = SampleFigures(config, create_pipeline(config.dataset, seed=0, evaluation_only=True))
images, labels = generator.samples(figures.num_samples)
fraud_labels = np.resize(np.arange(10), figures.num_samples)
one_of_each = np.stack([training_images[training_labels == digit][0] for digit in range(10)])
own = figures.measure(images, labels)
fraud = figures.measure(one_of_each[fraud_labels], fraud_labels)

print(f"{'':24}{'generator':>12}{'fraud':>12}{'real images':>14}")
for mine, theirs in zip(own, fraud, strict=True):
    print(f"{mine.name:24}{mine.value:12.3f}{theirs.value:12.3f}{mine.real:14.3f}")

by_name = {figure.name: figure.value for figure in fraud}
assert by_name["within_class_variance"] < 0.01
assert by_name["classifier_recall"] < 0.2
assert by_name["classifier_fid"] > summary["samples/classifier_fid"]

# %% [markdown]
# The figures during training, and dotted what real images reach. The images become clean while
# their variance within a class shrinks towards that of real ones.

# %%
series = load_run(workdir).series
curves, axes = plt.subplots(1, 3, figsize=(9, 2.8), layout="constrained")
for axis, names in zip(
    axes,
    (
        ("classifier_fid",),
        ("conditional_accuracy", "classifier_precision", "classifier_recall"),
        ("within_class_variance",),
    ),
    strict=True,
):
    for name in names:
        at, _, values = series[f"samples/{name}"]
        (line,) = axis.plot(at, values, label=name.replace("_", " "))
        axis.axhline(summary[f"samples/{name}_real"], color=line.get_color(), linestyle=":")
    axis.set_xlabel("step")
    axis.legend(fontsize=8, frameon=False)

# %% [markdown]
# ## Other layers
#
# `LAYER` at the top takes any of the six of the paper's Table 5. All of them, with three seeds
# each, are trained by
# `python -m experiments.sweep --config configs/sweeps/biggan_deep_digits_layers.py`, whose results
# are [recorded](../results/biggan_deep_digits_layers/README.md).
# [Image synthesis](../docs/synthesis.md) has the rest: ImageNet, FID, what collapse looks like.
