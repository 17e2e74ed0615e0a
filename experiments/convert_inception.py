"""Converts the published weights of FID's Inception network to a safetensors file, once.

Examples:
  python -m experiments.convert_inception weights-inception-2015-12-05-6726825d.pth

The .pth file is torch-fidelity's, a pickle: PyTorch reads it with weights_only=True, which runs no
code. The names and shapes of the tensors are checked. Without --output the new file stands beside
the old one. Prints the hash that the figures will name.
"""

import argparse
import pickle
from pathlib import Path

from evonorm_jax.errors import UserError
from experiments import launch
from experiments.process import run_main


def main() -> None:
    """Parses the command line and converts."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.convert_inception",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("weights", metavar="FILE.pth")
    parser.add_argument("--output", type=launch.user_path, metavar="FILE.safetensors")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    arguments = parser.parse_args()

    weights = Path(arguments.weights)
    output = arguments.output or weights.with_suffix(".safetensors")
    if not weights.is_file():
        raise UserError(f"{weights} is not there; name the .pth file of torch-fidelity's weights.")
    launch.check_output(output, "--output", overwrite=arguments.overwrite)
    try:
        import torch
    except ModuleNotFoundError as error:
        raise UserError(
            "reading a .pth file needs PyTorch, on this machine or another: pip install torch"
        ) from error

    from evonorm_jax.gan.features import tensors_hash
    from evonorm_jax.interop.inception import from_inception_state_dict
    from evonorm_jax.interop.safetensors_file import write_safetensors

    try:
        state_dict = torch.load(weights, map_location="cpu", weights_only=True)
        tensors = {name: tensor.numpy() for name, tensor in state_dict.items()}
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError) as error:
        raise UserError(
            f"{weights} is not a state dict that PyTorch can read ({error})."
        ) from error
    variables = from_inception_state_dict(tensors)
    write_safetensors(tensors, output)
    print(f"{output}: {tensors_hash(variables)}")


if __name__ == "__main__":
    run_main(main)
