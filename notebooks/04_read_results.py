# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/)
#
# # Reading results
#
# What runs, sweeps and benchmarks write are plain files: JSON, JSON lines and CSV. This notebook
# reads one of each kind into tables and figures.
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
# ## A run directory
#
# Two short runs first, so that there is something to read; any `--workdir` of `experiments.train`
# will do, on a machine without JAX as well.

# %%
import csv
import json
import tempfile

import numpy as np
from matplotlib import pyplot as plt

from configs import recipes
from evonorm_jax.analysis import accuracy_table, draw_runs, load_run, read_results, run_labels
from evonorm_jax.analysis.style import clean_axes, layer_style
from evonorm_jax.training import train_and_evaluate

folder = Path(tempfile.mkdtemp(prefix="evonorm_jax_runs_"))
for name in ("bn_relu", "evonorm_s0"):
    config = recipes.digits(name)
    config.num_epochs = 3.0
    config.model.fields.num_filters = 8
    config.log_every_steps = 11
    train_and_evaluate(config, folder / name)

print(*sorted(path.name for path in (folder / "evonorm_s0").iterdir()), sep="\n")

# %% [markdown]
# `load_run` gives the config, every metric as three arrays (step, epoch, value) and, of a run
# that has ended, the summary.

# %%
runs = [load_run(folder / name) for name in ("bn_relu", "evonorm_s0")]
print(", ".join(runs[0].metric_names))
for label, run in zip(run_labels(runs), runs, strict=True):
    steps, epochs, values = run.series["eval/top1"]
    curve = ", ".join(
        f"{epoch:g}: {value:.1%}" for epoch, value in zip(epochs, values, strict=True)
    )
    print(f"{label:12} top-1 by epoch {curve}; {run.summary['parameters']:,} parameters")
draw_runs(runs)

# %% [markdown]
# ## A recorded sweep
#
# One row per run. `read_results` groups the seeds; `csv` does for everything else.

# %%
sweep = read_results(ROOT / "results" / "digits_batch_size" / "results.csv")
print(accuracy_table(sweep))

curves, axis = plt.subplots(figsize=(5.5, 3.6), layout="constrained")
for layer in sweep.layers:
    points = [run for run in sweep.runs if run.layer == layer]
    style = layer_style(layer, sweep.layers) | {"linestyle": "", "alpha": 0.7}
    axis.plot(
        [run.train_seconds for run in points],
        [run.score for run in points],
        label=sweep.layer_label(layer),
        **style,
    )
axis.set(xscale="log", xlabel="seconds of training", ylabel="top-1 accuracy (%)")
axis.set_title(f"Every run of the sweep, {sweep.runs[0].hardware}", fontsize=10)
axis.legend(frameon=False, fontsize=8)
clean_axes(axis)
curves

# %%
with (ROOT / "results" / "cifar10_jpeg_resnet20" / "results.csv").open(newline="") as stream:
    rows = list(csv.DictReader(stream))
for row in rows:
    accuracies = " ".join(f"{float(row[f'epoch{epoch}_top1']):5.1f} %" for epoch in (1, 2, 3))
    print(f"{row['layer']:35}{accuracies}   {row['cpu_seconds_per_step']} s per step")

# %% [markdown]
# ## A benchmark
#
# `experiments.benchmark` writes every sample of every round, with the machine and the versions.
# Ratios are taken within a round, so that what slows the machine for a while slows both alike.

# %%
files = sorted((ROOT / "results" / "benchmarks").glob("*/layers.json"))
benchmarks = [json.loads(file.read_text()) for file in files]
for benchmark in benchmarks:
    environment = benchmark["environment"]
    print(f"{environment['processor']}, {environment['cores']} cores, {environment['devices']}")
    print(f"  {environment['date'][:10]}, commit {environment['commit'][:7]}")
    ratios = {}
    for ratio in benchmark["ratios"]:
        key = (ratio["group"], f"{ratio['contender']} / {ratio['rival']}")
        ratios.setdefault(key, []).append(ratio["median"])
    for (group, pair), medians in ratios.items():
        mean = np.exp(np.mean(np.log(medians)))
        print(f"  {group:10}{pair:45}{mean:6.2f}  ({len(medians)} shapes)")

# %%
SHOWN = ("BN-ReLU, Flax", "BN-ReLU", "EvoNorm-B0", "EvoNorm-S0")
benchmark = benchmarks[0]
groups = list(dict.fromkeys(result["group"] for result in benchmark["results"]))

layer_times, axes = plt.subplots(
    1, len(groups), figsize=(4.6 * len(groups), 3.6), layout="constrained", sharey=True
)
for axis, group in zip(np.atleast_1d(axes), groups, strict=True):
    results = [result for result in benchmark["results"] if result["group"] == group]
    cases = list(dict.fromkeys(result["case"] for result in results))
    for index, contender in enumerate(SHOWN):
        spreads = {r["case"]: r["spread"] for r in results if r["contender"] == contender}
        milliseconds = [
            [1000 * spreads[case][key] for case in cases] for key in ("median", "low", "high")
        ]
        median, low, high = np.array(milliseconds)
        axis.bar(
            np.arange(len(cases)) + 0.2 * (index - (len(SHOWN) - 1) / 2),
            median,
            width=0.19,
            yerr=(median - low, high - median),
            color=("#B0B0B0", "#0072B2", "#009E73", "#D55E00")[index],
            error_kw={"linewidth": 0.8},
            label=contender,
        )
    axis.set_xticks(range(len(cases)), cases, fontsize=8)
    axis.set_title(group, fontsize=10)
    clean_axes(axis)
np.atleast_1d(axes)[0].set_ylabel("milliseconds, median and quartiles")
np.atleast_1d(axes)[0].legend(frameon=False, fontsize=8)
layer_times.suptitle(
    f"{benchmark['title']}: {benchmark['environment']['processor']}, "
    f"{benchmark['environment']['cores']} cores",
    fontsize=10,
)
layer_times
