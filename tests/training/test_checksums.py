"""Damage to a checkpoint, of every file and of many kinds: none goes unnoticed."""

import json
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import struct
from ml_collections import ConfigDict

from evonorm_jax.errors import UserError
from evonorm_jax.training import checksums
from evonorm_jax.training.checkpoint import Checkpoints

pytestmark = pytest.mark.hostile


@struct.dataclass
class State:
    step: np.ndarray
    params: dict
    ema: dict


STATE = State(np.int32(2), {"a": np.arange(600, dtype=np.float32), "b": np.ones(3, np.float16)}, {})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run directory with checkpoints of the steps 1 and 2."""
    workdir = tmp_path_factory.mktemp("run")
    with Checkpoints(workdir) as checkpoints:
        for step in (1, 2):
            state = jax.device_put(STATE.replace(step=np.int32(step)))
            checkpoints.save(state, ConfigDict({"seed": 0}))
    return workdir


@pytest.fixture
def copy(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    return tmp_path / "run"


def flip(position):
    def damage(content):
        changed = bytearray(content)
        changed[int(position * (len(changed) - 1))] ^= 0x10
        return bytes(changed)

    return damage


DAMAGES = {
    "empty": lambda content: b"",
    "cut by a byte": lambda content: content[:-1],
    "cut in half": lambda content: content[: len(content) // 2],
    "one byte more": lambda content: content + b"\0",
    "zeros": lambda content: bytes(len(content)),
    "noise": lambda content: np.random.default_rng(0).bytes(len(content)),
    **{f"flipped at {p}": flip(p) for p in (0, 0.25, 0.5, 0.75, 1)},
}


def files_of(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file())


def test_what_was_written_is_whole(saved):
    folder = saved / "checkpoints" / "2"
    assert checksums.has_checksums(folder)
    assert checksums.find_damage(folder) is None
    named = json.loads((folder / "checksums.json").read_text())["files"]
    there = {p.relative_to(folder).as_posix() for p in files_of(folder)}
    assert {*named, "checksums.json"} == there
    assert {"state/_METADATA", "data/metadata", "config/metadata", "_CHECKPOINT_METADATA"} <= there


def test_every_damage_of_every_file_is_found(copy):
    folder = copy / "checkpoints" / "2"
    files, tried = files_of(folder), 0
    assert len(files) > 10
    for file in files:
        content = file.read_bytes()
        for name, damage in DAMAGES.items():
            if (file.name, name) == ("checksums.json", "cut by a byte"):
                continue  # the line break at its end, which says nothing
            file.write_bytes(damage(content))
            found = checksums.find_damage(folder)
            assert found is not None, f"{file}: {name}"
            if file.name != "checksums.json":  # where any of the others may be named
                assert found.startswith(file.relative_to(folder).as_posix()), f"{file}: {name}"
            tried += 1
        file.unlink()
        assert "is missing" in checksums.find_damage(folder)
        file.mkdir()
        assert checksums.find_damage(folder) is not None
        file.rmdir()
        file.write_bytes(content)
        tried += 2
    assert checksums.find_damage(folder) is None
    assert tried >= 50


def test_a_folder_that_is_gone_is_damage(copy):
    folder = copy / "checkpoints" / "2"
    shutil.rmtree(folder / "state")
    assert checksums.find_damage(folder).endswith("is missing")


@pytest.mark.parametrize(
    "text",
    ["[]", "3", "{}", '{"files": {}}', '{"files": [1]}', '{"files": {"a": 1}}', "[" * 100_000],
)
def test_checksums_that_are_none(copy, text):
    (copy / "checkpoints" / "2" / "checksums.json").write_text(text)
    assert "checksums.json" in checksums.find_damage(copy / "checkpoints" / "2")


def test_the_newest_whole_one_is_read(copy, caplog):
    directory = copy / "checkpoints"
    (directory / "2" / "state" / "_METADATA").unlink()
    with Checkpoints(copy, read_only=True) as checkpoints:
        assert checkpoints.restore(STATE)[0].step == 1
        assert checkpoints.read_variables()[0] == 1
        with pytest.raises(UserError, match=r"2 is damaged: state/_METADATA is .* Whole ones: 1\."):
            checkpoints.restore(STATE, 2)
    assert "the checkpoint of step 1 is taken" in caplog.text
    assert f"{directory / '2'}: state/_METADATA is missing" in caplog.text
    assert sorted(p.name for p in directory.iterdir()) == ["1", "2"]


def test_a_run_moves_a_damaged_one_out_of_its_way(copy):
    for attempt in ("2.damaged", "2.damaged2"):
        (copy / "checkpoints" / "2" / "state" / "_METADATA").write_text("")
        with Checkpoints(copy) as checkpoints:
            state, _ = checkpoints.restore(STATE)
            assert (state.step, checkpoints.latest_step) == (1, 1)
            checkpoints.save(jax.device_put(STATE), ConfigDict({"seed": 0}))
        assert (copy / "checkpoints" / attempt / "state" / "_METADATA").read_text() == ""
        assert checksums.find_damage(copy / "checkpoints" / "2") is None


# Orbax reads all arrays at once and ends its event loop when the first one fails. The others then
# call a closed loop from threads of their own ("Event loop is closed", raised in no Python frame).
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning"
)
def test_one_of_an_earlier_version_is_taken_if_it_can_be_read(tmp_path, caplog):
    manager = ocp.CheckpointManager(
        tmp_path / "checkpoints",
        item_handlers={
            "state": ocp.StandardCheckpointHandler(),
            "data": ocp.JsonCheckpointHandler(),
        },
    )
    for step in (1, 2):
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(STATE.replace(step=np.int32(step))),
            data=ocp.args.JsonSave({"train_seconds": 2.5}),
        )
        manager.save(step, args=arguments)
    manager.close()
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.restore(STATE)[0].step == 2
        shutil.rmtree(tmp_path / "checkpoints" / "2" / "state" / "d")
        assert checkpoints.restore(STATE)[0].step == 1
    assert "2: it cannot be read (" in caplog.text


@pytest.mark.parametrize("when", ["in the background", "at once"])
def test_a_disk_that_is_full_is_one_message(copy, monkeypatch, when):
    full = OSError(28, "No space left on device")

    def fail(*args, **kwargs):
        raise full

    if when == "at once":
        monkeypatch.setattr(ocp.CheckpointManager, "save", fail)
    else:
        monkeypatch.setattr("evonorm_jax.training.checksums.write_checksums", fail)

    def save():
        with Checkpoints(copy) as checkpoints:
            checkpoints.save(
                jax.device_put(STATE.replace(step=np.int32(3))), ConfigDict({"seed": 0})
            )
            checkpoints.wait()

    with pytest.raises(UserError, match=r"\(No space left on device\)\. Make room"):
        save()
    monkeypatch.undo()
    with Checkpoints(copy) as checkpoints:
        assert checkpoints.restore(STATE)[0].step == 2


def test_a_folder_that_is_removed_meanwhile_is_not_made_anew(copy):
    def save():
        with Checkpoints(copy) as checkpoints:
            shutil.rmtree(copy)
            state = jax.device_put(STATE.replace(step=np.int32(3)))
            checkpoints.save(state, ConfigDict({"seed": 0}))

    with pytest.raises(UserError, match="the folder has been removed"):
        save()
    assert not copy.exists()
