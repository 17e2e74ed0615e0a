"""Config files that are wrong: one message with the file and the line, and none of our frames."""

import pytest

from evonorm_jax.errors import UserError
from experiments import launch, sweep

pytestmark = pytest.mark.hostile

GOOD = "from configs.digits_resnet_evonorm_s0 import get_config\n"


def write(folder, text):
    path = folder / "mine.py"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ny = x / 0\n", "mine.py, line 2: ZeroDivisionError: division by zero\n  y = x / 0"),
        ("def get_config(arg)\n", "mine.py, line 1: SyntaxError: expected ':'\n  def get_config(a"),
        ("x = (\n", "mine.py, line 1: SyntaxError: '(' was never closed"),
        ("import no_such_module\n", "mine.py, line 1: ModuleNotFoundError: No module named 'no_s"),
        ("from configs import nobody\n", "mine.py, line 1: ImportError: cannot import name 'nob"),
        ("raise SystemExit(3)\n", "mine.py, line 1: SystemExit: 3"),
        (b"\x00\x01\xff", "mine.py: SyntaxError: "),
        (b"\x89PNG\r\n", "mine.py"),
        ("x = '\udcff'\n".encode(errors="surrogateescape"), "mine.py"),
        ("", "mine.py has no function get_config(arg)."),
        ("get_config = 3\n", "get_config is 3; it must be a function get_config(arg)."),
        ("def get_config(arg): pass\n", "get_config() returns None; it must return an ml_col"),
        ("def get_config(arg): return {}\n", "get_config() returns {}; it must return an ml_col"),
        ("def get_config(a, b): pass\n", "get_config(a, b) must take one argument, as get_config("),
        ("def get_config(*, a): pass\n", "get_config(*, a) must take one argument"),
        (
            "def helper():\n  raise ValueError\n\ndef get_config(arg):\n  return helper()\n",
            "mine.py, line 2: ValueError\n  raise ValueError",
        ),
        (
            "from configs import recipes\ndef get_config(arg):\n"
            "  config = recipes.digits('frn')\n  config.optimzer.name = 'sgd'\n  return config\n",
            "mine.py, line 4: AttributeError: ",
        ),
        (
            "from configs import recipes\ndef get_config(arg):\n"
            "  config = recipes.digits('frn')\n  config.seed = 'x'\n  return config\n",
            "mine.py, line 4: TypeError: ",
        ),
        (
            "from ml_collections import ConfigDict\ndef get_config(arg):\n"
            "  return ConfigDict({'search': {}, 'space': {}, 'protocol': {}})\n",
            "is the config of a search: give it to experiments.search.",
        ),
    ],
)
def test_one_message(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        launch.parse_config(str(path), [])
    assert message in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert "importlib" not in str(caught.value)


def test_the_config_of_a_training_given_to_a_search(tmp_path):
    path = write(tmp_path, GOOD)
    message = r"is the config of a training: give it to experiments\.train or experiments\.sweep\."
    with pytest.raises(UserError, match=message):
        launch.parse_config(str(path), [], "search")


def test_a_function_without_parameters_will_do_where_no_argument_is_given(tmp_path):
    text = "from configs import recipes\ndef get_config():\n  return recipes.digits('frn')\n"
    path = write(tmp_path, text)
    assert launch.parse_config(str(path), []).model.norm_act == "frn"
    with pytest.raises(UserError, match=r"takes no argument, and 'smoke' was given: leave ':smok"):
        launch.parse_config(f"{path}:smoke", [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def sweep(arg):\n  yield {'seed': 1 / 0}\n", "line 3: ZeroDivisionError"),
        ("def sweep(arg):\n  return map(int, ['a'])\n", "mine.py: ValueError: invalid literal"),
        (
            "def sweep(arg):\n  yield {'optimizer.momentum': 2.0}\n",
            "momentum=2.0; it must be",
        ),
        ("def sweep(arg):\n  yield {'num_epochs': 1e999}\n", "--config.num_epochs=inf"),
        ("sweep = None\n", "sweep is None; it must be a function sweep(arg)."),
        ("", "has no function sweep(arg)"),
    ],
)
def test_a_sweep_is_checked_before_anything_runs(tmp_path, text, message):
    path = write(tmp_path, GOOD + text)
    with pytest.raises(UserError) as caught:
        sweep.load_cells(str(path), [], tmp_path / "runs")
    assert message in str(caught.value)
    assert not (tmp_path / "runs").exists()
