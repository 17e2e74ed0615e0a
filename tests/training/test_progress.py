import io

import pytest

from evonorm_jax.metrics import CLASSIFICATION
from evonorm_jax.training import progress as progress_module
from evonorm_jax.training.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests move by hand, in seconds."""
    now = [100.0]
    monkeypatch.setattr(progress_module.time, "perf_counter", lambda: now[0])
    return now


def test_speed_and_time_left(clock):
    stream = io.StringIO()
    with Progress(100, 10, images_per_step=64, stream=stream) as progress:
        progress.start(1)
        clock[0] += 5.0
        progress.update(11, CLASSIFICATION.format_line({"loss": 1.25, "top1": 0.5}))
    # 10 steps of 64 images in 5 s; 89 steps left at 2 steps/s
    assert stream.getvalue() == (
        "step 11/100  epoch 1.1/10.0  loss 1.2500  top1 50.00 %  128 images/s  44s left\n"
    )


def test_an_evaluation_says_how_far_it_is(clock):
    stream = io.StringIO()
    progress = Progress(100, 10, images_per_step=64, stream=stream, min_seconds=10.0)
    for done, seconds in ((0, 8.0), (256, 4.0), (512, 1.0), (600, 0.0)):
        progress.evaluated(done, 600)
        clock[0] += seconds
    clock[0] += 12.0
    progress.evaluated(600, 600)  # the result itself follows
    progress.evaluated(0, None)
    progress.evaluated(64, None)
    assert stream.getvalue().splitlines() == [
        "evaluating: 0 of 600 images, compiling first",
        "evaluating: 512 of 600 images",
        "evaluating: 64 images",
    ]


def test_an_evaluation_of_an_unknown_number_of_images_says_none(clock):
    stream = io.StringIO()
    progress = Progress(100, 10, images_per_step=64, stream=stream)
    progress.evaluated(0, None)
    assert stream.getvalue() == "evaluating, compiling first\n"


def test_pauses_do_not_count(clock):
    progress = Progress(100, 10, images_per_step=10, stream=None)
    progress.start(0)
    clock[0] += 2.0
    progress.pause(4)
    clock[0] += 1000.0
    progress.start(4)
    clock[0] += 2.0
    assert progress.seconds == 4.0
    assert progress.images_per_second(8) == 20.0


def test_nothing_is_said_of_speed_before_anything_is_timed(clock):
    progress = Progress(100, 10, images_per_step=10, stream=None)
    assert progress.images_per_second(5) == 0.0


def test_plain_lines_are_thinned(clock):
    stream = io.StringIO()
    progress = Progress(100, 10, images_per_step=10, stream=stream, min_seconds=10)
    progress.start(0)
    for step in range(1, 31):
        clock[0] += 1.0
        progress.update(step, "")
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == [
        "1/100",
        "11/100",
        "21/100",
    ]


def test_a_terminal_has_one_line_that_updates(clock):
    stream = Terminal()
    with Progress(100, 10, images_per_step=10, stream=stream) as progress:
        progress.start(0)
        clock[0] += 1.0
        progress.update(1, "")
        progress.update(2, "")
        progress.report("epoch 1")
        progress.update(3, "")
    text = stream.getvalue()
    assert text.count("\n") == 2  # after the report, and at the end
    assert text.count("\r\x1b[K") == 4
    assert "\x1b[Kepoch 1\n" in text


def test_a_line_never_wraps_on_a_terminal(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    stream = Terminal()
    Progress(100, 10, images_per_step=10, stream=stream).update(1, "loss 1.0000  top1 50.00 %")
    assert len(stream.getvalue().removeprefix("\r\x1b[K")) == 29


def test_training_goes_on_where_the_terminal_is_gone():
    attempts = []

    class Gone(io.StringIO):
        def write(self, text):
            attempts.append(text)
            raise OSError(5, "Input/output error")

    with Progress(100, 10, images_per_step=20, stream=Gone()) as progress:
        progress.report("epoch 1")
        progress.update(1, "loss 1")
        progress.report("epoch 2")
    assert attempts == ["epoch 1\n"]  # after the first failure nothing is tried again
