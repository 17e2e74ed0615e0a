# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/)
#
# # Train your own
#
# EvoNorm in a model of your own, in Flax Linen and in Flax NNX, trained on a folder of images.
# Only the lines marked `# <-` know of EvoNorm.
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
# ## A class folder
#
# `<root>/<split>/<class>/<image>`, as for ImageNet and torchvision. Put your own pictures there;
# here are four classes of tiny drawings in random colours, sizes and places.

# %%
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import nnx
from matplotlib import pyplot as plt
from PIL import Image, ImageDraw

from evonorm_jax import EvoNormB0, EvoNormS0
from evonorm_jax import nnx as evonorm_nnx
from evonorm_jax.data import Hosts, create_pipeline, dataset_config, steps_per_epoch

CLASSES = ("cross", "disc", "ring", "square")


def draw(kind, random):
    """A 16x16 picture of one class."""
    background, ink = (
        tuple(int(c) for c in random.integers(low, low + 110, 3)) for low in (0, 145)
    )
    image = Image.new("RGB", (16, 16), background)
    pen = ImageDraw.Draw(image)
    left, top = random.integers(1, 5, 2).tolist()
    size = int(random.integers(8, 11))
    box = (left, top, left + size, top + size)
    if kind == "cross":
        middle_x, middle_y = left + size // 2, top + size // 2
        pen.line((left, middle_y, left + size, middle_y), ink, width=2)
        pen.line((middle_x, top, middle_x, top + size), ink, width=2)
    elif kind == "square":
        pen.rectangle(box, fill=ink)
    else:
        pen.ellipse(box, fill=ink if kind == "disc" else None, outline=ink, width=2)
    return image


root = Path(tempfile.mkdtemp(prefix="evonorm_jax_shapes_"))
random = np.random.default_rng(0)
for split, num_images in (("train", 64), ("val", 16)):
    for kind in CLASSES:
        folder = root / split / kind
        folder.mkdir(parents=True)
        for index in range(num_images):
            draw(kind, random).save(folder / f"{index:03}.png")
print(*(f"{split}: {len(list(root.glob(f'{split}/*/*.png')))}" for split in ("train", "val")))

# %% [markdown]
# ## The input pipeline
#
# A folder that fits in memory is put on the device once; crops and flips happen inside the compiled
# step, so the host sends only the numbers of the images.

# %%
config = dataset_config(
    "shapes",
    "folder",
    path=str(root),
    in_memory=True,
    image_size=16,
    resize_size=0,
    pad=1,
    flip=True,
)
pipeline = create_pipeline(config, seed=0)
resident = jax.device_put(pipeline.resident())
BATCH_SIZE, NUM_EPOCHS = 32, 8
num_steps = NUM_EPOCHS * steps_per_epoch(pipeline, BATCH_SIZE)
print(f"{pipeline.num_train_examples} images of {', '.join(pipeline.class_names)}")


def train_batches():
    """The images' numbers and a key for each step; the same ones for every model."""
    batches = pipeline.train_batches(start_step=0, batch_size=BATCH_SIZE, hosts=Hosts())
    for step, batch in zip(range(num_steps), batches, strict=False):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), step), BATCH_SIZE)
        yield jax.tree.map(lambda leaf: leaf[0], batch), keys  # of the first, the only device


def eval_batch():
    """All images of the evaluation split, with their labels."""
    batches = pipeline.eval_batches(batch_size=pipeline.num_eval_examples, hosts=Hosts())
    batch = jax.tree.map(lambda leaf: leaf[0], next(batches))
    examples = pipeline.eval_examples(resident, batch)
    return examples["image"], examples["label"]


def make_optimizer():
    return optax.adam(optax.cosine_decay_schedule(0.01, num_steps))


# %% [markdown]
# ## Flax Linen
#
# The layer takes the place of `nn.BatchNorm` *and* of the activation behind it. S0 has no state;
# B0 has a running variance in `batch_stats`, as BatchNorm has. The code below is the same for
# both.


# %%
class Network(nn.Module):
    """Three convolutions, an average, a dense layer."""

    num_classes: int
    layer: type[nn.Module] = EvoNormS0

    @nn.compact
    def __call__(self, x, train):
        for features, stride in ((16, 1), (32, 2), (64, 2)):
            x = nn.Conv(features, (3, 3), strides=stride, use_bias=False)(x)
            x = self.layer(use_running_average=not train)(x)  # <- was: nn.BatchNorm and nn.relu
        return nn.Dense(self.num_classes)(x.mean((1, 2)))


def train_linen(layer):
    """Trains the network with that layer; returns losses, accuracy and predictions."""
    network = Network(pipeline.num_classes, layer)
    variables = network.init(jax.random.key(0), jnp.ones((1, *pipeline.image_shape)), train=False)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    optimizer = make_optimizer()
    optimizer_state = optimizer.init(params)

    @jax.jit
    def train_step(params, batch_stats, optimizer_state, batch, keys):
        examples = pipeline.train_examples(resident, batch, keys)
        images, labels = examples["image"], examples["label"]

        def loss_fn(params):
            logits, updates = network.apply(
                {"params": params, "batch_stats": batch_stats},
                images,
                train=True,
                mutable=["batch_stats"],
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), updates.get("batch_stats", {})

        (loss, new_stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, optimizer_state = optimizer.update(grads, optimizer_state)
        return optax.apply_updates(params, updates), new_stats, optimizer_state, loss

    losses = []
    for batch, keys in train_batches():
        params, batch_stats, optimizer_state, loss = train_step(
            params, batch_stats, optimizer_state, batch, keys
        )
        losses.append(float(loss))
    images, labels = eval_batch()
    logits = network.apply({"params": params, "batch_stats": batch_stats}, images, train=False)
    return losses, float((logits.argmax(-1) == labels).mean()), np.asarray(logits.argmax(-1))


results = {f"Linen, {layer.__name__}": train_linen(layer) for layer in (EvoNormS0, EvoNormB0)}
for name, (losses, accuracy, _) in results.items():
    print(f"{name:18} loss {losses[0]:.2f} -> {losses[-1]:.3f}, accuracy {accuracy:.1%}")

# %% [markdown]
# ## Flax NNX
#
# `evonorm_jax.nnx` has the same layers as NNX modules, made and used as `nnx.BatchNorm` is: the
# number of channels comes first, parameters are `nnx.Param`, and B0 keeps its running variance in
# an `nnx.BatchStat`, which `network.train()` and `network.eval()` know of.


# %%
class NNXNetwork(nnx.Module):
    """The same network."""

    def __init__(self, num_classes, layer, *, rngs):
        def conv(inputs, features, stride):
            return nnx.Conv(inputs, features, (3, 3), strides=stride, use_bias=False, rngs=rngs)

        self.conv1, self.layer1 = conv(3, 16, 1), layer(16, rngs=rngs)  # <-
        self.conv2, self.layer2 = conv(16, 32, 2), layer(32, rngs=rngs)  # <-
        self.conv3, self.layer3 = conv(32, 64, 2), layer(64, rngs=rngs)  # <-
        self.dense = nnx.Linear(64, num_classes, rngs=rngs)

    def __call__(self, x):
        x = self.layer1(self.conv1(x))
        x = self.layer2(self.conv2(x))
        x = self.layer3(self.conv3(x))
        return self.dense(x.mean((1, 2)))


@nnx.jit
def nnx_train_step(network, optimizer, batch, keys):
    examples = pipeline.train_examples(resident, batch, keys)
    images, labels = examples["image"], examples["label"]

    def loss_fn(network):
        return optax.softmax_cross_entropy_with_integer_labels(network(images), labels).mean()

    loss, grads = nnx.value_and_grad(loss_fn)(network)
    optimizer.update(network, grads)
    return loss


network = NNXNetwork(pipeline.num_classes, evonorm_nnx.EvoNormB0, rngs=nnx.Rngs(0))
optimizer = nnx.Optimizer(network, make_optimizer(), wrt=nnx.Param)
losses = [float(nnx_train_step(network, optimizer, *step)) for step in train_batches()]
network.eval()  # B0 takes its running variance from here on
images, labels = eval_batch()
predicted = np.asarray(network(images).argmax(-1))
accuracy = float((predicted == labels).mean())
results["NNX, EvoNormB0"] = losses, accuracy, predicted
print(f"NNX, EvoNormB0     loss {losses[0]:.2f} -> {losses[-1]:.3f}, accuracy {accuracy:.1%}")

# %% [markdown]
# ## What they learned

# %%
predictions = plt.figure(figsize=(10, 3.4), layout="constrained")
left, right = predictions.subfigures(1, 2, width_ratios=(1, 1.1))
axis = left.subplots()
for name, (losses, accuracy, _) in results.items():
    axis.plot(losses, label=f"{name}: {accuracy:.1%}", linewidth=1.4)
axis.set(xlabel="step", ylabel="cross-entropy (nats)")
axis.legend(frameon=False, fontsize=9, title="accuracy on new images")
axis.spines[["top", "right"]].set_visible(False)
pictures = np.asarray(pipeline.resident()["eval_images"])
for index, axis in enumerate(right.subplots(3, 8).flat):
    axis.imshow(pictures[index])
    right_answer = predicted[index] == int(labels[index])
    axis.set_title(
        pipeline.class_names[predicted[index]],
        fontsize=8,
        color="black" if right_answer else "red",
    )
    axis.axis("off")
right.suptitle("what the NNX network says (red: wrong)", fontsize=10)
predictions

# %%
for name, (losses, accuracy, _) in results.items():
    assert losses[-1] < 0.5 * losses[0], name
    assert accuracy > 0.5, name  # chance is 1/4

# %% [markdown]
# ## The same folder through the launcher
#
# With one of the project's networks, checkpoints, logs and curves, and on several devices or hosts:
#
# ```bash
# python -m experiments.train --config configs/cifar10_resnet20_evonorm_s0.py:folder \
#     --config.dataset.name=shapes --config.dataset.path=PATH --config.dataset.eval_split=val \
#     --config.dataset.image_size=16 --config.images_per_worker=32 --config.num_epochs=20
# ```
