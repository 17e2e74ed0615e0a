"""The paper's numbers, checked against what it says of them elsewhere."""

import pytest

from evonorm_jax.analysis import paper


def test_every_row_is_complete():
    layers = {name for rows in paper.IMAGENET.values() for name in rows}
    assert all(set(rows) == layers for rows in paper.IMAGENET.values())
    assert len(layers) == 9
    assert set(paper.BATCH_SIZE) == set(paper.BATCH_SIZE_WORKERS)
    for rows in paper.BATCH_SIZE.values():
        assert {len(row) for row in rows.values()} == {len(paper.BATCH_SIZE_IMAGES_PER_WORKER)}
        assert len(rows) == 7


@pytest.mark.parametrize(
    ("model", "gap"), [("resnet50", 6.8), ("mobilenet_v2", 13.4)]
)  # EvoNorm-S0 less BN-ReLU at 4 images per worker
def test_the_gap_at_small_batches(model, gap):
    rows = paper.BATCH_SIZE[model]
    assert rows["evonorm_s0"][-1] - rows["bn_relu"][-1] == pytest.approx(gap)


def test_the_total_batches_are_those_of_its_figure():
    totals = [8 * size for size in paper.BATCH_SIZE_IMAGES_PER_WORKER]
    assert totals == [1024, 512, 256, 128, 64, 32]
