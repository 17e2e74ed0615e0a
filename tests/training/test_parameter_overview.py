import jax.numpy as jnp
import numpy as np

from evonorm_jax.training.parameter_overview import parameter_overview


def test_every_array_and_the_total():
    params = {
        "stem": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.zeros(3, jnp.bfloat16)},
        "head": np.full((40, 50), 1234.5, np.float32),
    }
    header, rule, *rows, total = parameter_overview(params).splitlines()
    assert header.replace("|", "").split() == ["Name", "Shape", "Dtype", "Size", "Mean", "Std"]
    assert set(rule) == {"|", "-"}
    assert {len(line) for line in (header, rule, *rows)} == {len(header)}  # a straight table
    # The standard deviation of 0 to 5 is sqrt(35 / 12) = 1.708.
    assert [[cell.strip() for cell in row.strip("|").split("|")] for row in rows] == [
        ["head", "(40, 50)", "float32", "2,000", "1.23e+03", "0"],
        ["stem/bias", "(3,)", "bfloat16", "3", "0", "0"],
        ["stem/kernel", "(2, 3)", "float32", "6", "2.5", "1.71"],
    ]
    assert total == "Total: 2,009 parameters, 8,030 bytes"
