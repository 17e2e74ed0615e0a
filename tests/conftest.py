"""Eight virtual CPU devices and a compile cache for all tests; set before anything imports JAX."""

import contextlib
import logging
import os
import pickle
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
# The launchers that the tests start compile the same few programs again and again. The processes of
# pytest-xdist inherit the folder of the one that started them.
_cache: tempfile.TemporaryDirectory[str] | None = None
if "PYTEST_XDIST_WORKER" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="evonorm_jax_tests_", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"


def pytest_unconfigure() -> None:
    if _cache is not None:
        _cache.cleanup()


# Files of few tests that take long. Where several processes share the tests, these come first: the
# short ones that end the suite then leave no process to work alone for a minute.
LONG_FIRST = (
    "tests/notebooks/",
    "tests/experiments/",
    "tests/training/",
    "tests/benchmarks/",
    "tests/test_smoke.py",
    "tests/test_documents.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(LONG_FIRST))


# A program that is loaded takes some of the 65,530 memory maps that Linux grants a process, and
# without one the compiler dies. No module of tests takes more than the rest.
MANY_MEMORY_MAPS = 20_000


def has_many_memory_maps() -> bool:
    try:
        return Path("/proc/self/maps").read_bytes().count(b"\n") > MANY_MEMORY_MAPS
    except OSError:  # another system, where nobody knows
        return True


@pytest.fixture(scope="module", autouse=True)
def forget_programs() -> Iterator[None]:
    """Frees what has been compiled once it is much; until then, later modules find it compiled."""
    yield
    if "jax" in sys.modules and has_many_memory_maps():
        sys.modules["jax"].clear_caches()


@contextlib.contextmanager
def log_levels_restored() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("evonorm_jax", "absl")]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


@pytest.fixture(autouse=True)
def restored_log_levels() -> Iterator[None]:
    """A launcher chooses what is logged for its process, which here is that of all tests."""
    with log_levels_restored():
        yield


@pytest.fixture(scope="module", autouse=True)
def restored_log_levels_of_fixtures() -> Iterator[None]:
    """The same for launchers in the fixtures of a module, which come before those of a test."""
    with log_levels_restored():
        yield


@contextlib.contextmanager
def without_optimising() -> Iterator[None]:
    import jax

    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def quick_compilation() -> Iterator[None]:
    """Compiles without optimising: half the time where each program runs once or twice."""
    with without_optimising():
        yield


def made_once(
    tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Any]
) -> Any:
    """What `make(folder)` returns, once for all processes of pytest-xdist; its files stay there.

    Two processes that begin at the same time make it twice, each in a folder of its own.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    result = shared / f"{name}.pickle"
    if not result.exists():
        made = make(tmp_path_factory.mktemp(name))
        written = result.with_suffix(f".{os.getpid()}")
        written.write_bytes(pickle.dumps(made))
        written.replace(result)
    return pickle.loads(result.read_bytes())


class TrainedRunCase(NamedTuple):
    """A run directory, its data set and the summary of the run."""

    workdir: Path
    images: Path
    summary: dict[str, float]


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> TrainedRunCase:
    """A short run on a folder of three classes that keeps averages; to be read only."""
    import jax

    from configs import recipes
    from evonorm_jax.data import dataset_config
    from evonorm_jax.training import train_and_evaluate
    from tests.data.conftest import write_folder

    def train(root: Path) -> TrainedRunCase:
        images = write_folder(root / "images", {"train": (7, 6, 4), "val": (3, 4, 4)})
        config = recipes.smoke(recipes.digits("evonorm_b0"))
        means = {"mean": (120.0, 125.0, 130.0), "std": (60.0, 65.0, 70.0)}
        sizes = {"image_size": 8, "resize_size": 10, "pad": 1}
        config.dataset = dataset_config(
            "insects", "folder", path=str(images), in_memory=True, **means, **sizes
        )
        config.ema_decay = 0.5
        with without_optimising():
            summary = train_and_evaluate(config, root / "run", devices=jax.devices()[:1])
        return TrainedRunCase(root / "run", images, summary)

    return made_once(tmp_path_factory, "trained", train)


@pytest.fixture(scope="session")
def synthesis_run(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, dict[str, float], str]:
    """A short run of image synthesis: what `train_tiny` returns; to be read only."""
    from tests.training.tasks.test_image_synthesis import train_tiny

    with without_optimising():
        return made_once(tmp_path_factory, "synthesis", train_tiny)
