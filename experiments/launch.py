"""What all launchers share: the config flag, JAX's start-up, and one message for a mistake."""

from __future__ import annotations

import argparse
import ast
import errno
import importlib.util
import logging
import os
import signal
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import jax

from evonorm_jax.errors import UserError
from evonorm_jax.field_rules import check_plain, shorten
from experiments.config_file import ROOT as ROOT
from experiments.config_file import get_config, load_config_module
from experiments.config_file import split_config as split_config

if TYPE_CHECKING:
    import ml_collections

_UNWRITABLE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
)

# What layers and networks take differs between them; they check the names themselves.
OPEN_FIELDS = (
    "config.model.norm_act_fields",
    "config.model.fields",
    "config.model.fields.backbone_fields",
)

# Fields that name a file or a folder; the shell leaves the ~ of --config.FIELD=~/... as it is.
_PATHS = ("dataset.path", "init_from", "figures.network")


def run_main(main: Callable[[], None]) -> None:
    """Runs a launcher; a `UserError` becomes its message on stderr and exit code 2.

    So does a file or folder that cannot be written. Ctrl-C is one line and exit code 130. Output
    that nobody reads any more ends it in silence, with exit code 1.
    """
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        print(f"{Path(sys.argv[0]).stem}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end is near; nothing may interrupt it
        print(f"\n{Path(sys.argv[0]).stem}: interrupted; what was saved stays.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # as of `--print | head`: whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        sys.exit(1)
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        name = f"{error.filename}: " if error.filename else ""
        message = f"{name}{error.strerror}. Make room, or name a place that can be written."
        print(f"{Path(sys.argv[0]).stem}: {message}", file=sys.stderr)
        sys.exit(2)


def check_output(path: Path, name: str, *, overwrite: bool = False) -> None:
    """Refuses a file to write that is there already, or whose folder is not.

    Raises:
      UserError: The message names the argument, the path and the remedy.
    """
    if path.is_dir():
        raise UserError(f"{name}={path} is a folder: name a file.")
    if path.exists() and not overwrite:
        raise UserError(f"{name}={path} is there already: name another file, or add --overwrite.")
    if not path.parent.is_dir():
        raise UserError(f"{name}={path}: there is no folder {path.parent}; make it first.")


def parse_config(
    file: str, overrides: list[str], kind: str = "training"
) -> ml_collections.ConfigDict:
    """Loads `FILE.py[:argument]` and applies `--config.field=value` overrides.

    Args:
      file: The file, and what follows its colon.
      overrides: Arguments of the command line.
      kind: Either "training" or "search".

    Raises:
      UserError: The file is not there, raises or is of another kind, an argument or field is
        unknown, a value has another type, or an argument is no override.
    """
    module, argument = load_config_module(file)
    return override(get_config(module, argument, kind), overrides)


def override(config: ml_collections.ConfigDict, arguments: list[str]) -> ml_collections.ConfigDict:
    """Applies `--config.FIELD=VALUE` arguments to a config, and locks it.

    A value is read as the type of the field's present value. The fields of a layer or a network
    (`model.norm_act_fields.num_groups=16`, `model.fields.depth=14`) may be new.

    Raises:
      UserError: A field is unknown, a value has another type, or an argument is no override.
    """
    from ml_collections import ConfigDict  # here, because benchmarks run where it is missing

    for name, text in _override_pairs(arguments):
        *parents, field = name.split(".")
        node, walked = config, "config"
        for part in [*parents, field]:
            if not isinstance(node, ConfigDict):
                raise UserError(f"--config.{name}: {walked} is a value and has no fields.")
            if part not in node and not (part == field and walked in OPEN_FIELDS):
                raise UserError(
                    f"--config.{name}: {walked} has no field {part!r}. It has: "
                    f"{', '.join(sorted(node)) or 'none'}."
                )
            parent, node, walked = node, node.get(part), f"{walked}.{part}"
        with parent.unlocked():
            parent[field] = _parse_value(name, text, node)
    check_plain(config, "config")
    config.lock()
    return config


def _override_pairs(arguments: list[str]) -> list[tuple[str, str]]:
    """Reads `--config.NAME=TEXT` and `--config.NAME TEXT` as pairs of dotted name and text."""
    pairs = []
    waiting = iter(arguments)
    for argument in waiting:
        if not argument.startswith("--config."):
            raise UserError(
                f"Unknown argument {argument!r}. Fields of the config are set by "
                "--config.FIELD=VALUE; --help lists the rest."
            )
        name, equals, text = argument.removeprefix("--config.").partition("=")
        if not equals and (text := next(waiting, None)) is None:
            raise UserError(f"{argument} needs a value: {argument}=VALUE.")
        pairs.append((name, text))
    return pairs


def _parse_value(name: str, text: str, present: Any) -> Any:
    """Reads a text as the type of the present value; as anything where there is none."""
    from ml_collections import ConfigDict

    wanted = type(present)
    if wanted is str:
        return str(Path(text).expanduser()) if name in _PATHS and text[:1] == "~" else text
    try:
        literal = ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        literal = {"true": True, "false": False}.get(text.lower(), text)
    check_plain(literal, f"--config.{name}")
    if wanted is float and type(literal) is int:
        return float(literal)
    if wanted in (tuple, list) and isinstance(literal, tuple | list):
        return wanted(literal)
    if wanted in (tuple, list) and all(isinstance(part, str) for part in present):
        return wanted(text.split(",")) if text else wanted()
    if present is None or type(literal) is wanted:
        return literal
    if isinstance(present, ConfigDict) and isinstance(literal, dict):
        return ConfigDict(literal)
    expected = "dict" if isinstance(present, ConfigDict) else wanted.__name__
    raise UserError(
        f"--config.{name}={shorten(text)[1:-1]}: {expected} is expected, such as "
        f"{shorten(present)}."
    )


def add_distributed_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of a run on several hosts."""
    group = parser.add_argument_group(
        "several hosts",
        "TPU pods, Slurm and Open MPI need none of these, nor do hosts where "
        "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID are set. Run the same "
        "command on every host, with a --workdir on storage that all of them share.",
    )
    group.add_argument("--coordinator_address", metavar="HOST:PORT", help="of process 0")
    group.add_argument("--num_processes", type=int, metavar="N")
    group.add_argument("--process_id", type=int, metavar="I", help="0 to N - 1")


def start_jax(
    arguments: argparse.Namespace | None = None, *, log_stream: TextIO | None = None
) -> None:
    """Sets the compile cache up and joins the other hosts, before any device is touched.

    Args:
      arguments: Parsed flags, among them those of a run on several hosts.
      log_stream: Where the package's notes go; stdout by default, stderr where stdout is data.
    """
    # orbax reports of every step through absl, and of a full disk with 250 lines of tracebacks from
    # its threads; what a person needs, our lines say.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    sys.excepthook = _excepthook
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", stream=log_stream or sys.stdout
    )
    logging.getLogger("evonorm_jax").setLevel(logging.INFO)
    if not jax.config.jax_compilation_cache_dir:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "evonorm_jax"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    if arguments is not None:
        _join_hosts(arguments)


def _excepthook(
    kind: type[BaseException], error: BaseException, traceback: types.TracebackType | None
) -> None:
    """Shows what nobody has caught, but for what tensorstore's threads print on a full disk.

    orbax closes its event loop at the first write that fails; the others then find it closed.
    """
    if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
        sys.__excepthook__(kind, error, traceback)


def _join_hosts(arguments: argparse.Namespace) -> None:
    address = arguments.coordinator_address or os.environ.get("JAX_COORDINATOR_ADDRESS")
    processes = _number(arguments.num_processes, "JAX_NUM_PROCESSES")
    process = _number(arguments.process_id, "JAX_PROCESS_ID")
    given = {
        "--coordinator_address": address,
        "--num_processes": processes,
        "--process_id": process,
    }
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        if _on_cluster():
            jax.distributed.initialize()
        return
    if missing:
        raise UserError(
            f"{', '.join(missing)} is missing: a run on several hosts needs all three of "
            f"{', '.join(given)} (or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID)."
        )
    if not 0 <= process < processes:
        raise UserError(
            f"--process_id={process} must be from 0 to {processes - 1} "
            f"(--num_processes={processes})."
        )
    jax.distributed.initialize(address, processes, process)


def _number(flag: int | None, variable: str) -> int | None:
    text = os.environ.get(variable)
    if flag is not None or text is None:
        return flag
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{variable}={text!r} is not a number.") from None


def _on_cluster() -> bool:
    """Whether JAX finds its peers by itself: on a TPU VM, or among Slurm or Open MPI tasks."""
    # Of the step that srun started: SLURM_NTASKS is also set in a batch script that runs alone.
    sizes = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    return has_tpu() or max(int(os.environ.get(name, "1")) for name in sizes) > 1


def has_tpu() -> bool:
    """Whether this host has TPU chips, found out without touching them."""
    return importlib.util.find_spec("libtpu") is not None and any(
        next(Path("/dev").glob(pattern), None) for pattern in ("accel*", "vfio/[0-9]*")
    )
