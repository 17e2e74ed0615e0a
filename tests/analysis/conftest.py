"""Run directories as a training run leaves them, made by hand."""

import json
from pathlib import Path

import pytest


class RunMaker:
    """Writes run directories below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(
        self,
        name: str,
        *,
        norm_act: str = "evonorm_s0",
        model: str = "cifar_resnet20",
        images_per_worker: int = 128,
        seed: int = 0,
        lines: list[str] | None = None,
        summary: dict | None = None,
    ) -> Path:
        path = self.root / name
        path.mkdir()
        config = {
            "seed": seed,
            "images_per_worker": images_per_worker,
            "model": {"name": model, "norm_act": norm_act},
        }
        (path / "config.json").write_text(json.dumps(config))
        if lines is None:
            lines = [
                line
                for step in (10, 20, 30)
                for line in (
                    event(step, **{"train/loss": 2.0 / step, "train/top1": step / 40}),
                    event(step, **{"eval/loss": 3.0 / step, "eval/top1": step / 50}),
                )
            ]
        (path / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
        if summary is not None:
            (path / "summary.json").write_text(json.dumps(summary))
        return path


def event(step: int, **metrics: float | None) -> str:
    """One line of metrics.jsonl; ten steps make an epoch."""
    return json.dumps({"step": step, "epoch": step / 10, "time": 1.7e9 + step, **metrics})


@pytest.fixture
def make_run(tmp_path: Path) -> RunMaker:
    return RunMaker(tmp_path)
