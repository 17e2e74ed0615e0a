"""Sheets of generated images, drawn by a function whose pixels tell what it was given."""

import numpy as np
from PIL import Image

from evonorm_jax.gan.sheets import (
    TRUNCATIONS,
    class_sheet,
    interpolation_sheet,
    neighbour_sheet,
    truncation_sheet,
    write_sheet,
)


class Recorder:
    """Draws images whose pixels are all the number of the image, and keeps its arguments."""

    def __call__(self, z, labels):
        self.z, self.labels = z, labels
        return np.broadcast_to(
            np.arange(len(z), dtype=np.uint8).reshape(-1, 1, 1, 1), (len(z), 2, 2, 1)
        )


def test_rows_are_classes_and_columns_share_their_noise():
    draw = Recorder()
    sheet = class_sheet(draw, 4, [7, 2], columns=3)
    assert sheet[..., 0, 0, 0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert draw.labels.tolist() == [7, 7, 7, 2, 2, 2]
    np.testing.assert_array_equal(draw.z[:3], draw.z[3:])
    assert len(np.unique(draw.z, axis=0)) == 3


def test_what_moves_in_each_group_of_interpolations():
    draw = Recorder()
    sheet = interpolation_sheet(draw, 4, num_classes=3, columns=5, rows=2)
    assert sheet.shape == (6, 5, 2, 2, 1)
    z, labels = draw.z.reshape(3, 2, 5, 4), draw.labels.reshape(3, 2, 5, 3)
    moves = [(bool(np.ptp(x[g], axis=1).any())) for g in range(3) for x in (labels, z)]
    assert moves == [True, False, False, True, True, True]
    np.testing.assert_allclose(labels.sum(-1), 1)
    np.testing.assert_allclose(labels[0, 0, 2], [0.5, 0.5, 0])
    np.testing.assert_allclose(z[1, 0, 2], (z[1, 0, 0] + z[1, 0, 4]) / 2, rtol=1e-5)


def test_truncation_scales_the_noise():
    draw = Recorder()
    sheet = truncation_sheet(draw, 4, [0, 1, 2])
    assert sheet.shape == (len(TRUNCATIONS), 3, 2, 2, 1)
    z = draw.z.reshape(len(TRUNCATIONS), 3, 4)
    for row, truncation in enumerate(TRUNCATIONS):
        np.testing.assert_allclose(z[row], truncation * z[0], rtol=1e-5)


def test_neighbours_by_hand():
    def image(value):
        return np.full((2, 2, 1), value, np.uint8)

    real = np.stack([image(0), image(100), image(200)])
    sheet = neighbour_sheet(np.stack([image(110), image(10)]), real, columns=3)
    assert sheet[..., 0, 0, 0].tolist() == [[110, 100, 200], [10, 0, 100]]


def test_a_sheet_as_a_file(tmp_path):
    images = np.arange(6, dtype=np.uint8).reshape(2, 3, 1, 1, 1).repeat(20, 2).repeat(20, 3)
    write_sheet(tmp_path / "folder" / "sheet.png", images)
    with Image.open(tmp_path / "folder" / "sheet.png") as file:
        assert (file.mode, file.size) == ("L", (3 * 41 - 1, 2 * 41 - 1))
        pixels = np.asarray(file)
    assert pixels[20, [20, 61, 102]].tolist() == [0, 1, 2]
    assert pixels[61, [20, 61, 102]].tolist() == [3, 4, 5]
    assert set(pixels[:, 40].tolist()) == {255}
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["sheet.png"]
