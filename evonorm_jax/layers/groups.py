"""The number of groups that the channels of a layer fall into."""

import functools
import logging

from evonorm_jax.errors import UserError

#: Groups of the authors' code; "c/g" in the paper.
DEFAULT_NUM_GROUPS = 32

_logger = logging.getLogger(__name__)


def resolve_num_groups(
    num_channels: int, num_groups: int | None = None, group_size: int | None = None
) -> int:
    """Returns the number of groups that `num_channels` channels fall into.

    A `num_groups` that does not divide the channels is lowered by one until it does, as in the
    authors' code; this is logged once for each pair of numbers. A `group_size` is taken exactly.

    >>> resolve_num_groups(64), resolve_num_groups(48), resolve_num_groups(48, group_size=8)
    (32, 24, 6)

    Raises:
      UserError: Both are given, one is below 1, or `group_size` does not divide the channels.
    """
    if num_groups is not None and group_size is not None:
        raise UserError(
            f"num_groups={num_groups} and group_size={group_size} say the same thing twice: "
            "give one of the two"
        )
    if group_size is not None:
        if group_size < 1 or num_channels % group_size:
            raise UserError(
                f"group_size={group_size} must divide the {num_channels} channels; "
                "num_groups takes the nearest smaller count that does"
            )
        return num_channels // group_size
    wanted = DEFAULT_NUM_GROUPS if num_groups is None else num_groups
    if wanted < 1:
        raise UserError(f"num_groups={num_groups} must be at least 1")
    used = next(count for count in range(wanted, 0, -1) if num_channels % count == 0)
    if used != wanted:
        _log_lowered(num_channels, wanted, used)
    return used


@functools.cache
def _log_lowered(num_channels: int, wanted: int, used: int) -> None:
    _logger.info(
        "%d groups do not divide %d channels: %d groups of %d channels are used",
        wanted,
        num_channels,
        used,
        num_channels // used,
    )
