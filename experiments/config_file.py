"""Config files: Python that a user has written, whose mistakes are told by their own lines."""

from __future__ import annotations

import importlib.util
import inspect
import linecache
import traceback
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evonorm_jax.errors import UserError, did_you_mean
from evonorm_jax.field_rules import shorten

if TYPE_CHECKING:
    import ml_collections

ROOT = Path(__file__).resolve().parents[1]

_CELL = '{"model.norm_act": "bn_relu", "seed": 0}'
# The blocks that tell what a config is for, and which launchers take it.
_KINDS = {
    "training": ({"model", "dataset"}, "experiments.train or experiments.sweep"),
    "search": ({"search", "space", "protocol"}, "experiments.search"),
}


def split_config(file: str) -> tuple[Path, str]:
    """Splits `FILE.py[:ARGUMENT]` into path and argument.

    >>> split_config("configs/digits_resnet_evonorm_s0.py:smoke")[1]
    'smoke'
    """
    path, _, argument = file.partition(":")
    return Path(path).expanduser(), argument


def load_config_module(file: str) -> tuple[types.ModuleType, str]:
    """Imports the module of `FILE.py[:ARGUMENT]`; returns it and the argument.

    Raises:
      UserError: The file is not there, is no config, or raises; then with the line that does.
    """
    path, argument = split_config(file)
    if not path.is_file():
        raise UserError(
            f"--config={file}: there is no file {path}."
            f"{did_you_mean(path, _configs_beside(path))} The ready ones are in {ROOT / 'configs'}."
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"--config={file}: {path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise _own_error(path, error) from error
    if not hasattr(module, "get_config"):
        raise UserError(f"--config={file}: {path} has no function get_config(arg).")
    return module, argument


def _configs_beside(path: Path) -> list[str]:
    """Lists the files in the folder of one that is not there."""
    return [str(file) for file in path.parent.glob("*.py")]


def call_config_function(module: types.ModuleType, name: str, argument: str) -> Any:
    """Calls `get_config` or `sweep` of a config file; what is yielded comes as a list.

    A function without parameters is called without the argument, where that is "".

    Raises:
      UserError: It is no such function, or raises; then with the line that does.
    """
    function, path = getattr(module, name, None), Path(str(module.__file__))
    arguments = _arguments(function, name, argument, path)
    try:
        result = function(*arguments)
        return list(result) if isinstance(result, Iterator) else result
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise _own_error(path, error) from error


def get_config(module: types.ModuleType, argument: str, kind: str) -> ml_collections.ConfigDict:
    """Returns the config of a config file.

    Args:
      module: What `load_config_module` returned.
      argument: What follows the colon.
      kind: Either "training" or "search".

    Raises:
      UserError: The function raises or returns no config, or one of another kind.
    """
    from ml_collections import ConfigDict  # here, because benchmarks run where it is missing

    config = call_config_function(module, "get_config", argument)
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"{module.__file__}: get_config() returns {shorten(config)}; it must return an "
            "ml_collections.ConfigDict."
        )
    given, (needed, _) = set(config.keys()), _KINDS[kind]
    for other, (blocks, launcher) in _KINDS.items():
        if blocks <= given and not needed <= given:
            raise UserError(
                f"{module.__file__} is the config of a {other}: give it to {launcher}. Here that "
                f"of a {kind} is needed, with the blocks {', '.join(sorted(needed))}."
            )
    return config


def get_cells(module: types.ModuleType, argument: str) -> list[Mapping[str, Any]]:
    """Returns what `sweep` of a config file yields: the overrides of each cell.

    Raises:
      UserError: The function raises, or gives something else than mappings from names of fields.
    """
    cells = call_config_function(module, "sweep", argument)
    if not isinstance(cells, Iterable) or isinstance(cells, str | bytes | Mapping):
        raise UserError(
            f"{module.__file__}: sweep() returns {shorten(cells)}; it must yield a mapping from "
            f"the names of fields to values for each cell, such as {_CELL}."
        )
    checked = []
    for number, cell in enumerate(cells, start=1):
        if not isinstance(cell, Mapping) or not all(isinstance(name, str) for name in cell):
            raise UserError(
                f"{module.__file__}: item {number} of sweep() is {shorten(cell)}; it must be a "
                f"mapping from the names of fields to values, such as {_CELL}."
            )
        checked.append(cell)
    return checked


def _arguments(function: Any, name: str, argument: str, path: Path) -> tuple[str, ...]:
    """Returns what to call a function of a config file with."""
    if not callable(function):
        raise UserError(
            f"{path}: {name} is {shorten(function)}; it must be a function {name}(arg)."
        )
    signature = inspect.signature(function)
    for arguments in ((argument,), ()):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        if argument and not arguments:
            raise UserError(
                f"{path}: {name}() takes no argument, and {argument!r} was given: leave "
                f"':{argument}' out, or define {name}(arg='')."
            )
        return arguments
    raise UserError(f"{path}: {name}{signature} must take one argument, as {name}(arg='') does.")


def _own_error(path: Path, error: BaseException) -> UserError:
    """Describes an exception by the line of the user's file that it comes from."""
    what = f"{type(error).__name__}: {error}".rstrip(": ")
    if isinstance(error, SyntaxError) and error.filename:
        place, line, what = error.filename, error.lineno, f"{type(error).__name__}: {error.msg}"
    else:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename) == path]
        place, line = str(path), lines[-1] if lines else None
    if line is None:
        return UserError(f"{place}: {what}")
    code = linecache.getline(str(place), line).strip()
    return UserError(f"{place}, line {line}: {what}" + (f"\n  {code}" if code else ""))
