import json
from pathlib import Path

import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.sweeps.cells import (
    RunStatus,
    cell_name,
    create_cells,
    select_cells,
    train_arguments,
)

OVERRIDES = [
    {"model.norm_act": layer, "images_per_worker": images, "seed": seed}
    for layer in ("bn_relu", "evonorm_s0")
    for images in (4, 2)
    for seed in (0, 1)
]


@pytest.fixture
def cell(tmp_path):
    return create_cells(OVERRIDES[:1], tmp_path)[0]


def test_names_are_readable_and_stable():
    layer = {"model.norm_act": "gn_relu", "model.norm_act_fields.group_size": 8}
    assert cell_name({"seed": 1, **layer}) == "gn_relu,group_size=8/seed=1"
    assert cell_name({"seed": 1, "images_per_worker": 2}) == "seed=1/images_per_worker=2"
    assert cell_name({"dataset.path": "/data/a b.npz"}) == "dataset.path=_data_a b.npz"


def test_a_cell_keeps_its_files_beside_its_run_directory(cell, tmp_path):
    folder = tmp_path / "bn_relu" / "images_per_worker=4"
    assert cell.workdir == folder / "seed=0"
    assert cell.log == folder / "seed=0.log"


def test_a_cell_is_one_training_command(cell, tmp_path):
    assert train_arguments(cell, "sweep.py:npz", ["--config.num_epochs=1.0"]) == [
        "--config=sweep.py:npz",
        f"--workdir={tmp_path}/bn_relu/images_per_worker=4/seed=0",
        "--config.num_epochs=1.0",
        "--config.model.norm_act=bn_relu",
        "--config.images_per_worker=4",
        "--config.seed=0",
    ]


def test_cells_that_cannot_be_told_apart_are_refused(tmp_path):
    with pytest.raises(UserError, match="yields 'bn_relu/images_per_worker=4/seed=0' twice"):
        create_cells([OVERRIDES[0], OVERRIDES[0]], tmp_path)
    with pytest.raises(UserError, match="has no cells"):
        create_cells([], tmp_path)


@pytest.mark.parametrize(
    ("patterns", "count"),
    [([], 8), (["bn_relu/*"], 4), (["*/seed=0"], 4), (["bn_relu/*", "*/seed=0"], 6)],
)
def test_cells_are_selected_by_name(patterns, count):
    selected = select_cells(create_cells(OVERRIDES, Path("runs")), patterns)
    assert len(selected) == count
    assert [c.name for c in selected] == list(dict.fromkeys(c.name for c in selected))


def test_a_pattern_without_cells_is_refused():
    with pytest.raises(UserError, match=r"--only 'gn\*' matches no cell .* 'bn_relu/images_per"):
        select_cells(create_cells(OVERRIDES, Path("runs")), ["*/seed=0", "gn*"])


def test_a_pattern_may_leave_out_the_fields_of_the_layer():
    fields = {"model.norm_act_fields.group_size": 8}
    cells = create_cells([{**overrides, **fields} for overrides in OVERRIDES], Path("runs"))
    assert len(select_cells(cells, ["evonorm_s0/*"])) == 4
    assert len(select_cells(cells, ["evonorm_s0,group_size=8/*/seed=0"])) == 2
    near = "'evonorm_s0,group_size=8/images_per_worker=4/seed="
    with pytest.raises(UserError, match=f"matches no cell .*{near}"):
        select_cells(cells, ["evonorm_s1/images_per_worker=4/*"])


def test_the_status_is_what_the_run_has_logged(cell):
    assert cell.status() == RunStatus()
    assert not cell.is_started()
    assert cell.num_steps() is None
    cell.workdir.mkdir(parents=True)
    rows = [
        {"step": 10, "time": 100.0, "train/top1": 0.1},
        {"step": 20, "time": 1000.0, "train/top1": 0.2},  # resumed much later
        {"step": 20, "time": 1002.0, "eval/top1": 0.5},
        {"step": 40, "time": 1004.0, "train/top1": 0.3},
    ]
    lines = [json.dumps(row) + "\n" for row in rows]
    (cell.workdir / "metrics.jsonl").write_text("".join(lines) + '{"step": 41, "ti')
    assert cell.status(since=900.0) == RunStatus(step=40, value=0.5, seconds_per_step=0.2)
    assert cell.status(since=2000.0) == RunStatus(step=40, value=0.5, seconds_per_step=0.0)
    (cell.workdir / "metrics.jsonl").write_text(lines[0])
    assert cell.status() == RunStatus(step=10, value=0.1)


def test_only_the_end_of_a_long_log_is_read(cell):
    cell.workdir.mkdir(parents=True)
    rows = [json.dumps({"step": i, "time": float(i), "train/top1": 0.5}) for i in range(5000)]
    (cell.workdir / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    assert cell.status() == RunStatus(step=4999, value=0.5, seconds_per_step=1.0)


def test_the_summary_says_that_a_run_is_finished(cell):
    cell.workdir.mkdir(parents=True)
    (cell.workdir / "config.json").write_text("{}")
    (cell.workdir / "metadata.json").write_text('{"starts": [{"resolved": {"num_steps": 70}}]}')
    assert (cell.is_started(), cell.is_finished(), cell.num_steps()) == (True, False, 70)
    (cell.workdir / "summary.json").write_text('{"eval/top1": 0.75}')
    assert (cell.is_finished(), cell.final_value()) == (True, "75.00 %")


@pytest.mark.hostile
@pytest.mark.parametrize("name", ["summary.json", "metadata.json", "metrics.jsonl", "config.json"])
@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "[" * 100_000, '{"starts": [3], "metrics": 3, "step": 1, "time": "x"}'),
        '{"starts": [{"resolved": {"num_steps": Infinity}}]}',
    ],
)
def test_damaged_files_of_a_run_stop_no_sweep(cell, name, text):
    cell.workdir.mkdir(parents=True)
    (cell.workdir / name).write_text(text)
    assert cell.num_steps() is None
    assert cell.status(since=1.0).step == 0
    assert cell.is_finished() == (name == "summary.json" and text.startswith("{"))
    assert cell.final_value() == ""
