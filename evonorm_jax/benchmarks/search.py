"""Candidates decided per hour: the search engine against plain training of each candidate."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from evonorm_jax.benchmarks.plain_search import PlainVerdict, clock, judge
from evonorm_jax.benchmarks.results import Report, Result
from evonorm_jax.benchmarks.suite import Options
from evonorm_jax.data import dataset_config
from evonorm_jax.errors import UserError
from evonorm_jax.graphs import LIBRARY, Graph
from evonorm_jax.graphs.graph import X
from evonorm_jax.search.engine.anchors import ANCHOR_SIZES, Anchor
from evonorm_jax.search.engine.engine import Engine
from evonorm_jax.search.engine.filters import Duplicates, reject, screen
from evonorm_jax.search.engine.protocol import ProxyProtocol, Stability
from evonorm_jax.search.engine.verdicts import DecidingStage, Verdict
from evonorm_jax.search.evolution.mutation import mutate_layer
from evonorm_jax.search.evolution.space import SearchSpace, pad_graph, random_graph

OURS = "the engine"
PLAIN = "whole networks compiled, all steps on all anchors"
WATCHED = "the same, sees x, stops at NaN"
THRIFTY = "the same, stops at the first anchor that rejects"
NOTES = (
    "Decided means: rejected, or trained for 100 steps on three anchors, at least 20 % on each.",
    "The engine decides the whole list. The plain way is timed on a random sample of each of three "
    "strata, weighted by their size: candidates that the engine trained, others that see x, and "
    "those that do not. Its variants are timed in the same runs. What the engine compiles once for "
    "all candidates is a row of its own and not in the rates.",
    "`equal verdicts`: of the candidates that both trained, how many both passed or both rejected.",
    "On a CPU, seconds are processor time of all threads, so that other work on the machine does "
    "not count, and rates are for one core.",
)


@dataclasses.dataclass(frozen=True)
class SearchWorkload:
    """The amount of work that is measured.

    Attributes:
      num_random: Number of random graphs that the engine decides.
      num_children: Number of one-mutation children that the engine decides.
      plain_trained: Number of candidates of each list that are judged the plain way, out of those
        that the engine trained.
      plain_others: Number of candidates that are judged the plain way out of those that see x and
        were not trained, and again out of those that do not see x.
      protocol: Protocol of their training. Without abort rules, the two ways would differ only in
        the filters.
    """

    num_random: int
    num_children: int
    plain_trained: int
    plain_others: int
    protocol: ProxyProtocol


# The tiny ones, but with a ResNet at the full resolution, where networks of the usual size spend
# most of their time.
_ANCHORS = (
    *ANCHOR_SIZES["tiny"][:2],
    Anchor("resnet50_cifar", (("stage_sizes", (1, 1, 1)), ("num_filters", 8))),
)
_FULL = SearchWorkload(
    num_random=1_000,
    num_children=60,
    plain_trained=32,
    plain_others=8,
    protocol=ProxyProtocol(_ANCHORS, num_steps=100, quality_examples=0, stability=Stability(0)),
)
_QUICK = SearchWorkload(
    num_random=10,
    num_children=2,
    plain_trained=4,
    plain_others=1,
    protocol=ProxyProtocol(
        (
            Anchor(
                "mobilenet_v2_cifar",
                (("stage_sizes", (1,)), ("width_multiplier", 0.25), ("stem", "imagenet")),
            ),
        ),
        crop_size=0,
        batch_size=32,
        num_steps=4,
        quality_steps=4,
        quality_examples=0,
        abort_rules=(),
        stability=Stability(0),
    ),
)


def random_candidates(number: int, seed: int = 0) -> list[Graph]:
    """Returns random graphs, as random search proposes them."""
    rng = np.random.default_rng(seed)
    return [random_graph(rng, SearchSpace()) for _ in range(number)]


def children(number: int, seed: int = 0) -> list[Graph]:
    """Returns mutations of the known layers that train.

    The layers are taken in turn and padded to the size of the search space, 10 nodes.
    """
    rng = np.random.default_rng(seed)
    parents = [graph for graph in LIBRARY.values() if reject(graph) is None]
    space = SearchSpace(num_nodes=10)
    fitting = [graph for graph in parents if len(graph.nodes) <= space.num_nodes]
    return [
        mutate_layer(pad_graph(fitting[i % len(fitting)], rng, space), rng, space)
        for i in range(number)
    ]


def measure(options: Options) -> Report:
    """Decides both lists with the engine, then a sample of each the plain way.

    Raises:
      UserError: `--data`, the .npz file of CIFAR-10, is missing on a full run.
    """
    workload = _QUICK if options.quick else _FULL
    if options.quick:
        data = dataset_config("digits", "embedded", eval_split="test[:64]")
    elif options.data is None:
        raise UserError("the search suite trains on CIFAR-10: name its .npz file with --data")
    else:
        # A thousand images of the training split stand for the validation set.
        splits = {"train_split": "train[:45000]", "eval_split": "train[49000:]"}
        data = dataset_config("cifar10", "npz", path=options.data, **splits)
    engine = Engine(workload.protocol, data)
    known = [graph for graph in LIBRARY.values() if reject(graph) is None]
    warm_up = sum(_decide(engine, known)[1])  # compiles the primitives in all shapes
    options.log(f"known layers, and compiling what all candidates share: {warm_up:.0f} s")
    results = []
    for name, graphs in (
        ("random graphs", random_candidates(workload.num_random)),
        ("one-mutation children", children(workload.num_children)),
    ):
        results += _measure_list(options, workload, engine, name, graphs)
    group = "once for a process"
    results.append(Result(group, "all known layers, compiling included", OURS, (warm_up,)))
    return Report(
        suite="search",
        title="Layer search: time for each candidate",
        notes=NOTES,
        results=tuple(results),
        comparisons=((OURS, PLAIN), (OURS, WATCHED), (OURS, THRIFTY)),
    )


def _measure_list(
    options: Options, workload: SearchWorkload, engine: Engine, name: str, graphs: Sequence[Graph]
) -> list[Result]:
    decided, seconds = _decide(engine, graphs)
    ours = float(np.mean(seconds))
    trained = [i for i, verdict in enumerate(decided) if verdict.steps]
    seeing = [i for i in range(len(graphs)) if X in graphs[i].effective and i not in trained]
    blind = [i for i, graph in enumerate(graphs) if X not in graph.effective]
    strata = [trained, seeing, blind]
    options.log(f"{name}: {len(graphs)} decided in {sum(seconds):.0f} s, {len(trained)} trained")
    plain = _sample_plain(options, workload, engine, graphs, strata)
    both = [i for i in trained if i in plain]
    equal = [(decided[i].reason is None) == plain[i].passed for i in both]
    for i in np.flatnonzero(np.logical_not(equal)):
        options.log(f"  verdicts differ: {graphs[both[i]]} {decided[both[i]]} {plain[both[i]]}")

    def mean(field: str) -> float:
        """Returns the mean over the list, with each stratum weighted by its size."""
        total = 0.0
        for stratum in filter(None, strata):
            sample = [getattr(plain[i], field) for i in stratum if i in plain]
            total += len(stratum) * float(np.mean(sample))
        return total / len(graphs)

    sampled: dict[str, float] = {"candidates timed": len(plain)}
    verdicts: dict[str, float] = {"both trained": len(both), "equal verdicts": sum(equal)}
    rows = {
        OURS: (ours, _figures(decided, seconds) | verdicts),
        PLAIN: (mean("seconds"), sampled),
        WATCHED: (mean("seconds_watched"), sampled),
        THRIFTY: (mean("seconds_thrifty"), sampled),
    }
    return [
        Result(
            group="seconds per candidate",
            case=name,
            contender=contender,
            seconds=(seconds,),
            figures={"candidates per hour": 3600 / seconds, **figures},
        )
        for contender, (seconds, figures) in rows.items()
    ]


def _decide(engine: Engine, graphs: Sequence[Graph]) -> tuple[list[Verdict], list[float]]:
    """Decides each graph as a search does; returns the verdicts and the seconds of each."""
    now = clock()
    duplicates = Duplicates()
    verdicts, times = [], [now()]
    for number, graph in enumerate(graphs):
        rejection, function = screen(graph, number, engine.protocol.filters, duplicates)
        if rejection is None:
            verdicts.append(engine.evaluate(graph, 0, function))
        else:
            verdicts.append(Verdict(str(DecidingStage.FILTERS), str(rejection.reason)))
        times.append(now())
    return verdicts, [float(seconds) for seconds in np.diff(times)]


def _figures(verdicts: Sequence[Verdict], seconds: Sequence[float]) -> dict[str, float]:
    """Returns the figures of what the engine's time went into."""
    passed = [verdict.stage == DecidingStage.SCORED for verdict in verdicts]
    return {
        "candidates timed": len(verdicts),
        "trained": sum(verdict.steps > 0 for verdict in verdicts),
        "passed": sum(passed),
        "share of time on those that pass, %": 100 * float(np.dot(passed, seconds) / sum(seconds)),
    }


def _sample_plain(
    options: Options,
    workload: SearchWorkload,
    engine: Engine,
    graphs: Sequence[Graph],
    strata: Sequence[Sequence[int]],
) -> dict[int, PlainVerdict]:
    """Judges a random sample of each stratum; returns the verdicts by place in the list."""
    rng = np.random.default_rng(0)
    sizes = (workload.plain_trained, workload.plain_others, workload.plain_others)
    plain: dict[int, PlainVerdict] = {}
    for stratum, size in zip(strata, sizes, strict=True):
        for i in map(int, rng.permutation(np.array(stratum, int))[:size]):
            plain[i] = judge(engine.trainers, engine.protocol, graphs[i], seed=0)
            options.log(f"  plain, {len(plain)}: {plain[i]}")
    return plain
