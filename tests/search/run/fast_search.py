"""A search whose evaluations take milliseconds, and a driver of it to kill.

    python -m tests.search.run.fast_search WORKDIR [--workers N] [--seconds S] [--candidates N]

The evaluator is a pure function like the engine; it also writes to WORKDIR/evaluations.txt when it
starts and when it has ended, so that tests can see what was evaluated how often.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import signal
import sys
import time
from pathlib import Path

from evonorm_jax.placement import Place
from evonorm_jax.search.engine.verdicts import Verdict
from evonorm_jax.search.run.driver import Driver, SearchSettings
from evonorm_jax.search.run.executor import Executor
from evonorm_jax.search.run.ledger import Ledger
from evonorm_jax.search.run.local_executor import LocalExecutor
from evonorm_jax.search.run.stop_request import StopRequest

ANCHORS = ("wide", "deep")


def make_config(*, seed=0, strategy="evolution", population_size=6, max_candidates=150, **fields):
    """Of a small search on two made-up networks."""
    search = {"strategy": strategy, "population_size": population_size}
    search["max_candidates"] = max_candidates
    anchors = [{"model": "resnet50_cifar", "fields": {}, "name": name} for name in ANCHORS]
    protocol = {"anchors": anchors} | fields
    return {"seed": seed, "search": search, "space": {}, "protocol": protocol}


def evaluate(graph, seed, function=None):
    """Scores that look like accuracies, and a rejection every so often; nothing is trained."""
    digest = hashlib.blake2b(f"{graph} {seed}".encode()).digest()
    if digest[0] < 60:
        return Verdict(
            stage="wide",
            reason="accuracy",
            scores={"wide": 11.5},
            seconds=0.25,
            steps=100,
            details={"step": 100},
        )
    scores = {"wide": 20 + digest[1] / 4, "deep": 20 + digest[2] / 4}
    return Verdict(stage="scored", reason=None, scores=scores, seconds=1.5, steps=4000, details={})


@dataclasses.dataclass(frozen=True)
class Factory:
    """Builds an evaluator that logs, and takes its time.

    Attributes:
      log: File that every evaluation appends to.
      seconds: How long an evaluation takes.
      deadly: graph texts at which the process kills itself.
      broken: graph texts at which it raises.
    """

    log: Path
    seconds: float = 0.0
    deadly: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()

    def __call__(self):
        def logged(graph, seed, function):
            self._append(f"start {seed} {os.getpid()}\n")
            if str(graph) in self.deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            if str(graph) in self.broken:
                raise ZeroDivisionError("the evaluator broke")
            time.sleep(self.seconds)
            result = evaluate(graph, seed)
            self._append(f"end {seed}\n")
            return result

        return logged

    def _append(self, line):
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.write(descriptor, line.encode())
        os.close(descriptor)


def show_nothing(search, deaths):
    pass


class InlineExecutor(Executor):
    """Evaluates in this process, when it is given a trial.

    Attributes:
      evaluate: gives the verdict on a trial.
    """

    def __init__(self, evaluate):
        super().__init__(num_workers=1)
        self.evaluate = evaluate

    def submit(self, trial):
        self._end(trial, self.evaluate(trial))

    def close(self):
        pass

    _create = _start = _collect = None


def run(workdir, *, num_workers=0, seconds=0.0, should_stop=lambda: False, **fields):
    """Runs the search in a folder to its end, without workers in this process.

    `fields` are those of `make_config`.
    """
    config = make_config(**fields)
    log = workdir.parent / "evaluations.txt"
    if num_workers:
        places = [Place(f"worker {i}") for i in range(num_workers)]
        workers = LocalExecutor(Factory(log, seconds), places)
    else:
        workers = InlineExecutor(lambda trial: evaluate(trial.graph, trial.seed))
    with Ledger(workdir, config) as ledger, workers as executor:
        settings = SearchSettings.from_config(config)
        return Driver(settings, ledger, executor, show_nothing).run(should_stop)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--candidates", type=int, default=150)
    arguments = parser.parse_args()
    with StopRequest() as stop:
        finished = run(
            arguments.workdir,
            num_workers=arguments.workers,
            seconds=arguments.seconds,
            should_stop=stop,
            max_candidates=arguments.candidates,
        )
    sys.exit(0 if finished else 1)
