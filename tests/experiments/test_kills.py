"""A hundred kills of the real commands at random moments, and what they end with after them.

    pytest tests/experiments/test_kills.py -m "slow and hostile" -s

A process is killed as no program can help it (SIGKILL), and the same command started again, until
it has ended; then the next one is begun, until all kills are spent. What was going on at each kill
is told from the files of the process while it is stopped, and printed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from evonorm_jax.run_files import METRICS_FILE, SUMMARY_FILE, read_json, read_json_lines
from evonorm_jax.search.run.ledger_format import LEDGER_FILE
from evonorm_jax.training.checkpoint import Checkpoints
from evonorm_jax.training.experiment import create_experiment
from experiments import launch
from tests.experiments import command_line, test_search, test_sweep

pytestmark = [
    pytest.mark.slow,
    pytest.mark.hostile,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

NUM_STEPS = 40
WAIT_SECONDS = 1800.0  # for what takes some 10 s where nothing else is running
TRAIN = [
    "--config=configs/digits_resnet_evonorm_s0.py:smoke",
    "--config.num_epochs=10.0",
    "--config.checkpoint_every_steps=2",
    "--config.log_every_steps=3",  # so that a row is begun before a checkpoint and ended after it
    "--config.eval_every_epochs=4.0",
]
SEARCH = [f"--config={test_search.CONFIG}", "--workers=1"]


@dataclasses.dataclass
class Target:
    """A command that is killed.

    Attributes:
      module: The launcher.
      arguments: Its arguments, without `--workdir`.
      last_record: When it last wrote into a folder what it has worked out, in seconds since 1970.
      phase: What it was doing, told from the files in the folder.
      start_up: Seconds from its start to its first record, as last seen.
      work: Seconds from there to its end in a new folder, as last seen.
    """

    module: str
    arguments: list[str]
    last_record: Callable[[Path], float]
    phase: Callable[[Path], str]
    start_up: float = 0.0
    work: float = 0.0

    def start(self, workdir: Path) -> tuple[subprocess.Popen, float]:
        """The process, and when it was started."""
        started = time.time()
        process = command_line.start(self.module, *self.arguments, f"--workdir={workdir}")
        return process, started

    def wait_for_work(self, process: subprocess.Popen, workdir: Path, started: float) -> None:
        while process.poll() is None and self.last_record(workdir) < started:
            if time.time() - started > WAIT_SECONDS:
                process.kill()
                raise AssertionError(process.communicate())
            time.sleep(0.05)
        self.start_up = time.time() - started

    def run(self, workdir: Path) -> None:
        """To the end, as a user would have it."""
        is_new = not workdir.exists()
        process, started = self.start(workdir)
        self.wait_for_work(process, workdir, started)
        self.end(process, started, is_new)

    def end(self, process: subprocess.Popen, started: float, is_new: bool) -> None:
        """Waits for the end; notes how long the work takes, where none of it was done before."""
        assert_ended_well(process)
        if is_new:
            self.work = time.time() - started - self.start_up

    def kill(self, workdir: Path, rng: random.Random) -> str | None:
        """Starts the command and kills it; what it was doing, None if it has ended before."""
        is_new = not workdir.exists()
        process, started = self.start(workdir)
        seconds = rng.uniform(0, self.start_up)
        if rng.random() < 0.6:
            self.wait_for_work(process, workdir, started)
            seconds = rng.uniform(0, self.work)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        if process.poll() is not None:
            self.end(process, started, is_new)
            return None
        os.kill(process.pid, signal.SIGSTOP)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGSTOP)
        phase = self.phase(workdir) if self.last_record(workdir) >= started else "start-up"
        for pid in (*map(int, children), process.pid):
            os.kill(pid, signal.SIGKILL)
        process.communicate()
        return phase

    def kill_often(
        self, folder: Path, num_kills: int, seed: int, check: Callable[[Path], None]
    ) -> None:
        """Kills it so many times; `check` looks at every folder whose command has ended."""
        rng = random.Random(seed)
        kills: Counter[str] = Counter()
        num_ended = 0
        while kills.total() < num_kills:
            workdir = folder / f"killed_{num_ended}"
            while kills.total() < num_kills and (phase := self.kill(workdir, rng)):
                kills[phase] += 1
                print(f"{self.module}: kill {kills.total()}: {phase}", flush=True)
            if phase is not None:
                self.run(workdir)
            check(workdir)
            num_ended += 1
            print(f"{self.module}: end {num_ended} is that of the unkilled one", flush=True)
        print(f"{self.module}: {kills.total()} kills, {dict(kills)}; {num_ended} ends", flush=True)
        assert kills.total() == num_kills
        assert kills["start-up"] < num_kills  # work was interrupted, too


def assert_ended_well(process: subprocess.Popen) -> None:
    stdout, stderr = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 0, stdout + stderr
    assert "Traceback" not in stderr, stderr  # XLA may complain of a slow machine


def last_row(workdir: Path) -> float:
    """When the newest row of a run was logged."""
    path = workdir / METRICS_FILE
    rows = [line.row for line in read_json_lines(path, last_bytes=4096) if line.row]
    return rows[-1]["time"] if rows else 0.0


def train_phase(workdir: Path) -> str:
    checkpoints = workdir / "checkpoints"
    if (workdir / SUMMARY_FILE).exists():
        return "after the summary"
    if any(not path.name.isdigit() for path in checkpoints.glob("*")):
        return "saving"
    return "end" if (checkpoints / str(NUM_STEPS)).exists() else "training"


def states(workdir: Path, arguments: list[str]) -> dict[int, object]:
    """The states in the checkpoints of a run by step, optimizer and all."""
    path, *overrides = arguments
    config = launch.parse_config(path.removeprefix("--config="), overrides)
    shapes = create_experiment(config, jax.devices()[:1]).state_shapes()
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return {step: checkpoints.restore(shapes, step)[0] for step in checkpoints.steps}


def rows(workdir: Path) -> list[dict]:
    """The log of a run without what differs from one day to the next."""
    found = [json.loads(line) for line in (workdir / METRICS_FILE).read_text().splitlines()]
    return [
        {name: row[name] for name in row if name not in ("time", "train/images_per_second")}
        for row in found
    ]


def summary(workdir: Path) -> dict:
    found = read_json(workdir / SUMMARY_FILE)
    assert found.pop("train_seconds") > 0
    return found


def assert_same_run(workdir: Path, other: Path, arguments: list[str]) -> None:
    one, two = states(workdir, arguments), states(other, arguments)
    assert one.keys() == two.keys()
    assert max(one) == NUM_STEPS
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert rows(workdir) == rows(other)
    assert summary(workdir) == summary(other)


def test_fifty_kills_of_a_run(tmp_path):
    target = Target("train", TRAIN, last_row, train_phase)
    whole = tmp_path / "whole"
    target.run(whole)
    assert [r["step"] for r in rows(whole) if "train/loss" in r] == [*range(3, NUM_STEPS, 3), 40]
    target.kill_often(tmp_path, 50, 0, lambda workdir: assert_same_run(workdir, whole, TRAIN))


def cells(workdir: Path) -> list[Path]:
    return [workdir / name for name in test_sweep.NAMES]


def sweep_phase(workdir: Path) -> str:
    """Of the cell that is being run, or will be next."""
    unfinished = [cell for cell in cells(workdir) if not (cell / SUMMARY_FILE).exists()]
    if not unfinished:
        return "end"
    return train_phase(unfinished[0]) if unfinished[0].exists() else "between two runs"


def test_twenty_five_kills_of_a_sweep(tmp_path):
    target = Target(
        "sweep",
        [*test_sweep.TWO_CELLS, "--jobs=1"],
        lambda workdir: max(map(last_row, cells(workdir))),
        sweep_phase,
    )
    whole = tmp_path / "whole"
    target.run(whole)

    def check(workdir: Path) -> None:
        assert test_sweep.outcome(workdir) == test_sweep.outcome(whole)
        for cell, other in zip(cells(workdir), cells(whole), strict=True):
            assert rows(cell) == rows(other)
            assert summary(cell) == summary(other)

    target.kill_often(tmp_path, 25, 1, check)


def last_commit(workdir: Path) -> float:
    """When the ledger of a search was last written."""
    files = list(workdir.glob(f"{LEDGER_FILE}*"))
    return max((file.stat().st_mtime for file in files), default=0.0)


def search_phase(workdir: Path) -> str:
    logs = list((workdir / "logs").glob("*"))
    if (workdir / "best.json").exists() or not (workdir / f"{LEDGER_FILE}-wal").exists():
        return "end"
    return "evaluating" if logs else "proposing"


def test_twenty_five_kills_of_a_search(tmp_path):
    target = Target("search", SEARCH, last_commit, search_phase)
    whole = tmp_path / "whole"
    target.run(whole)

    def check(workdir: Path) -> None:
        assert test_search.verdicts(workdir) == test_search.verdicts(whole)
        assert (workdir / "best.json").read_text() == (whole / "best.json").read_text()

    target.kill_often(tmp_path, 25, 2, check)
