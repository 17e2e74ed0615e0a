"""A layer of a graph file trains by its name, and the run needs the file no longer."""

import json

import jax
import pytest

from configs import recipes
from evonorm_jax.analysis.runs import load_run
from evonorm_jax.errors import UserError
from evonorm_jax.graphs.graph import Graph
from evonorm_jax.training import train_and_evaluate
from evonorm_jax.training.evaluation import evaluate_checkpoint
from evonorm_jax.training.run_directory import read_config

# Batch and group moments, so that every field of the workers and groups reaches the layer.
GRAPH = Graph.from_text("n4 = std_bwh(x); n5 = rms_whcg(x); n6 = max(n4, n5); n7 = div(x, n6)")


def test_train_evaluate_and_resume(tmp_path):
    path, workdir = tmp_path / "winner.json", tmp_path / "run"
    GRAPH.save(path)
    config = recipes.smoke(recipes.digits(f"graph:{path}"))
    config.model.norm_act_fields.group_size = 4
    config.num_epochs = 1.0
    config.ema_decay = 0.0
    config.lock()
    summary = train_and_evaluate(config, workdir, devices=jax.devices()[:1])
    assert config.model.norm_act == f"graph:{path}", "the caller's config stays as it is"
    saved = json.loads((workdir / "config.json").read_text())["model"]["norm_act"]
    assert saved == f"graph:winner: {GRAPH}"
    assert load_run(workdir).norm_act == "winner"

    # The same command goes on where the file still holds that graph, and not where it has changed.
    assert train_and_evaluate(config, workdir, devices=jax.devices()[:1]) == summary
    Graph.from_text("n4 = tanh(x)").save(path)
    with pytest.raises(UserError, match=r"model.norm_act: 'graph:winner: n4 = std_bwh"):
        train_and_evaluate(config, workdir, devices=jax.devices()[:1])

    path.unlink()
    metrics = evaluate_checkpoint(read_config(workdir), workdir)
    assert metrics["eval/top1"] == summary["eval/top1"]
    with pytest.raises(UserError, match="there is no graph file"):
        train_and_evaluate(config, workdir, devices=jax.devices()[:1])
