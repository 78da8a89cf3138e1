import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ssd import visualize

BOXES = np.array([[0.1, 0.1, 0.5, 0.6], [0.4, 0.4, 0.95, 0.95], [-0.2, -0.2, 1.4, 1.4], [0.9, 0.0, 1.0, 0.1]])
LABELS = ["red cell", "platelet", "everything", "x"]
SCORES = [0.99, 0.5, 0.25, 0.01]


@pytest.mark.parametrize("size", [(1, 1), (40, 40), (1, 400), (41, 29), (300, 300), (1920, 1080), (4000, 2250)])
def test_draws_at_any_size(size):
    picture = visualize.draw(Image.new("RGB", size, "gray"), BOXES * np.tile(size, 2), LABELS, SCORES)
    assert picture.mode == "RGB"
    factor = picture.width // size[0]
    assert picture.size == (size[0] * factor, size[1] * factor)
    assert factor == 1 if max(size) >= 320 else max(picture.size) >= 320
    assert len(picture.getcolors(picture.width * picture.height)) > 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I", "I;16", "F"])
def test_takes_every_mode_and_leaves_the_image_alone(mode):
    image = Image.new(mode, (400, 320))
    before = image.tobytes()
    assert visualize.draw(image, BOXES * 300, LABELS, SCORES).size == (400, 320)
    assert image.tobytes() == before


def test_sixteen_bits_keep_the_upper_byte():
    image = Image.fromarray(np.array([[0, 256, 0x8000, 0xFFFF]], np.uint16))
    assert np.asarray(visualize.as_rgb(image))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_a_box_has_its_color_at_its_edge_and_the_image_inside():
    picture = np.asarray(
        visualize.draw(Image.new("RGB", (400, 400)), [[100, 120, 200, 300]], [""], colors=[(9, 200, 30)])
    )
    for x, y in ((100, 200), (200, 200), (150, 120), (150, 300)):
        assert picture[y, x].tolist() == [9, 200, 30]
    assert picture[200, 150].tolist() == [0, 0, 0]


@pytest.mark.parametrize("box", [(0, 0, 50, 50), (380, 0, 400, 30), (0, 380, 40, 400), (395, 395, 400, 400)])
def test_tags_stay_inside(box):
    color = (250, 10, 200)
    picture = np.asarray(
        visualize.draw(Image.new("RGB", (400, 400)), [box], ["a long enough name"], [0.5], colors=[color])
    )
    letters = visualize.text_size((400, 400))
    width, height = visualize.tag_extent("a long enough name 0.50", letters)
    tagged = (picture == color).all(axis=-1)
    assert tagged.sum() > 0.4 * width * height  # nothing cut off but for the letters


def test_long_names_are_cut_and_the_score_stays():
    letters = 12
    text = visualize.fit_text("name " * 50, letters, 200, " 0.87")
    assert text.endswith("… 0.87")
    assert visualize.tag_extent(text, letters)[0] <= 200
    assert visualize.fit_text("short", letters, 200, " 0.87") == "short 0.87"


def test_lines_and_letters_grow_with_the_image():
    assert visualize.line_width((40, 40)) == 1
    assert visualize.line_width((4000, 3000)) >= 8
    assert visualize.text_size((320, 240)) == 11
    assert visualize.text_size((4000, 3000)) >= 60


def test_colors_of_twenty_classes_differ():
    colors = np.array([visualize.class_color(index) for index in range(1, 21)], float)
    distance = np.linalg.norm(colors[:, None] - colors[None], axis=-1)
    assert distance[~np.eye(20, dtype=bool)].min() > 40


def test_no_boxes():
    image = Image.new("RGB", (400, 300), "teal")
    assert np.array_equal(np.asarray(visualize.draw(image, np.zeros((0, 4)), [])), np.asarray(image))


@given(
    box=st.tuples(*[st.floats(allow_nan=True, allow_infinity=True) for _ in range(4)]),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
def test_any_box_is_drawn_or_clipped(box, size):
    visualize.draw(Image.new("RGB", size), [box], ["name"], [0.5], least_side=0)
