"""A search of 200,000 scored candidates: the command that resumes it, and what reads its ledger.

pytest tests/search/run/test_large_ledger.py -m slow -s
"""

import contextlib
import json
import random
import sqlite3

import pytest

from evonorm_jax.graphs import Graph
from evonorm_jax.run_files import as_json
from evonorm_jax.search.evolution.search_state import Candidate, Search
from evonorm_jax.search.run.driver import NUM_CHECKED, SearchSettings
from evonorm_jax.search.run.ledger import Ledger
from evonorm_jax.search.run.ledger_format import LEDGER_FILE
from experiments import launch
from tests.experiments import command_line

pytestmark = pytest.mark.slow

NUM_CANDIDATES = 200_000
MAX_MEGABYTES = 300
CONFIG = "configs/search/cifar10_evonorm_s.py:smoke"
OVERRIDES = [
    "--config.search.population_size=1000",
    "--config.search.tournament_fraction=0.05",
]


def random_text(rng):
    """A graph of ten nodes, drawn much faster than the search does it."""
    nodes = ["x", "v0", "v1"]
    texts = []
    for index in range(4, 14):
        texts.append(f"n{index} = mul({rng.choice(nodes)}, {rng.choice(nodes)})")
        nodes.append(f"n{index}")
    return "; ".join(texts)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A ledger in which only those candidates are proposals of its search that a resume checks."""
    workdir = tmp_path_factory.mktemp("large") / "search"
    plain = as_json(launch.parse_config(CONFIG, OVERRIDES, "search").to_dict())
    plain["search"]["max_scored"] = NUM_CANDIDATES + 1  # the command's ends it where it is
    settings = SearchSettings.from_config(plain)
    search, rng = Search(settings.search, settings.space), random.Random(0)
    graphs = [Graph.from_text(random_text(rng)) for _ in range(2000)]
    texts = [graph.to_text() for graph in graphs]
    details = json.dumps({"losses": {"resnet50_cifar": [2.3 - i / 128 for i in range(20)]}})
    candidates, results = [], []
    for number in range(NUM_CANDIDATES):
        if number % (NUM_CANDIDATES // NUM_CHECKED):
            kind = rng.randrange(len(graphs))
            search.record(Candidate(number, graphs[kind]))
            text, parent = texts[kind], None
        else:
            candidate = search.ask()
            text, parent = candidate.graph.to_text(), candidate.parent
        function, score = f"{rng.getrandbits(96):024x}", round(rng.uniform(10, 90), 2)
        candidates.append((number, text, parent, 1, function, number, 1.7e9))
        scores = json.dumps({"resnet50_cifar": score})
        results.append((number, number, "scored", None, scores, 2, 1.5, details, 1.7e9))
        search.tell(number, scores=(score,))
    Ledger(workdir, plain).close()
    with contextlib.closing(sqlite3.connect(workdir / LEDGER_FILE)) as connection:
        connection.executemany("INSERT INTO candidates VALUES (?, ?, ?, ?, ?, ?, ?)", candidates)
        connection.executemany("INSERT INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", results)
        connection.commit()
    return workdir, search


def test_a_large_search_is_resumed_in_little_memory(large):
    workdir, search = large
    command = ["-m", "experiments.search", f"--config={CONFIG}", *OVERRIDES]
    stdout, megabytes = command_line.measure(*command, f"--workdir={workdir}", "--workers=1")
    best = f"best {search.best.mean:.2f} % (candidate {search.best.id})"
    assert f"scored {NUM_CANDIDATES:,} of 4  {best}  Pareto front {len(search.front())}" in stdout
    assert megabytes < MAX_MEGABYTES


def test_a_large_ledger_is_read_in_little_memory(large):
    workdir, search = large
    code = (
        "import sys; from evonorm_jax.search.run.ledger_reader import read_ledger;"
        "entries = read_ledger(sys.argv[1]).entries;"
        "print(len(entries), sum(entry.is_scored for entry in entries), entries.best(1)[0].id)"
    )
    stdout, megabytes = command_line.measure("-c", code, str(workdir))
    assert stdout == f"{NUM_CANDIDATES} {NUM_CANDIDATES} {search.best.id}"
    assert megabytes < MAX_MEGABYTES
