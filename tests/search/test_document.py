"""The examples of docs/layer_search.md run, one after the other, as a reader would run them."""

import re
from pathlib import Path

from evonorm_jax.graphs.primitives import PRIMITIVES
from evonorm_jax.graphs.reductions import INDEX_SETS

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "layer_search.md").read_text("utf-8")


def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    assert (tmp_path / "swish.json").exists()


def test_every_primitive_is_named():
    named = set(re.findall(r"`(\w+)`", TEXT))
    for primitive in PRIMITIVES.values():
        moment, _, _ = primitive.name.partition("_")
        assert (f"{moment}_S" if primitive.index_set else primitive.name) in named
    assert named >= set(INDEX_SETS)
