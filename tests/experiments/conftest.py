import sys
from collections.abc import Callable

import pytest

from experiments.process import run_main


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_compilation: None) -> None:
    """Every network here is compiled for a few steps."""


@pytest.fixture
def refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """A function `(main, *arguments) -> message` for bad input, without the cost of a process."""

    def refuse(main: Callable[[], None], *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [main.__module__.rpartition(".")[2], *arguments])
        with pytest.raises(SystemExit) as ended:
            run_main(main)
        assert ended.value.code == 2
        return capsys.readouterr().err

    return refuse


@pytest.fixture
def diverged_averages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The averages of every checkpoint are read as NaN."""
    import jax
    import numpy as np

    from evonorm_jax.training.checkpoint import Checkpoints

    read_variables = Checkpoints.read_variables

    def diverged(self: Checkpoints, step: int | None = None) -> tuple[int, dict, dict]:
        step, variables, averages = read_variables(self, step)
        return step, variables, jax.tree.map(lambda x: x * np.nan, averages)

    monkeypatch.setattr(Checkpoints, "read_variables", diverged)
