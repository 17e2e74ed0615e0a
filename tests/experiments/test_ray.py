"""The launchers with `--ray local`: a real cluster of this machine, which a signal ends as well.

For this, `pip install -e ".[cluster]"` and `pytest -m cluster`.
"""

import importlib.util
import signal
import time

import pytest

from evonorm_jax.search.run.ledger_format import LEDGER_FILE
from evonorm_jax.search.run.ledger_reader import read_ledger
from tests.experiments import command_line
from tests.experiments.test_search import CONFIG as SEARCH
from tests.experiments.test_sweep import NAMES, TWO_CELLS, outcome

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="pip install ray"),
]
SWEEP = [*TWO_CELLS, "--ray=local", "--cpus_per_run=1"]


def start(module, *arguments):
    # Ray leaves files to the garbage collector, and warns of its own defaults.
    return command_line.start(module, *arguments, warnings="ignore")


def end(process, number=None):
    """Exit code and stdout, after a signal where one is given."""
    if number is not None:
        process.send_signal(number)
    stdout, stderr = process.communicate(timeout=300)
    assert "Traceback" not in stderr
    return process.returncode, stdout


def scored(workdir):
    if not (workdir / LEDGER_FILE).exists():
        return 0
    return sum(entry.is_scored for entry in read_ledger(workdir).entries)


def test_a_signal_ends_a_search_and_the_same_command_goes_on(tmp_path):
    arguments = [f"--config={SEARCH}", f"--workdir={tmp_path}"]
    process = start("search", *arguments, "--ray=local", "--config.search.max_scored=100")
    deadline = time.monotonic() + 200
    while not scored(tmp_path):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    code, stdout = end(process, signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    assert "SIGTERM: the same command goes on from here." in stdout
    found = scored(tmp_path)
    again = [*arguments, "--workers=1", f"--config.search.max_scored={found}"]
    code, stdout = end(start("search", *again))
    assert code == 0
    assert f"scored {found} of {found}" in stdout


def test_a_signal_ends_a_sweep_and_the_same_command_goes_on(tmp_path):
    arguments = [*SWEEP, "--jobs=1", f"--workdir={tmp_path}"]
    process = start("sweep", *arguments)
    command_line.wait_for_checkpoint(process, tmp_path / NAMES[0], 2)
    code, stdout = end(process, signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    assert f"start      {NAMES[0]} on " in stdout
    assert f"stopped    {NAMES[0]} at step " in stdout
    assert "SIGTERM: the same command goes on from here." in stdout
    assert not (tmp_path / NAMES[0] / "summary.json").exists()
    code, stdout = end(start("sweep", *arguments))
    assert code == 0
    assert f"resume     {NAMES[0]} on " in stdout
    assert "2 of 2 finished" in stdout
    assert {run.steps for run in outcome(tmp_path)} == {40}


def test_failed_runs_are_reported_with_their_log(tmp_path):
    broken = [f"--only={NAMES[1]}", "--config.model.fields.depth=9"]
    arguments = [argument for argument in SWEEP if not argument.startswith("--only")]
    code, stdout = end(start("sweep", *arguments, *broken, f"--workdir={tmp_path}"))
    assert code == 1
    assert f"failed: {NAMES[1]} (exit code 2)" in stdout
    assert f"log: {tmp_path / NAMES[1]}.log" in stdout
    assert "0 of 1 finished, 1 failed" in stdout
