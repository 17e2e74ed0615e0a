"""Eight virtual CPU devices and a compile cache for all tests; set before anything imports JAX."""

import os
import sys
import tempfile
from collections.abc import Iterator

import pytest

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
# The launchers that the tests start compile the same few programs again and again.
_cache = tempfile.TemporaryDirectory(prefix="evonorm_jax_tests_", ignore_cleanup_errors=True)
os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"


def pytest_unconfigure() -> None:
    _cache.cleanup()


@pytest.fixture(scope="module", autouse=True)
def forget_programs() -> Iterator[None]:
    """Frees what a module has compiled.

    Thousands of loaded programs use up the memory maps that Linux grants a process (65,530), and
    the compiler then dies.
    """
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


@pytest.fixture(scope="module")
def quick_compilation() -> Iterator[None]:
    """Compiles without optimising: half the time where each program runs once or twice."""
    import jax

    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
