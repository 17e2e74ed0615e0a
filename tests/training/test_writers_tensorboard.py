import pytest

from evonorm_jax.training import writers

pytestmark = pytest.mark.tensorflow


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
