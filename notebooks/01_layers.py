# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/)
#
# # What the layers do
#
# An EvoNorm layer is a normalisation *and* an activation in one formula, found by evolution
# ([Liu, Brock, Simonyan and Le, NeurIPS 2020](https://arxiv.org/abs/2004.02967)). Here are the
# formulas, what they do to activations, and two claims checked with numbers.
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
# ## The formulas
#
# $x$ is an activation map `[N, H, W, C]`; $s^2$ is a variance and $\mu$ a mean over the axes below
# it: $b$ batch, $w, h$ the map, $c/g$ the channels of a group. $\sigma$ is the sigmoid and $v$ a
# learned vector, one number per channel. All end in the usual $y\,\gamma + \beta$.
#
# | | formula | looks at |
# |---|---|---|
# | BN-ReLU | $\max\left(\frac{x - \mu_{b,w,h}(x)}{\sqrt{s^2_{b,w,h}(x)}},\, 0\right)$ | the batch |
# | GN-Swish | $z\,\sigma(v z)$ with $z = \frac{x - \mu_{w,h,c/g}(x)}{\sqrt{s^2_{w,h,c/g}(x)}}$ | one image |
# | EvoNorm-B0 | $\frac{x}{\max\left(\sqrt{s^2_{b,w,h}(x)},\; v x + \sqrt{s^2_{w,h}(x)}\right)}$ | the batch |
# | EvoNorm-B1 | $\frac{x}{\max\left(\sqrt{s^2_{b,w,h}(x)},\; (x + 1)\sqrt{\mu_{w,h}(x^2)}\right)}$ | the batch |
# | EvoNorm-B2 | $\frac{x}{\max\left(\sqrt{s^2_{b,w,h}(x)},\; \sqrt{\mu_{w,h}(x^2)} - x\right)}$ | the batch |
# | EvoNorm-S0 | $\frac{x\,\sigma(v x)}{\sqrt{s^2_{w,h,c/g}(x)}}$ | one image |
# | EvoNorm-S1 | $\frac{x\,\sigma(x)}{\sqrt{s^2_{w,h,c/g}(x)}}$ | one image |
# | EvoNorm-S2 | $\frac{x\,\sigma(x)}{\sqrt{\mu_{w,h,c/g}(x^2)}}$ | one image |
#
# $x$ is divided but never centred, and no EvoNorm can be split into "a normalisation, then an
# activation".

# %%
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt

from evonorm_jax import norm_act
from evonorm_jax.analysis.runs import layer_label
from evonorm_jax.analysis.style import clean_axes, layer_style

LAYERS = ["bn_relu", "gn_swish", "evonorm_b0", "evonorm_s0"]


def apply_layer(name, x, **fields):
    """The layer as it starts to train: scale 1, bias 0, v = 1. Epsilon 0 is the bare formula."""
    groups = {"num_groups": 1} if name.startswith(("gn", "evonorm_s")) else {}
    layer = norm_act(name, **{"epsilon": 0.0, "use_running_average": False} | groups | fields)()
    y, _ = layer.init_with_output(jax.random.key(0), x)
    return y


x = jax.random.normal(jax.random.key(1), (16, 16, 16, 8))
print(f"{jax.default_backend()}: x is {x.shape}, mean {x.mean():.3f}, std {x.std():.3f}")

# %% [markdown]
# ## What they do to activations
#
# Above: output against input for one channel of one image, with the whole input multiplied by
# 1/4, 1 and 4 (the horizontal axis is divided by the same factor). B0 bends towards $1/v$ on the
# right and is linear on the left; S0 goes from a straight line (small inputs: $\sigma \approx
# 1/2$) to a ReLU (large ones). Below: how outputs are distributed when the input has mean 0, and
# mean 2. The two on the left subtract the mean and see no difference; EvoNorms keep it.

# %%
# The widest line first, so that curves which coincide are seen as three.
SCALES = {
    4.0: {"linewidth": 6, "alpha": 0.3},
    1.0: {"linewidth": 2.2},
    0.25: {"linewidth": 1.4, "linestyle": ":", "color": "black"},
}
MEANS = {0.0: 0.75, 2.0: 0.3}

activations, axes = plt.subplots(2, len(LAYERS), figsize=(11, 5), layout="constrained")
for column, name in zip(axes.T, LAYERS, strict=True):
    colour = layer_style(name, LAYERS)["color"]
    for scale, look in SCALES.items():
        inputs = np.asarray(x[0, :, :, 0]).ravel()
        outputs = np.asarray(apply_layer(name, scale * x)[0, :, :, 0]).ravel()
        order = inputs.argsort()
        look = {"color": colour, **look, "label": f"{scale:g} x"}
        column[0].plot(inputs[order], outputs[order], **look)
    for mean, alpha in MEANS.items():
        outputs = np.asarray(apply_layer(name, x + mean)).ravel()
        edges = np.linspace(-2.5, 5, 76)
        column[1].hist(
            outputs, edges, density=True, color=colour, alpha=alpha, label=f"mean {mean:g}"
        )
    column[0].set(title=layer_label(name), xlabel="x", ylim=(-2.2, 3.2))
    column[1].set(xlabel="y", yticks=[], ylim=(0, 1.2))
    for axis in column:
        clean_axes(axis)
        axis.legend(frameon=False, fontsize=8, loc="upper left" if axis is column[0] else "best")
axes[0, 0].set_ylabel("y")
axes[1, 0].set_ylabel("density of y")
activations.suptitle("Four norm-activation layers on normal inputs")
activations

# %% [markdown]
# ## Scale invariance
#
# Does the layer notice when its input is multiplied by a number? Multiplying by a power of two
# rounds nothing, so an invariant layer must give *the same bits*. B0 does: all that stands above
# and below its fraction bar is multiplied alike. S0 does not: the sigmoid sees $x$ as it comes.
# Weights in front of an invariant layer may grow without changing what the network computes.

# %%
CHECKED = [*LAYERS, "frn", "evonorm_b1", "evonorm_b2", "evonorm_s1", "evonorm_s2"]

changes = {
    name: [
        float(jnp.abs(apply_layer(name, scale * x) - apply_layer(name, x)).max())
        for scale in (0.25, 4.0, 1024.0)
    ]
    for name in CHECKED
}
print("largest change of an output when x is multiplied by\n")
print(f"{'':12}{'1/4':>10}{'4':>10}{'1024':>10}")
for name, values in changes.items():
    print(f"{layer_label(name):12}" + "".join(f"{value:10.3g}" for value in values))

assert max(changes["evonorm_b0"]) == 0.0
assert min(changes["evonorm_s0"]) > 0.1

# %% [markdown]
# With the layers' usual epsilon (1e-5, inside the roots) invariance ends where variances come
# near it:

# %%
for scale in (4.0, 0.25, 0.01, 0.001):
    y = apply_layer("evonorm_b0", scale * x, epsilon=1e-5)
    change = float(jnp.abs(y - apply_layer("evonorm_b0", x, epsilon=1e-5)).max())
    print(f"x times {scale:<6g} variance {scale**2:<8.2g} largest change {change:.2g}")

# %% [markdown]
# ## S0 is not GN-Swish
#
# Both divide by the standard deviation of a group and multiply by a sigmoid. In GN-Swish the
# sigmoid sees the *normalised* $z$; in S0 it sees $x$ itself, and $x$ is not centred. On inputs
# that happen to have mean 0 and standard deviation 1 in every group the two agree; on all others
# they do not.

# %%
group = (1, 2, 3)  # one group: map and channels of an image
normalised = (x - x.mean(group, keepdims=True)) / x.std(group, keepdims=True)
INPUTS = {
    "mean 0, std 1": normalised,
    "mean 0, std 3": 3 * normalised,
    "mean 1, std 1": normalised + 1,
}
differences = {}
for label, values in INPUTS.items():
    s0, gn_swish = (apply_layer(name, values) for name in ("evonorm_s0", "gn_swish"))
    differences[label] = float(jnp.abs(s0 - gn_swish).max())
    print(f"{label}: S0 and GN-Swish differ by up to {differences[label]:.2g}")

assert differences["mean 0, std 1"] < 1e-4
assert min(differences["mean 0, std 3"], differences["mean 1, std 1"]) > 0.1

# %% [markdown]
# ## Who looks at the other images
#
# The first image, once among its own batch and once among other images: B0 and BN-ReLU answer
# differently, S0 and GN-Swish do not. That is why the latter two keep working with one or two
# images per device, which [02_batch_size](02_batch_size.ipynb) shows.

# %%
other_batch = jnp.concatenate([x[:1], 3 * x[1:]])
influence = {
    name: float(jnp.abs(apply_layer(name, other_batch)[0] - apply_layer(name, x)[0]).max())
    for name in LAYERS
}
for name, change in influence.items():
    print(f"{layer_label(name):12}{change:8.3g}")

assert influence["evonorm_s0"] == influence["gn_swish"] == 0.0
assert min(influence["evonorm_b0"], influence["bn_relu"]) > 0.1
