"""The one exception for a mistake that the user can mend, and what its messages share."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Wrong input: the message gives the value, the rule it breaks and the remedy.

    The launchers in `experiments/` print the message alone and exit with code 2; from a
    notebook or a library call it is an ordinary `ValueError`.
    """


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """Returns a sentence with the known name that is closest to a given one, or "".

    Capital and small letters are the same.

    >>> did_you_mean("evonrom_s0", ("bn_relu", "evonorm_b0", "evonorm_s0"))
    ' Did you mean evonorm_s0?'
    >>> did_you_mean("adamW", ("adam", "adamw"))
    ' Did you mean adamw?'
    >>> did_you_mean("x", ("bn_relu",))
    ''
    """
    by_letters = {name.lower(): name for name in known}
    close = difflib.get_close_matches(str(given).lower(), by_letters, n=1)
    return f" Did you mean {by_letters[close[0]]}?" if close else ""
