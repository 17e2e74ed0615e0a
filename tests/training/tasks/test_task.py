"""A task of another kind trains, resumes, evaluates and is shown by all that knows no task."""

import dataclasses
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import recipes
from evonorm_jax.analysis import plot_run
from evonorm_jax.analysis.runs import load_run
from evonorm_jax.analysis.sweep_files import load_sweep
from evonorm_jax.analysis.sweep_results import read_results, write_results
from evonorm_jax.data.in_memory import InMemoryPipeline
from evonorm_jax.errors import UserError
from evonorm_jax.sweeps import create_cells
from evonorm_jax.training import train_and_evaluate
from evonorm_jax.training.checkpoint import Checkpoints
from evonorm_jax.training.config import complete
from evonorm_jax.training.evaluation import Evaluator, evaluate_checkpoint
from evonorm_jax.training.experiment import create_experiment
from evonorm_jax.training.parallel import AXIS, positions
from evonorm_jax.training.run_directory import read_config
from evonorm_jax.training.tasks import Evaluated, Evaluation, find_task, means
from evonorm_jax.training.writers import has_row
from experiments.train import print_summary
from tests.training.tasks import regression
from tests.training.tasks.regression import Regression

ONE_DEVICE = jax.devices()[:1]


def regression_config():
    config = recipes.smoke(recipes.digits("evonorm_s0"))
    config.task = f"{regression.__name__}:Regression"
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Its config, the run directory, the summary and what was reported."""
    config, root = regression_config(), tmp_path_factory.mktemp("sweep")
    workdir, stream = root / "evonorm_s0" / "seed=0", io.StringIO()
    summary = train_and_evaluate(
        config, workdir, devices=ONE_DEVICE, progress_stream=stream, draw_curve=plot_run
    )
    return config, workdir, summary, stream.getvalue()


def final_params(workdir):
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.read_variables()[1]["params"]


def test_it_trains(finished):
    _, workdir, summary, text = finished
    assert "a line through ink: 65 parameters, on 1 x cpu" in text
    assert "of them warm-up, to pen rate 0.05" in text
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert losses[-1] < 0.5 * losses[0]
    assert {row["train/pen_rate"] for row in rows if "train/loss" in row} == {0.05}
    evaluations = {row["step"]: row["eval/error"] for row in rows if "eval/error" in row}
    assert set(evaluations) == {4, 8}
    assert summary["eval/error"] == evaluations[8] < evaluations[4]


def test_it_resumes_bit_for_bit(finished, tmp_path, monkeypatch):
    config, workdir, summary, _ = finished
    with monkeypatch.context() as patch:
        patch.setattr(
            "evonorm_jax.training.loop.Preemption.requested", lambda self, step: step == 3
        )
        assert train_and_evaluate(config, tmp_path, devices=ONE_DEVICE) == {}
    resumed = train_and_evaluate(config, tmp_path, devices=ONE_DEVICE)
    assert resumed["eval/error"] == summary["eval/error"]
    jax.tree.map(np.testing.assert_array_equal, final_params(tmp_path), final_params(workdir))


def test_its_rows_count_once_on_any_number_of_devices(finished):
    _, workdir, summary, _ = finished
    for batch_size in (16, 7):  # over all eight devices
        config = read_config(workdir)
        config.eval_batch_size = batch_size
        metrics = evaluate_checkpoint(config, workdir)
        assert (metrics["step"], metrics["eval/examples"]) == (8, 20)
        assert metrics["eval/error"] == pytest.approx(summary["eval/error"], rel=1e-5)


def test_a_batch_is_no_larger_than_the_split(finished, monkeypatch):
    """Ten images padded to a batch of 256 cost four times as long as ten images."""
    _, workdir, summary, _ = finished
    sizes, eval_batches = [], InMemoryPipeline.eval_batches

    def recorded(self, *, batch_size, hosts):
        sizes.append(batch_size)
        return eval_batches(self, batch_size=batch_size, hosts=hosts)

    monkeypatch.setattr(InMemoryPipeline, "eval_batches", recorded)
    config = read_config(workdir)
    config.eval_batch_size = 1000
    metrics = evaluate_checkpoint(config, workdir)
    assert (sizes, metrics["eval/examples"]) == ([20], 20)
    assert metrics["eval/error"] == pytest.approx(summary["eval/error"], rel=1e-5)


def test_it_is_drawn_and_said_by_its_own_names(finished, capsys):
    _, workdir, summary, _ = finished
    with Image.open(workdir / "curve.png") as image:
        assert image.size[0] > 1000  # two panels: the loss and the error
    run = load_run(workdir)
    assert run.metrics.main.axis_label == "median squared error (ink²)"
    print_summary(summary, workdir)
    assert (
        f"test error {summary['eval/error']:.4f} on fake images after 8 steps"
        in capsys.readouterr().out
    )


def test_a_sweep_of_it_is_shown_and_comes_back_from_its_table(finished, tmp_path):
    _, workdir, summary, _ = finished
    root = workdir.parents[1]
    (cell,) = create_cells([{"model.norm_act": "evonorm_s0", "seed": 0}], root)
    assert cell.final_value() == f"{summary['eval/error']:.4f}"
    assert cell.status().value == summary["eval/error"]
    sweep = load_sweep(root)
    assert (sweep.runs[0].score, sweep.has_papers_metric) == (summary["eval/error"], False)
    write_results(sweep, tmp_path / "results.csv")
    again = read_results(tmp_path / "results.csv")
    assert again.metrics.main == Regression.metrics.main
    assert again.runs[0].score == pytest.approx(summary["eval/error"])


class Drawing(Regression):
    """Leaves a file for each evaluation."""

    def artifacts(self, step, state, resident, workdir):
        assert not has_row(workdir, step, "eval/error")  # it would be lost to a kill
        weights = np.asarray(state.params["kernel"].addressable_data(0))
        np.save(workdir / f"weights_{step}.npy", weights)


def test_pictures_are_drawn_after_every_evaluation(finished, tmp_path):
    config = regression_config()
    config.task = f"{__name__}:Drawing"
    train_and_evaluate(config, tmp_path, devices=ONE_DEVICE)
    assert {path.name for path in tmp_path.glob("*.npy")} == {"weights_4.npy", "weights_8.npy"}
    np.testing.assert_array_equal(
        np.load(tmp_path / "weights_8.npy"), final_params(finished[1])["kernel"]
    )


class Worried(Regression):
    """Finds something wrong with every value."""

    def alarms(self, values):
        return {name: f"{name} looks wrong" for name in values if name in ("loss", "eval/error")}


def test_each_symptom_is_reported_once(tmp_path):
    config, stream = regression_config(), io.StringIO()
    config.task = f"{__name__}:Worried"
    train_and_evaluate(config, tmp_path, devices=ONE_DEVICE, progress_stream=stream)
    reported = [line for line in stream.getvalue().splitlines() if "looks wrong" in line]
    assert reported == ["step 1: loss looks wrong", "step 4: eval/error looks wrong"]


def test_an_evaluation_may_have_batches_and_a_state_of_its_own():
    """Counts 0 ... 9 in a state that is made from the first batch."""

    class Sampling(Regression):
        def batches(self, *, batch_size, hosts):
            for first in range(0, 10, batch_size):
                numbers = np.arange(first, first + batch_size)
                yield hosts.shard({"number": numbers, "mask": (numbers < 10).astype(np.float32)})

        def prepare(self, state, resident, batch):
            return state.replace(step=jax.lax.pmax(jnp.max(batch["number"]), AXIS))

        def sample(self, state, resident, batch):
            drawn = {"drawn": jnp.sum((batch["number"] + state.step) * batch["mask"])}
            drawn |= {
                "matrix": jnp.outer(batch["mask"], batch["mask"]),
                "count": batch["mask"].sum(),
            }
            return Evaluated(jax.lax.psum(drawn, AXIS))

        @property
        def evaluations(self):
            own = Evaluation(self.sample, self.summarize, self.batches, self.prepare, 10)
            return {**super().evaluations, "sampled": own}

        def summarize(self, sums, rows):
            assert sums["matrix"].shape == (2, 2)
            return {"trace": np.trace(sums.pop("matrix")), **means(sums, rows)}

    run = create_experiment(regression_config(), jax.devices()[:4])
    task = Sampling(run.config, run.pipeline, run.layout, run.durations)
    run = dataclasses.replace(run, task=task)
    state = run.parallel.replicate(run.create_state())
    resident = run.parallel.replicate(run.pipeline.resident())
    seen: list[tuple[int, int | None]] = []
    metrics = Evaluator(task, run.parallel, 8)(state, resident, lambda *counts: seen.append(counts))
    assert seen == [(0, 20), (8, 20), (16, 20), (20, 20), (0, 10), (8, 10), (10, 10)]
    assert metrics["eval/examples"] == 20
    assert metrics["sampled/examples"] == 10
    assert metrics["sampled/drawn"] == np.mean(np.arange(10)) + 7  # 7 is the last of the first 8
    assert metrics["sampled/trace"] == 10


@pytest.mark.parametrize(("most", "sizes"), [(256, [20]), (16, [16, 16]), (18, [20])])
def test_an_evaluation_computes_no_more_than_there_is(monkeypatch, most, sizes):
    run = create_experiment(regression_config(), jax.devices()[:4])
    shapes, seen, eval_batches = [], [], run.pipeline.eval_batches

    def recorded(**arguments):
        for batch in eval_batches(**arguments):
            shapes.append(batch["mask"].size)
            yield batch

    monkeypatch.setattr(run.pipeline, "eval_batches", recorded)
    state = run.parallel.replicate(run.create_state())
    resident = run.parallel.replicate(run.pipeline.resident())
    evaluator = Evaluator(run.task, run.parallel, most)
    metrics = evaluator(state, resident, lambda *counts: seen.append(counts))
    assert metrics["eval/examples"] == 20
    assert shapes == sizes
    assert seen == [(0, 20), *((min(most * (i + 1), 20), 20) for i in range(len(sizes)))]


def test_positions_are_those_of_the_global_batch():
    run = create_experiment(regression_config(), jax.devices()[:4])
    batch = run.parallel.shard({"index": np.zeros((4, 2), np.int32)})
    step = run.parallel.parallelize(lambda s, r, b: jax.lax.all_gather(positions(2), AXIS))
    found = step({}, {}, batch)
    assert np.asarray(found).ravel().tolist() == list(range(8))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "clasification",
            r"is unknown\. Did you mean classification\? Choose one of .* or name a class",
        ),
        ("nowhere:Task", "cannot be imported: No module named 'nowhere'"),
        ("json:Task", "cannot be imported: module 'json' has no attribute 'Task'"),
        ("json:loads", "is no class of evonorm_jax.training.tasks.Task"),
    ],
)
def test_unknown_tasks_are_refused(tmp_path, name, message):
    config = regression_config()
    config.task = name
    with pytest.raises(UserError, match=message):
        train_and_evaluate(config, tmp_path / "run", devices=ONE_DEVICE)
    assert not (tmp_path / "run").exists()


def test_a_task_without_initial_weights_refuses_them(tmp_path):
    config = regression_config()
    config.init_from = "weights.safetensors"
    with pytest.raises(UserError, match="starts from its seed alone"):
        train_and_evaluate(config, tmp_path / "run", devices=ONE_DEVICE)


def test_a_config_without_a_task_is_classification():
    config = regression_config()
    assert find_task(config) is Regression
    with config.unlocked():
        del config.task
    assert find_task(complete(config)).__name__ == "Classification"
