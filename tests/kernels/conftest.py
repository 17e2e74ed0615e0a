from collections.abc import Callable, Iterator

import jax
import pytest

from evonorm_jax.kernels import fused, platforms
from evonorm_jax.kernels.platforms import Platform


@pytest.fixture(scope="module", autouse=True)
def _own_traces() -> Iterator[None]:
    """Traces anew: these tests patch what a trace depends on, such as the platform."""
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.fixture
def in_form(monkeypatch: pytest.MonkeyPatch) -> Callable[[Platform], None]:
    """A function that has layers computed in the form of a platform, on one device.

    The cache of traces does not see the change, so a test needs constants that are no other test's.
    """

    def patch(platform: Platform) -> None:
        monkeypatch.setattr(platforms, "is_partitioned", lambda: False)
        monkeypatch.setattr(fused, "on_platform", lambda function, *args: function(platform, *args))

    return patch
