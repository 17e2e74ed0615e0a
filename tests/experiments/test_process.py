"""How a launcher ends: one line whatever went wrong, and an exit code."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.run_files import CONFIG_FILE
from experiments import process, startup
from experiments.process import OutlivingStream, run_main
from tests.experiments.command_line import ROOT

pytestmark = pytest.mark.hostile


@pytest.fixture(autouse=True)
def this_process(monkeypatch, tmp_path):
    """A launcher of the name "train", whose temporary files and handlers end with the test."""
    monkeypatch.setattr(sys, "argv", ["experiments/train.py"])
    monkeypatch.setattr(process.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(process, "_folder", None)
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def end(main, capsys, **fields):
    """The exit code and what stood on stderr."""
    with pytest.raises(SystemExit) as caught:
        run_main(main, **fields)
    return caught.value.code, capsys.readouterr().err


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda folder: (folder / "file" / "figures").mkdir(), "file/figures: Not a directory. "),
        (lambda folder: (folder / "file").mkdir(), "file: File exists. Make room, or name"),
        (lambda folder: folder.write_text(""), "Is a directory"),
        (
            lambda folder: (folder / ("x" * 300)).mkdir(),
            "xx: File name too long. Name another file",
        ),
        (lambda folder: (folder / "circle" / "x").stat(), "symbolic links. Name another file or"),
    ],
)
def test_what_cannot_be_written_is_one_message(write, message, tmp_path, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(SystemExit, match="2"):
        run_main(lambda: write(tmp_path))
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("a mistake"), 2, "train: a mistake\n"),
        (OSError(errno.ENOSPC, "No space left on device", "x.json"), 2, "train: x.json: No space "),
        (ZeroDivisionError("division by zero"), 1, "train: ZeroDivisionError: division by zero ("),
        (RuntimeError("\n\n first\nsecond\nthird"), 1, "train: RuntimeError: first (the tr"),
        (KeyError(), 1, "train: KeyError (the traceback is in "),
        (MemoryError(), 1, "train: There is too little memory for this: use smaller batches. Mem"),
        (RuntimeError("RESOURCE_EXHAUSTED: 9 GB"), 1, "train: There is too little memory for"),
        (FileNotFoundError(2, "No such file", "x"), 1, "train: FileNotFoundError: [Errno 2] No"),
        (RecursionError("maximum"), 1, "train: RecursionError: maximum (the traceback is in"),
        (KeyboardInterrupt(), 130, "train: stopped by Ctrl-C.\n"),
    ],
)
def test_whatever_goes_wrong_is_one_line(error, code, message, capsys, tmp_path):
    found, said = end(raising(error), capsys)
    assert found == code
    assert said.startswith(message)
    assert said.count("\n") == 1
    files = list(tmp_path.glob("evonorm_jax_*.txt"))
    assert len(files) == (code == 1)
    if files:
        assert str(files[0]) in said
        assert f"raise error\n{type(error).__name__}" in files[0].read_text()


def test_the_traceback_lies_with_the_run_once_there_is_one(capsys, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    process.keep_traceback_in(run)
    end(raising(ValueError("before")), capsys)
    assert list(run.iterdir()) == []  # it may be anybody's folder
    (run / CONFIG_FILE).write_text("{}")
    for text in ("one", "two \udcff"):
        _, said = end(raising(ValueError(text)), capsys)
        assert f"the traceback is in {run / 'traceback.txt'}, and --debug prints it" in said
    written = (run / "traceback.txt").read_text()
    assert written.count("Traceback (most recent call last)") == 2
    assert "ValueError: one" in written


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train", "--debug", "--workdir=x"])
    with pytest.raises(ZeroDivisionError):
        run_main(raising(ZeroDivisionError()))
    assert sys.argv == ["train", "--workdir=x"]


def broken_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def full_disk():
    return os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")


@pytest.mark.parametrize("make", [broken_pipe, full_disk])
def test_a_launcher_outlives_its_output(make, monkeypatch):
    done = []

    def main():
        for i in range(5000):
            print(f"line {i}")
            sys.stdout.flush()
            done.append(i)

    with make() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        run_main(main, outlive_stdout=True)
        assert isinstance(sys.stdout, OutlivingStream)
        assert len(done) == 5000
        assert sys.stdout.isatty() is False


def test_a_launcher_that_prints_its_result_ends_where_nobody_reads(monkeypatch):
    with broken_pipe() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit, match="1"):
            run_main(lambda: print("x" * 100_000))


def test_names_that_are_no_text_can_be_printed(monkeypatch, tmp_path):
    with (tmp_path / "out").open("w", encoding="ascii") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        run_main(lambda: print("caf\udce9 \u00b1"))
    assert (tmp_path / "out").read_text() == "caf\\udce9 \\xb1\n"


def test_ctrl_c_raises_once_a_launcher_runs():
    signal.signal(signal.SIGINT, startup._end)
    with pytest.raises(SystemExit, match="130"):
        run_main(lambda: os.kill(os.getpid(), signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL


def python(code, **fields):
    """Runs code as the launcher's process is before the launcher begins."""
    # A shell lets what it starts in the background ignore Ctrl-C, and so do these tests there.
    heeds = "import os, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heeds}; sys.argv = ['-m']; import experiments; {code}"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, timeout=60, **fields)


def test_ctrl_c_before_anything_has_begun_is_one_line():
    code = "os.kill(os.getpid(), signal.SIGINT); print('went on')"
    done = python(code, capture_output=True)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "Stopped by Ctrl-C before anything had begun.\n"


def test_ctrl_c_waits_while_the_process_starts_anew():
    code = (
        "from experiments.startup import start_anew; again = 'AGAIN' in os.environ; "
        "print('anew' if again else 'first', flush=True); "
        "signal.pthread_sigmask(signal.SIG_BLOCK, {2}); os.kill(os.getpid(), 2); "
        "start_anew({**os.environ, 'AGAIN': '1'})"
    )
    done = python(code, capture_output=True)
    assert (done.returncode, done.stdout) == (130, "first\n")
    assert done.stderr == "Stopped by Ctrl-C before anything had begun.\n"


def test_closed_streams_are_open_to_nowhere(tmp_path):
    """Else the first file that is written would be stdout, and get all that is printed."""
    path = tmp_path / "file"
    code = (
        f"file = open({str(path)!r}, 'w'); print('lost', flush=True); "
        "print('lost', file=sys.stderr, flush=True); os.write(1, b'lost'); file.write('kept')"
    )
    command = f"import sys; sys.argv = ['-m']; import experiments, os; {code}"
    shell = ["sh", "-c", 'exec "$0" -c "$1" >&- 2>&- <&-', sys.executable, command]
    assert subprocess.run(shell, cwd=ROOT).returncode == 0
    assert path.read_text() == "kept"
