"""Programs here run once or twice."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_compilation):
    """All modules of this folder."""
