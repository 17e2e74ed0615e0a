"""The launchers of searches, on the built-in digits: search, extend, rerank, draw; and mistakes."""

import dataclasses
import json
import os
import random
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from configs.search import cifar10_evonorm_b, cifar10_evonorm_s, cifar10_random_layers
from evonorm_jax.data.config import check_fields
from evonorm_jax.errors import UserError
from evonorm_jax.graphs import Graph
from evonorm_jax.search.engine.protocol import ProxyProtocol
from evonorm_jax.search.run import proxy_ranking
from evonorm_jax.search.run.driver import SearchSettings
from evonorm_jax.search.run.ledger_format import LEDGER_FILE
from evonorm_jax.search.run.ledger_reader import read_ledger
from evonorm_jax.search.run.rerank import RerankConfig
from tests.experiments import command_line

CONFIG = "configs/search/cifar10_evonorm_s.py:smoke"
MODULES = {"b": cifar10_evonorm_b, "s": cifar10_evonorm_s}


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "search"
    result = command_line.run("search", f"--config={CONFIG}", f"--workdir={workdir}", "--workers=1")
    assert result.returncode == 0, result.stderr
    return workdir, result


def test_a_search_ends_with_its_best_layer(searched):
    workdir, result = searched
    contents = read_ledger(workdir)
    scored = [entry for entry in contents.entries if entry.is_scored]
    assert len(scored) == 4
    assert all(entry.place is not None for entry in contents.entries)
    best = contents.entries.best(1)[0]
    assert Graph.load(workdir / "best.json") == best.candidate.graph
    metadata = json.loads((workdir / "best.json").read_text())["metadata"]
    assert metadata == {"candidate": best.id, "scores": dict(best.verdict.scores)}
    assert f"scored 4 of 4  best {best.mean:.2f} % (candidate {best.id})" in result.stdout
    assert result.stderr == ""
    assert contents.starts[0]["command"][1:3] == ["-m", "experiments.search"]


def test_the_same_command_resumes_and_a_larger_budget_extends(searched, tmp_path):
    workdir, _ = searched
    before = list(read_ledger(workdir).entries)
    arguments = [f"--config={CONFIG}", f"--workdir={workdir}", "--workers=1"]
    again = command_line.run("search", *arguments, "--config.search.max_scored=5")
    assert again.returncode == 0, again.stderr
    entries = list(read_ledger(workdir).entries)
    assert entries[: len(before)] == before
    assert sum(entry.is_scored for entry in entries) == 5


def test_the_best_are_ranked_again_and_drawn(searched):
    workdir, _ = searched
    result = command_line.run("rerank", f"--workdir={workdir}", "--workers=1")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    contents = read_ledger(workdir)
    assert set(contents.reranked) == {(e.id, 0) for e in contents.entries if e.is_scored}
    winners = sorted(path.name for path in (workdir / "winners").iterdir())
    assert winners == ["1.json", "2.json", "3.json"]
    best = max(max(result.scores.values()) for result in contents.reranked.values())
    saved = json.loads((workdir / "winners" / "1.json").read_text())["metadata"]
    assert saved["scores"] == {"resnet50_cifar": best}
    assert dict(contents.reranked[saved["candidate"], 0].scores) == saved["scores"]
    assert re.search(rf"^ +\* +{saved['candidate']} ", result.stdout, re.MULTILINE)

    drawn = command_line.run("plot", str(workdir))
    assert drawn.returncode == 0, drawn.stderr
    files = {line.rpartition("/")[2] for line in drawn.stdout.split()}
    assert files >= {"progress.png", "fates.png", "winner_1.png", "reranked.csv"}
    assert not files & {"scatter.png", "front.png"}  # they compare networks, and there is one
    assert "at the larger budget" in (workdir / "figures" / "README.md").read_text()


def verdicts(workdir):
    """What a search found, without when and how fast."""
    found = []
    for entry in read_ledger(workdir).entries:
        verdict = dataclasses.replace(entry.verdict, seconds=0.0)
        found.append((entry.candidate, entry.seed, entry.function, entry.place, verdict))
    return found


def workers_of(process):
    """Process ids of a driver's workers."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(i) for i in children if b"spawn_main" in Path(f"/proc/{i}/cmdline").read_bytes()]


@pytest.mark.slow
def test_kills_change_nothing_of_what_is_found(tmp_path):
    """The driver, and the worker, at random moments; then the search that nobody has killed."""
    workdir, rng = tmp_path / "search", random.Random(0)
    search = [f"--config={CONFIG}", "--config.search.max_scored=12", "--workers=1"]
    arguments = [*search, f"--workdir={workdir}"]
    process = command_line.start("search", *arguments)
    for target in ("driver", "worker", "driver", "worker", "worker", "driver"):
        while not (workers_of(process) and (workdir / LEDGER_FILE).exists()):
            assert process.poll() is None
            time.sleep(0.1)
        time.sleep(rng.uniform(2, 12))
        assert process.poll() is None, "the search ended before it was killed"
        before = [entry for entry in read_ledger(workdir).entries if entry.place is not None]
        if target == "driver":
            process.kill()
            process.communicate()
            process = command_line.start("search", *arguments)
        else:
            os.kill(workers_of(process)[0], signal.SIGKILL)
        after = list(read_ledger(workdir).entries)
        assert all(after[entry.id] == entry for entry in before)
    _, stderr = process.communicate(timeout=300)
    assert (process.returncode, stderr) == (0, "")
    whole = tmp_path / "whole"
    assert command_line.run("search", *search, f"--workdir={whole}").returncode == 0
    assert verdicts(workdir) == verdicts(whole)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([f"--config={CONFIG}", "--config.seed=1"], r"another config.*\n  seed: 0 there, 1 here"),
        ([f"--config={CONFIG}", "--workers=0"], "--workers=0: at least one worker"),
        (
            [f"--config={CONFIG}", "--config.search.criterion=best"],
            "criterion='best'; it must be pareto or",
        ),
        (["--config=configs/search/cifar10_evonorm_s.py:fast"], "knows small, tiny, deep, smoke"),
    ],
)
def test_mistakes_are_one_message_and_change_nothing(searched, refusal, arguments, message):
    from experiments import search

    workdir, _ = searched
    before = list(read_ledger(workdir).entries)
    said = refusal(search.main, *arguments, f"--workdir={workdir}")
    assert re.match(f"search: .*{message}", said)
    assert "Traceback" not in said
    assert read_ledger(workdir).entries == before


@pytest.mark.parametrize("series", ["b", "s"])
@pytest.mark.parametrize("form", ["", "small", "tiny", "smoke"])
def test_every_form_of_the_configs_is_complete(series, form):
    config = MODULES[series].get_config(form)
    plain = json.loads(json.dumps(config.to_dict()))
    settings = SearchSettings.from_config(plain)
    assert settings.space.batch_moments == (series == "b")
    assert settings.space.num_nodes == 10
    rerank = RerankConfig.from_config(plain["rerank"])
    assert (rerank.num_candidates, rerank.num_winners) == (10, 3)
    assert rerank.protocol.num_steps > settings.protocol.num_steps
    assert len(settings.protocol.anchors) == (1 if form == "smoke" else 3)
    check_fields(config.dataset)
    if form != "smoke":  # layers are not chosen by the images that they are reported on
        assert (config.dataset.train_split, config.dataset.eval_split) == (
            "train[:90%]",
            "train[90%:]",
        )


@pytest.mark.parametrize("form", ["npz", "npz,tiny", "smoke,npz"])
def test_a_form_combines_with_a_source(form):
    config = MODULES["s"].get_config(form)
    assert (config.dataset.name, config.dataset.source) == ("cifar10", "npz")
    assert config.dataset.eval_split == "train[90%:]"
    assert config.search == MODULES["s"].get_config(form.replace("npz", "").strip(",")).search


@pytest.mark.parametrize(
    ("series", "num_steps", "schedule"), [("b", 2_000, "constant"), ("s", 5_000, "cosine")]
)
def test_the_whole_form_is_the_published_protocol(series, num_steps, schedule):
    protocol = ProxyProtocol.from_dict(MODULES[series].get_config().protocol.to_dict())
    assert protocol.num_steps == num_steps
    assert protocol.schedule == schedule
    assert (protocol.batch_size, protocol.crop_size, protocol.eval_batch_size) == (128, 24, 512)
    assert (protocol.learning_rate, protocol.momentum, protocol.weight_decay) == (0.1, 0.9, 1e-4)
    assert (protocol.quality_steps, protocol.quality_accuracy) == (100, 20.0)
    stability = protocol.stability
    assert (stability.num_steps, stability.max_gradient_norm) == (100, 1e8)


@pytest.mark.parametrize(("form", "steps"), [("", [50]), ("small", [50]), ("tiny", [20, 50])])
def test_only_the_tiny_networks_are_given_up_early(form, steps):
    """BN-ReLU in the small MobileNetV2 has a mean loss of 2.37 at step 20, and passes."""
    config = cifar10_evonorm_b.get_config(form)
    assert [rule["step"] for rule in config.protocol.abort_rules] == steps


def test_the_deep_form_is_a_ranked_protocol():
    """But for what rejects, of which a ranking has nothing."""
    config = cifar10_evonorm_b.get_config("deep,npz")
    protocol = ProxyProtocol.from_dict(config.protocol.to_dict())
    ranked = proxy_ranking.PROXIES["mobile"].protocol
    names = ("quality_accuracy", "nonfinite_rejects", "stability", "filters", "abort_rules")
    rejections = {name: getattr(ranked, name) for name in names}
    assert dataclasses.replace(protocol, **rejections) == ranked
    assert (protocol.quality_steps, protocol.quality_accuracy) == (80, 15.0)
    assert [rule.step for rule in protocol.abort_rules] == [60]
    assert (config.dataset.image_size, config.dataset.pad) == (8, 1)
    reranked = ProxyProtocol.from_dict(config.rerank.protocol.to_dict())
    long = proxy_ranking.LONG_TRAINING.protocol
    assert (reranked.anchors, reranked.num_steps) == (long.anchors, long.num_steps)
    assert (reranked.crop_size, reranked.schedule) == (long.crop_size, long.schedule)
    assert cifar10_evonorm_s.get_config("deep,folder").protocol.num_steps == 160


@pytest.mark.parametrize("form", ["deep", "deep,tfds"])
def test_the_deep_form_needs_small_images(form):
    with pytest.raises(UserError, match="take deep,folder or deep,npz"):
        cifar10_evonorm_b.get_config(form)


def test_random_layers_are_all_trained():
    plain = json.loads(json.dumps(cifar10_random_layers.get_config().to_dict()))
    settings = SearchSettings.from_config(plain)
    protocol = settings.protocol
    assert (settings.search.strategy, settings.search.max_scored) == ("random", 5_000)
    assert protocol.filters is None
    assert (protocol.quality_accuracy, protocol.stability.num_steps, protocol.abort_rules) == (
        0,
        0,
        (),
    )


@pytest.mark.parametrize("series", ["b", "s"])
def test_an_unknown_form_is_refused(series):
    with pytest.raises(
        UserError, match=r"'fast' .* knows small, tiny, deep, smoke, tfds, folder, npz\."
    ):
        MODULES[series].get_config("fast")


def test_the_config_is_printed(monkeypatch, capsys, tmp_path):
    from experiments import search
    from experiments.process import run_main

    arguments = [
        "--print_config",
        "--config.seed=7",
        f"--config={CONFIG}",
        f"--workdir={tmp_path / 'search'}",
    ]
    monkeypatch.setattr(sys, "argv", ["search", *arguments])
    run_main(search.main)
    assert json.loads(capsys.readouterr().out)["seed"] == 7
    assert not (tmp_path / "search").exists()
