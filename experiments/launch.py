"""What all launchers share: the config flag, JAX's start-up, and one message for a mistake."""

from __future__ import annotations

import argparse
import ast
import json
import logging
import os
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import jax

from evonorm_jax.errors import UserError, did_you_mean
from evonorm_jax.field_rules import check_plain, shorten
from experiments.config_file import get_config, load_config_module
from experiments.hosts import join_hosts

if TYPE_CHECKING:
    import ml_collections

# What layers and networks take differs between them; they check the names themselves.
OPEN_FIELDS = (
    "config.model.norm_act_fields",
    "config.model.fields",
    "config.model.fields.backbone_fields",
)

# Fields that name a file or a folder; the shell leaves the ~ of --config.FIELD=~/... as it is.
_PATHS = ("dataset.path", "init_from", "figures.network")


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


def check_output_folder(folder: Path, name: str, *, overwrite: bool = False) -> None:
    """Refuses a folder to write into that has files already, or is none.

    Raises:
      UserError: The message names the argument, the path and the remedy.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{name}={folder} is a file: name a folder.")
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        raise UserError(f"{name}={folder} is not empty: name a new folder, or add --overwrite.")


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


def overridden_fields(arguments: list[str]) -> set[str]:
    """Returns the dotted names of the fields that `--config.FIELD=VALUE` arguments set.

    >>> overridden_fields(["--config.seed=1", "--config.dataset.mean", "0,0,0"]) == {
    ...     "seed",
    ...     "dataset.mean",
    ... }
    True
    """
    return {name for name, _ in _override_pairs(arguments)}


def override(config: ml_collections.ConfigDict, arguments: list[str]) -> ml_collections.ConfigDict:
    """Applies `--config.FIELD=VALUE` arguments to a config, and locks it.

    A value is read as the type of the field's present value; a switch without one is set to True.
    The fields of a layer or a network
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
                    f"--config.{name}: {walked} has no field {part!r}."
                    f"{_suggest_field(part, node, config)} It has: "
                    f"{', '.join(sorted(node)) or 'none'}."
                )
            parent, node, walked = node, node.get(part), f"{walked}.{part}"
        if text is None and not isinstance(node, bool):
            raise UserError(f"--config.{name} needs a value: --config.{name}=VALUE.")
        with parent.unlocked():
            parent[field] = True if text is None else _parse_value(name, text, node)
    check_plain(config, "config")
    config.lock()
    return config


def _suggest_field(
    field: str, block: ml_collections.ConfigDict, config: ml_collections.ConfigDict
) -> str:
    """Names what was meant: a field like it in the same block, or the same field in another."""
    from evonorm_jax.training.run_directory import flatten  # here, because it takes a second

    if hint := did_you_mean(field, block):
        return hint
    names = (name for name in flatten(config.to_dict()) if name.endswith(f".{field}"))
    return next((f" Did you mean config.{name}?" for name in names), "")


def _override_pairs(arguments: list[str]) -> list[tuple[str, str | None]]:
    """Reads `--config.NAME=TEXT` and `--config.NAME TEXT` as pairs of dotted name and text.

    The text of `--config.NAME` before another argument, or at the end, is None.
    """
    pairs: list[tuple[str, str | None]] = []
    waiting = list(reversed(arguments))
    while waiting:
        argument = waiting.pop()
        if not argument.startswith("--config."):
            raise UserError(
                f"Unknown argument {argument!r}. Fields of the config are set by "
                "--config.FIELD=VALUE; --help lists the rest."
            )
        name, equals, text = argument.removeprefix("--config.").partition("=")
        if equals:
            pairs.append((name, text))
        elif waiting and not waiting[-1].startswith("--"):
            pairs.append((name, waiting.pop()))
        else:
            pairs.append((name, None))
    return pairs


def _parse_value(name: str, text: str, present: Any) -> Any:
    """Reads a text as the type of the present value; as anything where there is none."""
    from ml_collections import ConfigDict

    wanted = type(present)
    if wanted is str:
        return os.path.expanduser(text) if name in _PATHS else text
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
    brief = shorten(text).strip("'")
    raise UserError(f"--config.{name}={brief}: {expected} is expected, such as {shorten(present)}.")


def add_print_config_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the flag that shows a configuration and does nothing else."""
    parser.add_argument(
        "--print_config",
        action="store_true",
        help="print the configuration with its overrides as JSON, and run nothing",
    )


def add_ray_argument(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds the flag that names a Ray cluster.

    Args:
      parser: Gets the flag.
      what: What is done there, such as "evaluate".
    """
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help=f"{what} on a Ray cluster: 'auto' on one of its nodes, 'ray://HOST:10001' from "
        "elsewhere, 'local' for one of this machine",
    )


def print_config(config: ml_collections.ConfigDict) -> None:
    """Prints a configuration as JSON."""
    print(json.dumps(config.to_dict(), indent=2))


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
    if not jax.config.jax_compilation_cache_dir and (cache := cache_folder()):
        jax.config.update("jax_compilation_cache_dir", str(cache))
    if arguments is not None:
        join_hosts(arguments)


def cache_folder() -> Path | None:
    """Returns the folder of compiled programs in the user's cache; None where there is no home."""
    # By the XDG Base Directory Specification a path that is empty or relative counts as unset.
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():
        try:
            cache = Path.home() / ".cache"
        except RuntimeError:
            return None
    return cache / "evonorm_jax"


def _excepthook(
    kind: type[BaseException], error: BaseException, traceback: types.TracebackType | None
) -> None:
    """Shows what nobody has caught, but for what tensorstore's threads print on a full disk.

    orbax closes its event loop at the first write that fails; the others then find it closed.
    """
    if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
        sys.__excepthook__(kind, error, traceback)


def user_path(text: str) -> Path:
    """Reads a path of the command line, whose ~ the shell leaves alone in --FLAG=~/folder.

    Raises:
      argparse.ArgumentTypeError: It is empty.
    """
    if not text:
        raise argparse.ArgumentTypeError("it is empty; name a file or a folder")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # ~nobody
        raise argparse.ArgumentTypeError(f"{text}: {error}") from None
