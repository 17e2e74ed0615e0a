"""What follows the colon of `--config FILE.py:ARG`: words that choose among alternatives."""

from collections.abc import Sequence

from evonorm_jax.errors import UserError, did_you_mean


def parse_words(arg: str, *alternatives: Sequence[str]) -> list[str]:
    """Reads words that are joined by commas, in any order.

    >>> parse_words("folder,smoke", ("smoke",), ("tfds", "folder", "npz"))
    ['smoke', 'folder']
    >>> parse_words("", ("smoke",), ("tfds", "folder", "npz"))
    ['', '']

    Args:
      arg: The words.
      *alternatives: Groups of words, of each of which one may be chosen.

    Returns:
      The chosen word of each group; "" where there is none.

    Raises:
      UserError: A word is unknown, or two are of one group.
    """
    chosen = [""] * len(alternatives)
    for word in arg.split(",") if arg else []:
        group = next((i for i, words in enumerate(alternatives) if word in words), None)
        if group is None:
            known = [word for words in alternatives for word in words]
            raise UserError(
                f"Unknown config argument '{word}' after the colon.{did_you_mean(word, known)} "
                f"This config knows {', '.join(known)}."
            )
        if chosen[group]:
            raise UserError(
                f"Config arguments '{chosen[group]}' and '{word}' after the colon exclude each "
                "other: take one of them."
            )
        chosen[group] = word
    return chosen
