"""Measures which cheap protocol ranks layers as a long training does.

    python -m experiments.proxy_ranking --data cifar10_8.npz --output runs/proxy_ranking

Every layer is scored by each proxy of `evonorm_jax/search/run/proxy_ranking.py` and trained for
long, one layer after the other. Records are appended to <output>/records.jsonl; started again, the
command goes on where it was interrupted. At its end, or with --report at any time, it writes
<output>/README.md, layers.csv and ranking.png.

CIFAR-10 at 8 x 8 pixels comes from its class folder:

    python -m experiments.prepare_data --from_folder=cifar10 --image_size=8 --npz=cifar10_8.npz
"""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.allocator import tune_allocator

if TYPE_CHECKING:
    import ml_collections


def main() -> None:
    """Parses the command line, trains, writes the report."""
    from evonorm_jax.search.engine.engine import Engine
    from evonorm_jax.search.run import proxy_ranking
    from evonorm_jax.search.run.proxy_ranking import LONG, PROTOCOLS
    from experiments.launch import user_path

    parser = argparse.ArgumentParser(
        prog="python -m experiments.proxy_ranking",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--data",
        type=user_path,
        required=True,
        metavar="FILE",
        help="CIFAR-10 at 8 x 8 as .npz (x_train, ...)",
    )
    parser.add_argument(
        "--full",
        type=user_path,
        metavar="FILE",
        help="CIFAR-10 at 32 x 32 as .npz, for the proxy `tiny`; left out without",
    )
    parser.add_argument(
        "--output", type=user_path, required=True, metavar="DIR", help="folder of the records"
    )
    parser.add_argument("--random", type=int, default=8, help="random graphs (default: 8)")
    parser.add_argument(
        "--children", type=int, default=9, help="mutations of known layers (default: 9)"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--report", action="store_true", help="train nothing; write the report of the records"
    )
    arguments = parser.parse_args()

    output = arguments.output
    if arguments.report:
        write_report(output)
        return
    output.mkdir(parents=True, exist_ok=True)
    data = datasets(arguments.data, arguments.full)
    protocols = {name: kind for name, kind in PROTOCOLS.items() if kind.dataset in data}
    # A long training pays for a network that is compiled as a whole; short ones do not.
    evaluate = {
        name: Engine(
            kind.protocol,
            data[kind.dataset],
            whole_network="always" if name == LONG else "never",
        ).evaluate
        for name, kind in protocols.items()
    }
    basis = {
        "protocols": {name: kind.protocol.to_dict() for name, kind in protocols.items()},
        "data": {name: config.to_dict() for name, config in data.items()},
        "seed": arguments.seed,
    }
    layers = proxy_ranking.layers_to_rank(arguments.seed, arguments.random, arguments.children)
    for record in proxy_ranking.record_scores(
        evaluate, layers, output / "records.jsonl", basis=basis, seed=arguments.seed
    ):
        scores = " ".join(f"{score:.2f}" for score in record["scores"].values())
        line = f"{record['layer']}: {record['protocol']}: {scores} ({record['cpu_seconds']} s)"
        print(line, flush=True)
    write_report(output)


def datasets(small: Path, full: Path | None) -> dict[str, ml_collections.ConfigDict]:
    """Returns the data sets by name; layers are compared by a part of the training images."""
    from evonorm_jax.data import dataset_config

    splits = {"train_split": "train[:90%]", "eval_split": "train[90%:]"}
    found = {
        "cifar10_8": dataset_config(
            "cifar10", "npz", path=str(small), image_size=8, pad=1, **splits
        ),
        "digits": dataset_config("digits", "embedded"),
    }
    if full is not None:
        found["cifar10"] = dataset_config("cifar10", "npz", path=str(full), **splits)
    return found


def write_report(output: Path) -> None:
    """Writes README.md, layers.csv and ranking.png, and prints the first."""
    import jax

    from evonorm_jax.analysis.curves import save_figure
    from evonorm_jax.errors import UserError
    from evonorm_jax.provenance import command, machine
    from evonorm_jax.run_files import replacing, report_path
    from evonorm_jax.run_files import write_report as write_marked
    from evonorm_jax.search.report.ranking_figure import draw_ranking
    from evonorm_jax.search.report.ranking_tables import as_csv, as_markdown, ranked_scores
    from evonorm_jax.search.run.proxy_ranking import broken_record_rule
    from evonorm_jax.search.run.records import read_records

    path = output / "records.jsonl"
    if not path.is_file():
        raise UserError(f"There is no file '{path}': --output must name the folder of a ranking.")
    records = read_records(path, broken_record_rule)
    scores = ranked_scores(records)
    commits = ", ".join(sorted({str(record["commit"]) for record in records}))
    hours = sum(record["cpu_seconds"] for record in records) / 3600
    lines = [
        "# How well cheap protocols rank layers",
        "",
        f"- command: `{' '.join(command())}`",
        f"- commit: {commits}",
        f"- hardware: {machine()}, {hours:.1f} hours of CPU",
        f"- date: {datetime.date.today()}, jax {jax.__version__}",
        "",
        as_markdown(scores),
        "![proxies against long training](ranking.png)",
        "",
    ]
    report = report_path(output, lines[0], ("layers.csv", "ranking.png"))
    write_marked(report, "\n".join(lines))
    with replacing(output / "layers.csv") as temporary:
        temporary.write_text(as_csv(scores), encoding="utf-8")
    save_figure(draw_ranking(scores), output / "ranking.png")
    print("\n".join(lines))


if __name__ == "__main__":
    tune_allocator()
    from experiments.process import run_main  # imports JAX, so after the new start

    run_main(main)
