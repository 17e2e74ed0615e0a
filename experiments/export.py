r"""Writes the network of a run as one file, for use elsewhere.

Examples:
  python -m experiments.export --workdir runs/flowers --output flowers.jaxexport
  python -m experiments.export --workdir runs/flowers --output flowers.safetensors
  python -m experiments.export --workdir runs/cifar10_resnet20 --output cifar10_classifier.npz

The ending of --output (.jaxexport, .safetensors, .npz) says what is written, unless --format does:

  jax          a program of jax.export with the weights in it, which jax alone runs, on every
               platform of --platforms. Of a classifier it takes any number of images, pixels of 0
               to 255, and gives logits and probabilities; of a detector, any number of canvases
               with the sizes of their pictures. FILE.json beside it describes it.
  safetensors  the weights of any run, with its config: evonorm_jax.load_run and config.init_from
               read it.
  npz          a classifier in half precision, for config.figures.network of image synthesis.

The weights are the run's averages where it kept them.
"""

import argparse
import logging
from pathlib import Path

from evonorm_jax.errors import UserError
from experiments import launch
from experiments.process import run_main

FORMATS = ("jax", "safetensors", "npz")
_ENDINGS = {".jaxexport": "jax", ".safetensors": "safetensors", ".npz": "npz"}


def main() -> None:
    """Parses the command line and exports."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--workdir", type=launch.user_path, required=True, help="run directory of experiments.train"
    )
    parser.add_argument("--output", type=launch.user_path, required=True, metavar="FILE")
    parser.add_argument("--format", help=f"{', '.join(FORMATS)} (default: by FILE's ending)")
    parser.add_argument("--step", type=int, help="which checkpoint (default: the newest)")
    parser.add_argument(
        "--newest_weights", action="store_true", help="not the averages, although there are any"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    program = parser.add_argument_group("of the format jax")
    program.add_argument("--platforms", help="where it shall run (default: cpu,cuda,tpu)")
    program.add_argument("--input_dtype", help="of the images: uint8 (default) or float32")
    arguments = parser.parse_args()
    output = arguments.output
    chosen = find_format(arguments)
    for path in (output, described(output)) if chosen == "jax" else (output,):
        launch.check_output(path, "--output", overwrite=arguments.overwrite)
    launch.start_jax()
    logging.getLogger("evonorm_jax").setLevel(logging.WARNING)  # training has said the rest

    from evonorm_jax.training import export
    from evonorm_jax.training.saved_run import read_saved_run
    from evonorm_jax.training.tasks import find_task

    saved = read_saved_run(
        arguments.workdir, arguments.step, newest_weights=arguments.newest_weights
    )
    weights = ", its moving averages" if saved.averaged else ""
    if chosen == "safetensors":
        export.export_weights(saved, output)
    else:
        run = find_task(saved.config).trained_run(saved)
        if chosen == "npz":
            export.export_classifier(run, output)
        else:
            given = vars(arguments)
            options = {name: given[name] for name in ("input_dtype",) if given[name] is not None}
            if arguments.platforms is not None:
                options["platforms"] = arguments.platforms.split(",")
            about = export.export_program(run, output, **options)
            print(
                f"{described(output)}: inputs, outputs and classes; for "
                f"{', '.join(about['platforms'])}"
            )
    print(f"{output}: {saved.config.model.name} of step {saved.step}{weights}")


def described(output: Path) -> Path:
    """Returns the place of what describes a program: FILE.json beside it."""
    return output.with_name(f"{output.name}.json")


def find_format(arguments: argparse.Namespace) -> str:
    """Returns what to write.

    Raises:
      UserError: There is no such format, no format has this ending, or an argument is of another.
    """
    chosen, ending = arguments.format, arguments.output.suffix
    if chosen is None:
        if ending not in _ENDINGS:
            raise UserError(
                f"--output={arguments.output}: no format has the ending {ending!r}. Take one of "
                f"{', '.join(_ENDINGS)}, or say --format={'|'.join(FORMATS)}."
            )
        chosen = _ENDINGS[ending]
    if chosen not in FORMATS:
        raise UserError(f"--format={chosen} is unknown: choose one of {', '.join(FORMATS)}.")
    for name in ("platforms", "input_dtype"):
        if chosen != "jax" and getattr(arguments, name) is not None:
            raise UserError(f"--{name} is of the format jax, not of {chosen}: leave it out.")
    return chosen


if __name__ == "__main__":
    run_main(main)
