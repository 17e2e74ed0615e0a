"""Writes the classifier of a run as one small file, for the figures of generated images.

Examples:
  python -m experiments.export_classifier --workdir runs/cifar10_resnet20 cifar10_classifier.npz

The newest checkpoint is taken, its moving averages where the run kept them. Prints the accuracy
that the run had at its end.
"""

import argparse
from pathlib import Path

from evonorm_jax.errors import UserError
from experiments.launch import run_main, user_path


def main() -> None:
    """Parses the command line and writes the file."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.export_classifier",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--workdir", type=user_path, required=True, help="run directory of experiments.train"
    )
    parser.add_argument("output", metavar="FILE.npz")
    arguments = parser.parse_args()

    from evonorm_jax.gan.classifier_file import write_classifier
    from evonorm_jax.training.checkpoint import Checkpoints
    from evonorm_jax.training.run_directory import read_config, read_summary

    workdir, output = Path(arguments.workdir), Path(arguments.output)
    if output.suffix != ".npz":
        raise UserError(f"{output}: name a file that ends in .npz.")
    config = read_config(workdir)
    with Checkpoints(workdir, read_only=True) as checkpoints:
        step, newest, averages = checkpoints.read_variables()
    variables = averages or newest
    write_classifier(
        output,
        variables,
        model={
            "name": config.model.name,
            "num_classes": variables["params"]["head"]["bias"].size,
            "norm_act": config.model.norm_act,
            "norm_act_fields": config.model.norm_act_fields.to_dict(),
            **config.model.fields.to_dict(),
        },
        mean=tuple(config.dataset.mean),
        std=tuple(config.dataset.std),
    )
    accuracy = (read_summary(workdir) or {}).get("eval/top1", "not known: the run did not end")
    print(f"{output}: {config.model.name} of step {step}, eval/top1 {accuracy}")


if __name__ == "__main__":
    run_main(main)
