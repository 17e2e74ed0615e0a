from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def _own_traces() -> Iterator[None]:
    """Traces anew: these tests patch what a trace depends on, such as the platform."""
    jax.clear_caches()
    yield
    jax.clear_caches()
