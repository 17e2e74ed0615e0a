import io
import json
import time
from types import SimpleNamespace

import pytest

from evonorm_jax import display
from evonorm_jax.placement import places_for_runs
from evonorm_jax.sweeps import LocalRuns, live_table
from evonorm_jax.sweeps.live_table import LiveTable, running_rows, summary_line
from evonorm_jax.sweeps.runner import CellState, SweepRunner
from tests.sweeps.fake_sweep import Printer, cells


@pytest.fixture
def runner(tmp_path):
    """Five cells: one finished, one failed, one at half of its 100 steps, two to come."""
    five = cells(tmp_path, 5)
    (tmp_path / five[0].name).mkdir(parents=True)
    (five[0].workdir / "summary.json").write_text('{"eval/top1": 0.9}')
    runner = SweepRunner(five, LocalRuns(places_for_runs(2), lambda cell: []), Printer())
    runner.states[five[1].name] = CellState.FAILED
    runner.states[five[2].name] = CellState.RUNNING
    runner.run_seconds = [60.0]
    started = time.time()
    running = five[2]
    running.workdir.mkdir()
    (running.workdir / "metadata.json").write_text('{"starts": [{"resolved": {"num_steps": 100}}]}')
    rows = [{"step": s, "time": started + s, "eval/top1": 0.8} for s in (10, 50)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (running.workdir / "metrics.jsonl").write_text(text)
    runner.running = [SimpleNamespace(cell=running, started=started, where="CPU")]
    return runner


def test_the_summary_counts_and_estimates(runner):
    # Half of the running one and two waiting, a minute each, two at a time.
    assert summary_line(runner) == (
        "1 of 5 finished, 2 waiting, 1 running, 1 failed, about 1m15s left"
    )


def test_a_row_says_run_step_accuracy_and_time_left(runner):
    assert running_rows(runner) == [("bn_relu/seed=2", "50/100", "80.00 %", "50s left")]


def test_a_run_that_has_logged_nothing_is_starting(runner, tmp_path):
    (tmp_path / "bn_relu" / "seed=2" / "metadata.json").unlink()
    (tmp_path / "bn_relu" / "seed=2" / "metrics.jsonl").unlink()
    assert running_rows(runner) == [("bn_relu/seed=2", "starting", "", "")]
    runner.running[0].where = ""  # on a cluster that has no room for it yet
    assert running_rows(runner) == [("bn_relu/seed=2", "waits for room", "", "")]


def test_plain_lines_where_the_stream_is_no_terminal(runner, monkeypatch):
    monkeypatch.setattr(live_table, "_PLAIN_SECONDS", 0.0)
    stream = io.StringIO()
    with LiveTable(stream) as shown:
        shown.event("start      bn_relu/seed=2 on CPU")
        shown.update(runner)
    assert stream.getvalue().splitlines() == [
        "start      bn_relu/seed=2 on CPU",
        "running    bn_relu/seed=2  50/100  80.00 %  50s left",
        summary_line(runner),
    ]


def test_a_table_in_place_on_a_terminal(runner, monkeypatch):
    monkeypatch.setattr(display, "_LIVE_SECONDS", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    stream = io.StringIO()
    stream.isatty = lambda: True
    with LiveTable(stream) as shown:
        shown.update(runner)
        shown.update(runner)
    text = stream.getvalue()
    assert text.count("bn_relu/seed=2") >= 2
    assert "50/100" in text
    assert "accuracy" in text
    assert "1 of 5 finished" in text
    assert "\x1b[" in text  # the cursor goes back up
