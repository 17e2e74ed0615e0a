import time

import pytest

from evonorm_jax.training import writers
from evonorm_jax.training.event_files import drop_events_after

pytestmark = pytest.mark.tensorflow


def steps_of(workdir, tag):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(workdir), size_guidance={"tensors": 0}).Reload()
    return [event.step for event in events.Tensors(tag)]


def test_a_resumed_run_has_each_step_once(tmp_path):
    with writers.create_writer(tmp_path, first_process=True, tensorboard=True) as writer:
        for step in range(1, 21):
            writer.write(step, {"train/loss": 1.0 / step, "train/top1": 0.5})
    (file,) = tmp_path.glob("events.*")
    file.write_bytes(file.read_bytes() + file.read_bytes()[-9:])  # what a kill leaves
    assert drop_events_after(tmp_path, 12) == 16  # 2 metrics of 8 steps
    assert drop_events_after(tmp_path, 12) == 0
    time.sleep(1.1)  # the names of event files differ by the second
    with writers.create_writer(tmp_path, first_process=True, tensorboard=True) as writer:
        for step in range(13, 21):
            writer.write(step, {"train/loss": 1.0 / step, "train/top1": 0.5})
    assert len(list(tmp_path.glob("events.*"))) == 2
    assert steps_of(tmp_path, "train/loss") == steps_of(tmp_path, "train/top1") == [*range(1, 21)]


@pytest.mark.hostile
@pytest.mark.parametrize("content", [b"", b"\xff" * 99, bytes(99), b"12345678"])
def test_what_is_no_event_file_is_no_obstacle(tmp_path, content):
    (tmp_path / "events.out.tfevents.1").write_bytes(content)
    assert drop_events_after(tmp_path, 12) == 0


def test_event_files_hold_the_scalars(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    assert writers.tensorboard_available()
    with writers.create_writer(tmp_path, first_process=True, tensorboard=True) as writer:
        writer.write(3, {"eval/top1": 0.5})
    assert (tmp_path / "metrics.jsonl").exists()
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()
    (event,) = events.Tensors("eval/top1")
    assert event.step == 3
    assert tensor_util.make_ndarray(event.tensor_proto) == 0.5
