"""Mistakes in the function `sweep` of a config file."""

import pytest

from evonorm_jax.errors import UserError
from experiments.sweep import load_cells

pytestmark = pytest.mark.hostile


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return None", r"sweep\(\) returns None; it must yield a mapping"),
        ("return 3", r"sweep\(\) returns 3; it must yield"),
        ("return 'seed=0'", r"sweep\(\) returns 'seed=0'; it must yield"),
        ("return {'seed': 0}", r"sweep\(\) returns {'seed': 0}; it must yield"),
        ("return [1, 2]", r"item 1 of sweep\(\) is 1; it must be a mapping"),
        ("yield {'seed': 0}; yield ['seed']", r"item 2 of sweep\(\) is \['seed'\]; it must be"),
        ("yield {0: 'seed'}", r"item 1 of sweep\(\) is {0: 'seed'}; it must be"),
        ("return []", "has no cells"),
        ("return 1 / 0", ", line 5: ZeroDivisionError: division by zero"),
        ("yield {'seed': 0}; yield {}['x']", ", line 5: KeyError: 'x'"),
    ],
)
def test_a_wrong_sweep_function_is_one_message(tmp_path, body, message):
    path = tmp_path / "config.py"
    path.write_text(f"def get_config(arg=''):\n    return None\n\ndef sweep(arg=''):\n    {body}\n")
    with pytest.raises(UserError, match=message) as caught:
        load_cells(str(path), [], tmp_path / "runs")
    assert "has no cells" in message or str(caught.value).startswith(str(path))
