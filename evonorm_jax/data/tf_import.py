"""The one place that says what to do when TensorFlow is missing, and keeps it off accelerators."""

from __future__ import annotations

import importlib
import logging
import os

from evonorm_jax.errors import UserError


def require_tensorflow(*, purpose: str = "This run", tfds: bool = False, instead: str = "") -> None:
    """Imports TensorFlow, and TFDS if asked, and hides the accelerators from it.

    Call it before importing a module that imports TensorFlow at its top: it takes seconds, and it
    would take all GPU memory from JAX.

    Args:
      purpose: What needs it, for the message.
      tfds: Whether tensorflow-datasets is needed as well.
      instead: Override that does without, on the same data; "" where there is none.

    Raises:
      UserError: One of them is not installed.
    """
    # Without oneDNN the order of additions, hence the pixels, does not depend on the processor.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    # Its start-up notes concern no one here. JAX has set 1 by now; anything else is the user's.
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    try:
        importlib.import_module("tensorflow")
        if tfds:
            importlib.import_module("tensorflow_datasets")
    except ImportError as error:
        raise UserError(
            f"{purpose} needs TensorFlow{' and tensorflow-datasets' if tfds else ''}, and the"
            f" import failed ({error}).\n"
            "  install, in the clone:  pip install -r requirements.txt   (or"
            ' pip install -e ".[data]")\n'
            + (f"  the same data without:  {instead}\n" if instead else "")
            + "  run without, right now: python -m experiments.train"
            " --config configs/digits_resnet_evonorm_s0.py"
        ) from error
    hide_accelerators_from_tensorflow()


def hide_accelerators_from_tensorflow() -> None:
    """Leaves the GPUs and TPUs to JAX; TensorFlow must be installed, and do nothing before."""
    tensorflow = importlib.import_module("tensorflow")
    try:
        for kind in ("GPU", "TPU"):
            tensorflow.config.set_visible_devices([], kind)
    except RuntimeError:  # the caller has used TensorFlow before, on purpose
        logging.warning("TensorFlow had started already: it may hold accelerator memory.")
