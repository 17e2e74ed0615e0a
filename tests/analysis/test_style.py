"""A layer looks the same in every figure, and no two lines of one figure look alike."""

import pytest

from evonorm_jax import norm_act_names
from evonorm_jax.analysis.style import colour_in_text, layer_style, layer_styles

B0, S0 = "evonorm_b0", "evonorm_s0"


def test_every_registered_layer_has_a_look_of_its_own():
    styles = layer_styles(norm_act_names())
    assert len({(s["color"], s["marker"], str(s["linestyle"])) for s in styles}) == len(styles)
    for name, style in zip(norm_act_names(), styles, strict=True):
        assert layer_style(name, [name]) == style


@pytest.mark.parametrize("layers", [[S0, B0], [B0, S0], ["graph:mine: n4 = neg(x)", B0, S0]])
def test_the_look_does_not_depend_on_the_others(layers):
    assert layer_style(B0, layers) == layer_style(B0, [B0])
    assert layer_style(S0, layers) == layer_style(S0, [S0])


def test_lines_of_one_layer_have_its_colour_and_differ_in_the_rest():
    layers = [S0, "evonorm_s0,group_size=8", "evonorm_s1", S0]
    styles = layer_styles(layers)
    assert {style["color"] for style in styles} == {layer_style(S0, [S0])["color"]}
    assert len({style["marker"] for style in styles}) == len(layers)
    assert styles[2] == layer_style("evonorm_s1", ["evonorm_s1"])


def test_searched_layers_have_colours_that_no_other_line_has():
    layers = [B0, *(f"graph:mine{i}: n4 = neg(x)" for i in range(9)), S0]
    styles = layer_styles(layers)
    strangers = styles[1:-1]
    assert not {s["color"] for s in strangers} & {styles[0]["color"], styles[-1]["color"]}
    assert len({(s["color"], s["marker"], str(s["linestyle"])) for s in strangers}) == 9


@pytest.mark.parametrize(
    ("text", "layer"),
    [
        ("BN-ReLU, Flax", "bn_relu"),
        ("BN-ReLU6", "bn_relu6"),
        ("EvoNorm-S0, timm compiled", S0),
        ("evonorm_b0/images_per_worker=2/seed=0", B0),
        ("FRN", "frn"),
    ],
)
def test_the_colour_of_a_layer_is_found_in_a_name(text, layer):
    assert colour_in_text(text) == layer_style(layer, [layer])["color"]
