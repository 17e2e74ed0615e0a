"""The best evaluation: its checkpoint is kept, and a run ends when nothing better comes."""

import io
import json
import math

import jax
import pytest

from configs import recipes
from evonorm_jax.errors import UserError
from evonorm_jax.metrics import CLASSIFICATION
from evonorm_jax.training import train_and_evaluate
from evonorm_jax.training.best import BestEvaluation, find_best_step
from evonorm_jax.training.evaluation import evaluate_checkpoint
from evonorm_jax.training.tasks import Evaluated, Evaluation
from tests.training.tasks.regression import Regression

ONE_DEVICE = jax.devices()[:1]
ERRORS = {1: 0.5, 2: 0.3, 3: 0.4, 4: 0.3, 5: 0.9, 6: 0.35, 7: 0.6, 8: 0.7}


class Scripted(Regression):
    """Its error, of which less is better, is that of `ERRORS` at every step."""

    def eval_step(self, state, resident, batch):
        return Evaluated({"step": state.step, "batches": jax.numpy.ones(())})

    @property
    def evaluations(self):
        return {"eval": Evaluation(self.eval_step, error_of)}


def error_of(sums, rows):
    return {"error": ERRORS[round(sums["step"] / sums["batches"])]}


@pytest.fixture
def config():
    config = recipes.smoke(recipes.digits("evonorm_s0"))
    config.task = f"{__name__}:Scripted"
    config.eval_every_epochs = 0.25  # after every step
    config.keep_checkpoints = 1
    return config


def train(config, workdir):
    stream = io.StringIO()
    summary = train_and_evaluate(config, workdir, devices=ONE_DEVICE, progress_stream=stream)
    return summary, stream.getvalue()


def stop_at(step):
    return lambda self, now: now == step


def saved(workdir):
    return {int(path.name) for path in (workdir / "checkpoints").iterdir()}


def test_the_best_checkpoint_stays_beside_the_newest_whatever_stops_the_run(
    config, tmp_path, monkeypatch
):
    for step in (3, 6):  # the evaluation of that step is made by the resumed run
        with monkeypatch.context() as patch:
            patch.setattr("evonorm_jax.training.loop.Preemption.requested", stop_at(step))
            assert train(config, tmp_path)[0] == {}
        assert saved(tmp_path) == {2, step}
    summary, _ = train(config, tmp_path)
    assert saved(tmp_path) == {2, 8}
    assert (summary["eval/error"], summary["best_step"], summary["best_value"]) == (0.7, 2, 0.3)
    assert evaluate_checkpoint(config, tmp_path, "best") == {"step": 2, "eval/error": 0.3}
    assert evaluate_checkpoint(config, tmp_path) == {"step": 8, "eval/error": 0.7}


def test_a_best_checkpoint_that_was_not_kept_is_not_replaced_by_another(config, tmp_path):
    config.keep_best_checkpoint = False
    train(config, tmp_path)
    assert saved(tmp_path) == {8}
    with pytest.raises(UserError, match=r"was eval/error 0.3000 \(step 2\), but .*\(there: 8\)"):
        evaluate_checkpoint(config, tmp_path, "best")


def test_a_run_ends_after_as_many_evaluations_as_its_patience(config, tmp_path, monkeypatch):
    config.early_stopping_patience = 3
    with monkeypatch.context() as patch:  # what came before the stop counts, too
        patch.setattr("evonorm_jax.training.loop.Preemption.requested", stop_at(4))
        assert train(config, tmp_path)[0] == {}
    summary, text = train(config, tmp_path)
    assert (summary["steps"], summary["best_step"]) == (5, 2)
    assert "last 3 was better than eval/error 0.3000 (step 2): stopped early at step 5 of" in text
    again, text = train(config, tmp_path)
    assert again == summary
    assert "is finished: 5 steps. Nothing to do." in text

    (tmp_path / "summary.json").unlink()  # as if killed before it was written
    after_the_kill, _ = train(config, tmp_path)
    assert {**after_the_kill, "train_seconds": 0} == {**summary, "train_seconds": 0}
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "eval/error" in row] == [1, 2, 3, 4, 5]


def test_what_is_not_a_number_is_never_the_best(tmp_path):
    best = BestEvaluation(CLASSIFICATION, patience=2)
    for step, value in ((1, math.nan), (2, 0.4), (3, None), (4, 0.5)):
        best.add(step, value)
    assert (best.step, best.value, best.evaluations_since, best.exhausted) == (4, 0.5, 0, False)
    none = BestEvaluation(CLASSIFICATION, patience=2)
    none.add(1, None)
    none.add(2, math.nan)
    assert none.step is None
    assert none.exhausted


def test_evaluations_past_the_newest_checkpoint_do_not_count(tmp_path):
    rows = [{"step": s, "eval/top1": v} for s, v in ((10, 0.6), (20, 0.5), (30, 0.9))]
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 40, "eval/to')
    (tmp_path / "metadata.json").write_text(json.dumps({"metrics": CLASSIFICATION.to_json()}))
    (tmp_path / "config.json").write_text("{}")
    assert find_best_step(tmp_path, [10, 20]) == 10
    assert find_best_step(tmp_path, [20, 30]) == 30
    with pytest.raises(UserError, match="has no eval/top1 of a saved step"):
        find_best_step(tmp_path, [5])
