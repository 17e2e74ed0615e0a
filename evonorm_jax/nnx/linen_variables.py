"""Variables of Linen modules into NNX modules and back.

A value is found by its path, so that the modules inside the NNX module must have the names that
they have in the Linen module. All layers of this package are the same in both.

>>> import jax
>>> from flax import nnx
>>> from evonorm_jax import EvoNormB0
>>> from evonorm_jax.nnx import EvoNormB0 as NNXEvoNormB0
>>> x = jax.numpy.ones((2, 4, 4, 8))
>>> variables = EvoNormB0().init(jax.random.key(0), x, use_running_average=True)
>>> layer = NNXEvoNormB0(8, rngs=nnx.Rngs(0))
>>> load_linen_variables(layer, variables)
>>> jax.tree.map(jax.numpy.shape, to_linen_variables(layer))
{'batch_stats': {'var': (8,)}, 'params': {'bias': (8,), 'scale': (8,), 'v': (8,)}}
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.core import meta
from flax.traverse_util import flatten_dict, unflatten_dict

from evonorm_jax.errors import UserError

#: The kind of variable that each Linen collection is.
COLLECTIONS: dict[str, type[nnx.Variable]] = {"params": nnx.Param, "batch_stats": nnx.BatchStat}

#: Name of the collection, and names of the modules down to the value.
_Path = tuple[str, ...]


def to_linen_variables(module: nnx.Module) -> dict[str, Any]:
    """Returns the parameters and running statistics of a module as Linen variables.

    Args:
      module: Any NNX module. Its other variables, such as random keys, are left out.

    Returns:
      Nested dictionaries of arrays, `params` and, where there are any, `batch_stats`.
    """
    values = {path: variable.get_value() for path, variable in _variables(module).items()}
    return {"params": {}, **unflatten_dict(values)}


def load_linen_variables(module: nnx.Module, variables: Mapping[str, Any]) -> None:
    """Puts Linen variables into the module in place of its parameters and running statistics.

    Args:
      module: Any NNX module.
      variables: What `init` of the Linen module returns, trained or not: `params` and, where there
        are any, `batch_stats`.

    Raises:
      UserError: A value is missing, has no place in the module, or has another shape or dtype than
        there. Then the module is as it was.
    """
    unboxed = meta.unbox(dict(variables))  # of the metadata of `nn.with_partitioning`
    given = {path: jnp.asarray(value) for path, value in flatten_dict(unboxed).items()}
    here = _variables(module)
    faults = [f"{_text(path)} is missing" for path in here if path not in given]
    for path, value in given.items():
        if path not in here:
            faults.append(f"{_text(path)} has no place in the module")
        elif _kind(here[path].get_value()) != _kind(value):
            expected = _kind(here[path].get_value())
            faults.append(f"{_text(path)} is {_kind(value)}, not {expected}")
    if faults:
        more = f" (and {len(faults) - 5} more)" if len(faults) > 5 else ""
        raise UserError(
            f"these variables are not those of {type(module).__name__}: "
            f"{'; '.join(faults[:5])}{more}. Give the modules inside it the names that they have "
            "in the Linen module, and the same fields"
        )
    for path, variable in here.items():
        variable.set_value(given[path])


def _variables(module: nnx.Module) -> dict[_Path, nnx.Variable]:
    """Returns the variables themselves, each by its place among Linen variables."""
    found: dict[_Path, nnx.Variable] = {}
    for path, value in nnx.iter_graph(module):
        for collection, kind in COLLECTIONS.items():
            if isinstance(value, kind):
                found[collection, *map(str, path)] = value
    return found


def _kind(value: jax.Array) -> str:
    return f"{value.dtype}{list(value.shape)}"


def _text(path: _Path) -> str:
    return "/".join(path)
