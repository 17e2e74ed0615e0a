import json

import jax
import pytest

from evonorm_jax.training import train_and_evaluate, writers
from tests.training.tasks import regression


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_rows_are_appended_one_by_one(tmp_path):
    with writers.create_writer(tmp_path, first_process=True, tensorboard=False) as writer:
        writer.write(1, {"train/loss": 2.5})
        assert rows(tmp_path)[0]["train/loss"] == 2.5  # there before the file is closed
        writer.write(2, {"train/loss": 1.5})
    assert [row["step"] for row in rows(tmp_path)] == [1, 2]


def test_only_the_first_process_writes(tmp_path):
    with writers.create_writer(tmp_path, first_process=False, tensorboard=True) as writer:
        writer.write(1, {"train/loss": 2.5})
    assert not list(tmp_path.iterdir())


def test_a_resumed_run_drops_what_it_makes_again_and_the_torn_row(tmp_path):
    lines = [json.dumps({"step": step}) for step in (10, 20, 30)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 4')
    assert writers.drop_after(tmp_path, 20) == 2
    assert [row["step"] for row in rows(tmp_path)] == [10, 20]
    assert writers.drop_after(tmp_path, 20) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.hostile
def test_what_is_no_event_goes_as_well(tmp_path, caplog):
    good = json.dumps({"step": 10, "note": "a\u2028b"})
    bad = [b"\x00\xff", b"[" * 100_000, b'{"step": null}', b'{"epoch": 3}', b"17"]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([*bad, good.encode()]))
    assert writers.drop_after(tmp_path, 20) == 5
    assert (tmp_path / "metrics.jsonl").read_text() == good + "\n"
    assert "metrics.jsonl:1 and 4 more lines" in caplog.text


def test_a_row_without_its_newline_is_completed(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 10}))
    assert writers.drop_after(tmp_path, 20) == 0
    with writers.create_writer(tmp_path, first_process=True, tensorboard=False) as writer:
        writer.write(30, {})
    assert [row["step"] for row in rows(tmp_path)] == [10, 30]


def test_values_that_are_not_finite_are_null(tmp_path):
    with writers.create_writer(tmp_path, first_process=True, tensorboard=False) as writer:
        writer.write(1, {"eval/loss": float("nan")})
    assert '"eval/loss": null' in (tmp_path / "metrics.jsonl").read_text()


def test_rows_are_found_by_step_and_metric(tmp_path):
    assert not writers.has_row(tmp_path, 1, "eval/loss")
    with writers.create_writer(tmp_path, first_process=True, tensorboard=False) as writer:
        writer.write(1, {"eval/loss": 0.5})
    assert writers.has_row(tmp_path, 1, "eval/loss")
    assert not writers.has_row(tmp_path, 1, "train/loss")
    assert not writers.has_row(tmp_path, 2, "eval/loss")


def test_nothing_to_drop_before_the_first_row(tmp_path):
    assert writers.drop_after(tmp_path, 0) == 0


class OwnWriter:
    """Keeps what it gets."""

    rows, closed = [], []

    def __init__(self, workdir, config):
        self.name = (workdir.name, config["seed"])

    def write(self, step, scalars):
        self.rows.append((*self.name, step, sorted(scalars)))

    def close(self):
        self.closed.append(self.name)


class ResumedWriter(OwnWriter):
    """Knows where a run goes on."""

    rows, closed = [], []

    def resume(self, step):
        self.rows.append(step)


def test_a_writer_of_your_own_is_told_where_a_run_goes_on(tmp_path):
    own = ResumedWriter(tmp_path, {"seed": 0})
    with writers.create_writer(
        tmp_path, first_process=True, tensorboard=False, others=[lambda: own], start_step=6
    ) as writer:
        writer.write(7, {"train/loss": 0.5})
    assert own.rows == [6, (tmp_path.name, 0, 7, ["train/loss"])]


def test_a_writer_of_your_own_gets_every_row_and_is_closed(config, tmp_path):
    config.task = f"{regression.__name__}:Regression"
    config.metric_writers = (f"{__name__}:OwnWriter",)
    config.seed = 3
    config.log_every_steps = 4
    train_and_evaluate(config, tmp_path / "run", devices=jax.devices()[:1])
    expected = [
        ("run", 3, row["step"], sorted(row.keys() - {"step", "time"}))
        for row in rows(tmp_path / "run")
    ]
    assert len(expected) == 4
    assert OwnWriter.rows == expected
    assert OwnWriter.closed == [("run", 3)]
