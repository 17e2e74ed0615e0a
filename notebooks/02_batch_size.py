# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/)
#
# # Accuracy against images per worker
#
# BatchNorm estimates means and variances from the images that one worker sees at a time. Few
# images, poor estimates: it falls apart. EvoNorm-S0 looks at one image alone. Here is that
# experiment in small, live on the built-in 8x8 digits, and then the recorded one.
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
# ## A small sweep, live
#
# Two layers, three sizes, one seed, two epochs: six runs. Nothing else changes between the
# columns. The learning rate is per 256 images and durations are in epochs, so both follow from
# the batch size when a run starts. The same with more layers, sizes and seeds, in parallel and
# resumable, is `python -m experiments.sweep`.

# %%
import tempfile
import time

import jax
from matplotlib import pyplot as plt  # lets Jupyter show figures

from configs.sweeps.batch_size_sweep import batch_size_sweep
from configs.sweeps.digits_batch_size import get_config
from evonorm_jax.analysis import accuracy_table, draw_accuracy, load_sweep, read_results
from evonorm_jax.sweeps import create_cells
from evonorm_jax.training import train_and_evaluate
from experiments.launch import override

plt.rcParams["figure.dpi"] = 90
# Runs of one layer share the programs that draw its weights and evaluate it.
jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp(prefix="evonorm_jax_cache_"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
workdir = Path(tempfile.mkdtemp(prefix="evonorm_jax_sweep_"))
overrides = batch_size_sweep(("bn_relu", "evonorm_s0"), (32, 8, 2), num_seeds=1, group_size=8)

for cell in create_cells(overrides, workdir):
    config = get_config()
    config.num_epochs = 2.0
    config.schedule.warmup_epochs = 0.5
    config.eval_every_epochs = 2.0
    config.model.fields.num_filters = 8  # half the width: this is about seconds
    started = time.monotonic()
    summary = train_and_evaluate(override(config, cell.arguments), cell.workdir)
    seconds = time.monotonic() - started
    print(f"{cell.name:60}{100 * summary['eval/top1']:6.1f} %  {seconds:4.1f} s")

# %% [markdown]
# Every run is a directory; figure and table are made from these alone. One seed has no spread,
# and two epochs are short: small sizes make more updates, which helps them at first.

# %%
live = load_sweep(workdir)
print(accuracy_table(live))
live_accuracy = draw_accuracy(live)
live_accuracy

# %%
assert live.complete
losses = {
    name: live.difference((live.find(name), 2), (live.find(name), 32)).value
    for name in ("bn_relu", "evonorm_s0")
}
for name, points in losses.items():
    print(
        f"{live.layer_label(live.find(name))}: {points:+.1f} points from 32 to 2 images per worker"
    )

# %% [markdown]
# ## The recorded sweep
#
# Five layers, six sizes, three seeds, ten epochs: 90 runs, of which
# `results/digits_batch_size/results.csv` keeps a row each. `make figure` runs it anew (17
# minutes on two cores beside other work). Bars are one standard deviation over the seeds.

# %%
recorded = read_results(ROOT / "results" / "digits_batch_size" / "results.csv")
print(accuracy_table(recorded))
draw_accuracy(recorded)

# %% [markdown]
# BN-ReLU loses from 64 to 2 images per worker; the difference is compared with its standard error
# over the seeds. EvoNorm-S0 loses nothing.

# %%
for layer in recorded.layers:
    difference = recorded.difference((layer, 2), (layer, 64))
    beyond = "more" if difference.beyond_spread else "not more"
    print(
        f"{recorded.layer_label(layer):12}{difference.value:+6.1f} ± {difference.error:.1f} "
        f"points, {beyond} than twice the standard error"
    )
