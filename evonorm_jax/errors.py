"""The one exception for a mistake that the user can mend."""


class UserError(ValueError):
    """Wrong input: the message gives the value, the rule it breaks and the remedy.

    The launchers in `experiments/` print the message alone and exit with code 2; from a
    notebook or a library call it is an ordinary `ValueError`.
    """
