import pytest
from ml_collections import ConfigDict

from configs import recipes


@pytest.fixture
def config() -> ConfigDict:
    """A run of two epochs of four steps on fake images: seconds, most of them compiling."""
    return recipes.smoke(recipes.digits("evonorm_s0"))


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_compilation: None) -> None:
    """Every network here is compiled for a few steps."""
