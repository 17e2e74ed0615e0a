"""Measures how often the filters of the layer search are wrong, by training what they reject.

    python -m experiments.false_rejects --data cifar10.npz --output runs/false_rejects

Every candidate is trained for the first steps of the protocol on all anchors. Records are appended
to <output>/records.jsonl; started again, the command goes on where it was interrupted. At its end
it writes <output>/README.md, the rates, and <output>/candidates.csv.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.allocator import tune_allocator

if TYPE_CHECKING:
    from evonorm_jax.search.engine.protocol import ProxyProtocol


def main() -> None:
    """Parses the command line, trains, prints the table."""
    from evonorm_jax.data import dataset_config
    from evonorm_jax.search.engine.anchors import ANCHOR_SIZES
    from evonorm_jax.search.engine.engine import Engine
    from evonorm_jax.search.engine.protocol import ProxyProtocol
    from evonorm_jax.search.run import false_rejects
    from evonorm_jax.search.run.records import read_records
    from experiments.launch import user_path

    parser = argparse.ArgumentParser(
        prog="python -m experiments.false_rejects",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--data",
        type=user_path,
        metavar="FILE",
        help="CIFAR-10 as .npz (x_train, ...); the built-in digits without",
    )
    parser.add_argument(
        "--output", type=user_path, required=True, metavar="DIR", help="folder of the records"
    )
    parser.add_argument(
        "--anchors", choices=list(ANCHOR_SIZES), default="tiny", help="default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--each", type=int, default=40, help="candidates for each filter (default: %(default)s)"
    )
    parser.add_argument("--limit", type=int, help="candidates in all, if fewer")
    arguments = parser.parse_args()

    crop_size = 24 if arguments.data else 0
    protocol = ProxyProtocol(ANCHOR_SIZES[arguments.anchors], crop_size=crop_size)
    output = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    if arguments.data:
        splits = {"train_split": "train[:45000]", "eval_split": "train[49000:]"}
        data = dataset_config("cifar10", "npz", path=str(arguments.data), **splits)
    else:
        data = dataset_config("digits", "embedded")
    path = output / "records.jsonl"
    for record in false_rejects.record_candidates(
        Engine(false_rejects.without_filters(protocol), data),
        path,
        dataset=data.to_dict(),
        seed=arguments.seed,
        num_each=arguments.each,
        max_candidates=arguments.limit,
    ):
        end = record["reason"] or "passed"
        print(f"{record['filter']}: {end} ({record['seconds']:.1f} s)", flush=True)
    write_report(output, read_records(path, false_rejects.broken_record_rule), protocol)


def write_report(
    output: Path, records: Sequence[Mapping[str, Any]], protocol: ProxyProtocol
) -> None:
    """Writes README.md and candidates.csv, and prints the former."""
    import jax

    from evonorm_jax.provenance import command, machine
    from evonorm_jax.run_files import replacing, report_path
    from evonorm_jax.run_files import write_report as write_marked
    from evonorm_jax.search.report.false_reject_rates import as_csv, as_markdown

    commits = ", ".join(sorted({str(record["commit"]) for record in records}))
    lines = [
        "# False rejects of the layer search's filters",
        "",
        f"- command: `{' '.join(command())}`",
        f"- commit: {commits}",
        f"- hardware: {machine()}",
        f"- date: {datetime.date.today()}, jax {jax.__version__}",
        "",
        as_markdown(records, protocol),
    ]
    write_marked(report_path(output, lines[0], ("candidates.csv",)), "\n".join(lines))
    with replacing(output / "candidates.csv") as temporary:
        temporary.write_text(as_csv(records, protocol), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    tune_allocator()
    from experiments.process import run_main  # imports JAX, so after the new start

    run_main(main)
