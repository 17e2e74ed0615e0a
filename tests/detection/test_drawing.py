"""Pictures of objects."""

import numpy as np

from evonorm_jax.detection.drawing import Drawn, draw_objects, sheet


def test_a_mask_and_a_box_are_drawn_where_they_are():
    picture = np.zeros((256, 256, 3), np.uint8)
    mask = np.zeros((256, 256), bool)
    mask[100:110, 120:140] = True
    drawn = np.asarray(draw_objects(picture, [Drawn((90, 100, 130, 160), mask)]))
    changed = drawn.any(axis=-1)
    assert changed[mask].all()
    outline = np.zeros_like(mask)
    outline[90:130, 100:160] = True
    outline[91:129, 101:159] = False
    np.testing.assert_array_equal(changed, mask | outline)
    assert not picture.any()


def test_small_pictures_are_enlarged_with_their_boxes():
    mask = np.zeros((64, 32), bool)
    drawn = draw_objects(np.zeros((64, 32, 3), np.uint8), [Drawn((0, 0, 64, 32), mask, "cup")])
    assert drawn.size == (128, 256)
    assert np.asarray(drawn)[-1].any(axis=-1).all()  # the lower edge of the box


def test_no_objects():
    picture = np.random.default_rng(0).integers(0, 256, (256, 200, 3)).astype(np.uint8)
    np.testing.assert_array_equal(draw_objects(picture, []), picture)


def test_a_sheet_has_rows_and_columns():
    small, large = (
        draw_objects(np.full((side, side, 3), 255, np.uint8), []) for side in (256, 300)
    )
    whole = np.asarray(sheet([[small, large], [large, small]]))
    assert whole.shape == (604, 604, 3)
    assert whole[:256, :256].all()
    assert not whole[256:304, :256].any()  # below the smaller one, and the gap
    assert not whole[:, 300:304].any()
