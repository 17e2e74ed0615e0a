# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/)
#
# # How the layers were found
#
# EvoNorms were not designed but evolved ([Liu, Brock, Simonyan and Le, NeurIPS
# 2020](https://arxiv.org/abs/2004.02967)): a layer is a small graph of primitives, a search draws
# such graphs, changes them at random and keeps what trains well. Here is what a graph is, what
# most of them are worth, and a search small enough to watch.
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
# ## A layer as a graph
#
# Four nodes are given: the input $x$, the constant 0, and two trained vectors, $v_0$ (starts at
# 0) and $v_1$ (at 1). Every further node applies one of 24 primitives to earlier nodes; the last
# one is the output. The paper's graphs have ten of them, most of which the output does not depend
# on: they are grey here, and there for mutations to pick up.

# %%
import collections
import tempfile
import time

import jax
import numpy as np
from matplotlib import pyplot as plt

from evonorm_jax.graphs import LIBRARY, PRIMITIVES, Graph, canonical, formula
from evonorm_jax.graphs.drawing import graph_figure
from evonorm_jax.search.evolution.mutation import mutate_layer
from evonorm_jax.search.evolution.space import SearchSpace, pad_graph, random_graph

rng = np.random.default_rng(7)
for name in ("bn_relu", "evonorm_b0", "evonorm_s0"):
    print(f"{name:12}y = {formula(LIBRARY[name], 'unicode')}")

b0 = pad_graph(LIBRARY["evonorm_b0"], rng)
graph_figure(b0)

# %% [markdown]
# A graph has one text form, and what it computes has one canonical form, however it is written.

# %%
print(b0)
print(canonical(b0))
assert Graph.from_text(str(b0)) == b0
assert canonical(b0) == canonical(LIBRARY["evonorm_b0"])
print(len(PRIMITIVES), "primitives:", *PRIMITIVES)

# %% [markdown]
# A random graph, and children of EvoNorm-S0: one node is drawn anew, until the layer is another
# one. In the space of the S series no layer may look at the batch.

# %%
s_space = SearchSpace(batch_moments=False)
s0 = pad_graph(LIBRARY["evonorm_s0"], rng, s_space)
for _ in range(6):
    print("child: ", formula(mutate_layer(s0, rng, s_space), "unicode"))
graph_figure(random_graph(rng))

# %% [markdown]
# ## What random graphs are worth
#
# Nearly nothing. Most do not even see $x$, and of the others most give every image, or every
# place of the map, the same output. That costs a millisecond to find out, without training.

# %%
from evonorm_jax.search.engine.filters import reject


def shares(graphs):
    """Percent of the graphs by reason of rejection; "-" is none."""
    reasons = collections.Counter(str(r.reason) if (r := reject(g)) else "-" for g in graphs)
    return {reason: 100 * count / len(graphs) for reason, count in reasons.items()}


outcomes = {
    "random graphs": shares([random_graph(rng) for _ in range(400)]),
    "children of EvoNorm-S0": shares([mutate_layer(s0, rng, s_space) for _ in range(200)]),
}
for reason in dict.fromkeys(reason for found in outcomes.values() for reason in found):
    row = "".join(f"{found.get(reason, 0):8.1f} %" for found in outcomes.values())
    print(f"{reason.replace('_', ' '):24}{row}")
assert outcomes["random graphs"]["-"] < outcomes["children of EvoNorm-S0"]["-"]

# %% [markdown]
# ## A search
#
# The real thing trains every candidate in three networks and runs for days (`python -m
# experiments.search`; [layer search](../docs/layer_search.md)). This one takes the built-in digits,
# one small network, and accuracy after 60 steps of training. `Search` proposes (`ask`) and is
# told what became of it (`tell`); nothing is compiled for a candidate: it runs primitive by
# primitive between the parts of the network that all candidates share.

# %%
from evonorm_jax.data import dataset_config
from evonorm_jax.search.engine.anchors import Anchor
from evonorm_jax.search.engine.engine import Engine
from evonorm_jax.search.engine.filters import Duplicates, screen
from evonorm_jax.search.engine.protocol import ProxyProtocol, Stability
from evonorm_jax.search.evolution.search_state import Search, SearchConfig

network = Anchor("resnet50_cifar", {"stage_sizes": (1,), "num_filters": 8})
protocol = ProxyProtocol(
    anchors=(network,),
    crop_size=0,
    batch_size=64,
    num_steps=60,
    quality_steps=20,
    quality_accuracy=15.0,
    quality_examples=0,
    stability=Stability(num_steps=2),
    abort_rules=(),
)
engine = Engine(protocol, dataset_config("digits", "embedded"))


def run_search(strategy, seed, num_scored):
    """Searches until so many layers are scored."""
    config = SearchConfig(
        strategy=strategy, seed=seed, population_size=4, tournament_fraction=0.5,
        num_scores=1, max_scored=num_scored,
    )  # fmt: skip
    search, duplicates = Search(config, s_space), Duplicates()
    while (candidate := search.ask()) is not None:
        rejection, function = screen(candidate.graph, candidate.id, protocol.filters, duplicates)
        if rejection is not None:
            search.tell(candidate.id, rejected=rejection.reason)
            continue
        verdict = engine.evaluate(candidate.graph, candidate.id, function)
        if verdict.reason:
            search.tell(candidate.id, rejected=verdict.reason)
        else:
            search.tell(candidate.id, scores=list(verdict.scores.values()))
    return search


searches = {}
for strategy in ("random", "evolution"):
    start = time.perf_counter()
    searches[strategy] = search = run_search(strategy, seed=1, num_scored=12)
    print(f"{strategy}: {time.perf_counter() - start:.1f} s, {jax.default_backend()}")
    print("  rejected:", dict(search.rejections.most_common()))
    print(f"  best, {search.best.mean:.1f} %:", formula(search.best.graph, "unicode"))

# %% [markdown]
# Random search draws graphs to the end; evolution does so for its first members alone, and then
# mutates the better of two. With twelve layers each this is to watch, not to compare.

# %%
from evonorm_jax.analysis.style import COLOURS, clean_axes

live, (fates_axis, progress_axis) = plt.subplots(1, 2, figsize=(10.5, 3.6), layout="constrained")
reasons = {reason: None for found in outcomes.values() for reason in found if reason != "-"}
reasons = [*reasons, "-"]
for index, (origin, found) in enumerate(outcomes.items()):
    places = np.arange(len(reasons)) + 0.4 * (index - 0.5)
    values = [found.get(reason, 0) for reason in reasons]
    fates_axis.barh(places, values, 0.4, color=COLOURS[1 - index], label=origin)
labels = [reason.replace("_", " ") if reason != "-" else "worth training" for reason in reasons]
fates_axis.set_yticks(range(len(reasons)), labels)
fates_axis.invert_yaxis()
fates_axis.set(xlabel="share (%)", title="what becomes of graphs")
fates_axis.legend(frameon=False, fontsize=8)
looks = [{"color": COLOURS[1], "linewidth": 3}, {"color": COLOURS[0], "linestyle": "--"}]
for look, (strategy, search) in zip(looks, searches.items(), strict=True):
    means = [member.mean for member in search.scored]
    numbers = np.arange(1, len(means) + 1)
    progress_axis.plot(numbers, means, "o", color=look["color"], markersize=4, alpha=0.6)
    best = np.maximum.accumulate(means)
    progress_axis.step(numbers, best, where="post", label=f"best by {strategy}", **look)
progress_axis.set(
    xlabel="layers scored", ylabel="accuracy after 60 steps (%)", title="two searches"
)
progress_axis.legend(frameon=False, fontsize=8)
for axis in (fates_axis, progress_axis):
    clean_axes(axis)
live

# %% [markdown]
# ## The winner, as a layer
#
# Its graph, saved to a file, is a layer wherever a layer has a name: `norm_act("graph:FILE")`, a
# network, or `python -m experiments.train --config.model.norm_act=graph:FILE`. Here it trains in a
# network that the search has not seen.

# %%
winner = max((search.best for search in searches.values()), key=lambda member: member.mean)
graph_figure(winner.graph)

# %%
from configs import recipes
from evonorm_jax import create_model
from evonorm_jax.training import train_and_evaluate

folder = Path(tempfile.mkdtemp(prefix="evonorm_jax_search_"))
winner.graph.save(folder / "winner.json")
layer = f"graph:{folder / 'winner.json'}"
print(create_model("cifar_resnet20", num_classes=10, norm_act=layer).norm_act().graph)

config = recipes.digits(layer)
config.num_epochs = 3.0
summary = train_and_evaluate(config, folder / "run")
print({name: round(float(value), 3) for name, value in summary.items() if "top1" in name})

# %% [markdown]
# ## Recorded searches
#
# `results/search/evolution_against_random_deep` has three searches of each strategy on CIFAR-10,
# each of about half an hour of one CPU core: a row for each scored layer, with what had been spent
# by then. Searches of one seed begin with the same 16 random layers.

# %%
import csv

recorded = ROOT / "results" / "search" / "evolution_against_random_deep" / "scored.csv"
rows = list(csv.DictReader(recorded.read_text(encoding="utf-8").splitlines()))
networks = list(rows[0])[list(rows[0]).index("steps") + 1 : -1]
spent, axis = plt.subplots(figsize=(5.5, 3.6), layout="constrained")
for name in dict.fromkeys(row["search"] for row in rows):
    chosen = [row for row in rows if row["search"] == name]
    means = [np.mean([float(row[network]) for network in networks]) for row in chosen]
    best = formula(Graph.from_text(chosen[int(np.argmax(means))]["graph"]), "unicode")
    print(f"{name:12}{len(chosen):4} scored, best {max(means):.2f} %: {best}")
    axis.step(
        [int(row["steps"]) for row in chosen],
        np.maximum.accumulate(means),
        where="post",
        color=COLOURS[chosen[0]["strategy"] != "evolution"],
        label=chosen[0]["strategy"] if name.endswith("_0") else None,
    )
axis.set(xlabel="training steps", ylabel="best mean accuracy (%)")
axis.legend(frameon=False, fontsize=8, loc="lower right")
clean_axes(axis)
spent
