"""Folders of sweeps as `experiments.sweep` leaves them, made by hand."""

import json
from pathlib import Path

from tests.analysis.conftest import event

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write_run(
    root: Path,
    layer: str,
    images_per_worker: int,
    seed: int,
    top1: float | None,
    *,
    measured: bool = True,
    dataset: str = "digits",
    source: str = "embedded",
    model: str = "cifar_resnet20",
    num_workers: int = 1,
    num_steps: int = 0,
) -> Path:
    """One cell, ended with accuracy `top1` (a fraction); None for one that still goes on."""
    name, *fields = layer.split(",")
    values = {field: int(value) for field, value in (f.split("=") for f in fields)}
    path = root / layer / f"images_per_worker={images_per_worker}" / f"seed={seed}"
    if num_steps:
        path = root / layer / f"num_steps={num_steps}" / f"seed={seed}"
    path.mkdir(parents=True)
    config = {
        "seed": seed,
        "num_workers": num_workers,
        "images_per_worker": images_per_worker,
        "num_epochs": 0.0 if num_steps else 2.0,
        "num_steps": num_steps,
        "dataset": {"name": dataset, "source": source},
        "model": {"name": model, "fields": {}, "norm_act": name, "norm_act_fields": values},
    }
    (path / "config.json").write_text(json.dumps(config))
    start = {"time": "2026-01-02T03:04:05+00:00", "commit": COMMIT, "devices": "1 x cpu"}
    (path / "metadata.json").write_text(json.dumps({"starts": [start]}))
    if not measured:
        return path
    last = 0.1 if top1 is None else top1
    lines = [event(10, **{"eval/top1": last / 2}), event(20, **{"eval/top1": last})]
    (path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    if top1 is not None:
        summary = {"eval/top1": top1, "eval/loss": 1.5, "eval/examples": 360, "steps": 20}
        (path / "summary.json").write_text(json.dumps({**summary, "train_seconds": 30.0}))
    return path


def write_sweep(root: Path, **fields: object) -> Path:
    """BN-ReLU falls from 96 to 80 %, GN-ReLU and S0 hold 95; three seeds at sizes 8 and 2."""
    for seed, shift in enumerate((-0.01, 0.0, 0.01)):
        for layer, large, small in (
            ("bn_relu", 0.96, 0.80),
            ("gn_relu,group_size=8", 0.95, 0.95),
            ("evonorm_s0,group_size=8", 0.95, 0.95),
        ):
            write_run(root, layer, 8, seed, large + shift, **fields)
            write_run(root, layer, 2, seed, small + shift, **fields)
    history = [
        {
            "event": "start",
            "time": "2026-01-02T03:00:00+00:00",
            "command": ["python3", "-m", "experiments.sweep", "--config=c.py"],
            "config": "c.py",
            "jobs": 2,
            "machine": "2 x ACME 3000",
        },
        {"event": "end", "time": "2026-01-02T03:10:00+00:00", "seconds": 600.0, "runs": 18},
    ]
    (root / "sweep.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
    return root
