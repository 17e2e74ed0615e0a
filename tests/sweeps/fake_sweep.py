"""A sweep whose runs do not train: they tick, save on SIGTERM and resume, as training does.

    python -m tests.sweeps.fake_sweep ROOT --cells 4 --jobs 2 --ticks 10

A run appends one line to `ticks` every 0.05 s and a line to `history` when it starts, saves and
finishes. `--fail NAME` and `--stubborn` make runs that fail, and runs that ignore SIGTERM.
"""

import argparse
import signal
import sys
from pathlib import Path

from evonorm_jax.placement import places_for_runs
from evonorm_jax.sweeps import LocalRuns, SweepRunner, create_cells

RUN = r"""
import json, os, pathlib, signal, sys, time
workdir, ticks = pathlib.Path(sys.argv[1]), int(sys.argv[2])
fail, stubborn = sys.argv[3:]
stop = []
signal.signal(signal.SIGTERM, signal.SIG_IGN if stubborn == "1" else lambda *_: stop.append(1))
workdir.mkdir(parents=True, exist_ok=True)
(workdir / "config.json").write_text("{}")
def note(text):
    with (workdir / "history").open("a") as stream:
        stream.write(f"{text} {os.getpid()}\n")
note("started")
if fail == "1":
    sys.exit("this run was told to fail")
path = workdir / "ticks"
while (done := len(path.read_text()) if path.exists() else 0) < ticks:
    if stop:
        note("saved")
        sys.exit(0)
    with path.open("a") as stream:
        stream.write(".")
    time.sleep(0.05)
note("finished")
(workdir / "summary.json").write_text(json.dumps({"eval/top1": 0.5}))
"""


class Printer:
    """A listener that prints plain lines."""

    def event(self, text):
        print(text, flush=True)

    def update(self, runner):
        pass


def cells(root, num_cells):
    return create_cells([{"model.norm_act": "bn_relu", "seed": i} for i in range(num_cells)], root)


def main():
    # Tests may run in the background of a shell, where Ctrl-C is ignored and a sweep leaves it so.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("--cells", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--ticks", type=int, default=4)
    parser.add_argument("--fail", default="")
    parser.add_argument("--stubborn", action="store_true")
    arguments = parser.parse_args()

    def command(cell):
        fail = "1" if cell.name == arguments.fail else "0"
        stubborn = "1" if arguments.stubborn else "0"
        return ["-c", RUN, str(cell.workdir), str(arguments.ticks), fail, stubborn]

    runs = LocalRuns(places_for_runs(arguments.jobs), command)
    runner = SweepRunner(cells(arguments.root, arguments.cells), runs, Printer())
    finished = runner.run()
    for failure in runner.failures:
        print(f"{failure.cell.name} ended with {failure.how}: {failure.tail}")
    sys.exit(128 + runner.stop_signal if runner.stop_signal else 0 if finished else 1)


if __name__ == "__main__":
    main()
