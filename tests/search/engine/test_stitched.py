"""A network in pieces against the network whole, and how it is cut."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.graphs import LIBRARY, canonical
from evonorm_jax.graphs.nodewise import initial_statistics
from evonorm_jax.search.engine.anchors import ANCHOR_SIZES, Anchor
from evonorm_jax.search.engine.network import Network, WholeNetwork
from evonorm_jax.search.engine.segments import IMAGES
from evonorm_jax.search.engine.stitched import StitchedAnchor, StitchedNetwork

# Squeeze-excite, a residual sum around two layers, a projection and a bottleneck are among them.
ANCHORS = {
    "efficientnet": Anchor(
        "efficientnet_b0_cifar",
        {"stage_sizes": (1, 2), "width_multiplier": 0.25, "stem": "imagenet"},
    ),
    "resnet": Anchor("resnet50_cifar", {"stage_sizes": (2,), "num_filters": 4}),
}
# One each is compared with the whole network, whose compilation takes seconds.
LAYERS = {"efficientnet_b0_cifar": "bn_relu", "resnet50_cifar": "evonorm_s0"}
NUM_CLASSES = 5


@pytest.fixture(scope="module", params=ANCHORS.values(), ids=ANCHORS)
def anchor(request):
    return request.param


@pytest.fixture(scope="module")
def stitched(anchor, quick_compilation):
    return StitchedAnchor(anchor, NUM_CLASSES)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    images = jnp.array(rng.normal(size=(6, 8, 8, 3)), jnp.float32)
    return images, jnp.array(rng.integers(0, NUM_CLASSES, 6))


@pytest.fixture(scope="module")
def params(stitched, batch):
    init = jax.jit(lambda key: stitched.model.init(key, batch[0], train=False)["params"])
    tree = init(jax.random.key(0))
    noise = np.random.default_rng(1)
    return jax.tree.map(lambda p: p + 0.1 * noise.normal(size=p.shape).astype(np.float32), tree)


def statistics(graph, params):
    if "v1" in params:
        initial = initial_statistics(graph).items()
        return {name: make(params["v1"].shape) for name, make in initial}
    parts = {k: statistics(graph, v) for k, v in params.items() if isinstance(v, dict)}
    return {k: v for k, v in parts.items() if v}


def test_equals_the_whole_network(anchor, stitched, batch, params):
    name = LAYERS[anchor.model]
    graph = canonical(LIBRARY[name])
    stats = statistics(graph, params)
    whole = WholeNetwork(anchor, NUM_CLASSES, graph, num_groups=2)
    pieces = StitchedNetwork(stitched, graph, num_groups=2)
    assert isinstance(pieces, Network)
    assert isinstance(whole, Network)
    loss, gradients, after = whole.gradients(params, stats, *batch)
    got_loss, got_gradients, got_after = pieces.gradients(params, stats, *batch)
    np.testing.assert_allclose(got_loss, loss, rtol=1e-6)
    close = {"rtol": 1e-4, "atol": 1e-6}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **close), got_gradients, gradients)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **close), got_after, after)
    assert (name == "bn_relu") == bool(jax.tree.leaves(after))
    np.testing.assert_allclose(
        pieces.logits(params, after, batch[0]),
        whole.logits(params, after, batch[0]),
        rtol=1e-4,
        atol=1e-6,
    )


def test_the_programs_of_a_whole_network_go_with_it_at_once(anchor, stitched, batch, params):
    graph = LIBRARY["bn_relu"]
    whole = WholeNetwork(anchor, NUM_CLASSES, graph, num_groups=2)
    whole.logits(params, statistics(graph, params), batch[0])  # compiles a program
    left = [weakref.ref(whole), weakref.ref(whole.gradients), weakref.ref(whole.logits)]
    gc.disable()
    try:
        del whole
        assert [reference() for reference in left] == [None, None, None]
    finally:
        gc.enable()


def test_every_value_is_made_before_it_is_read(stitched, batch):
    segments = stitched.segments(batch[0].shape)
    known = {IMAGES}
    for segment in segments:
        assert set(segment.inputs) <= known
        known |= set(segment.outputs)
        if segment.layer is not None:
            _, given, made = segment.layer
            assert given in known
            known.add(made)
    assert [segment.layer is None for segment in segments] == [False] * (len(segments) - 1) + [True]


def test_every_parameter_has_one_place(stitched, batch, params):
    segments = stitched.segments(batch[0].shape)
    places = [path for segment in segments for path in segment.params]
    for segment in segments[:-1]:
        places += [(*segment.layer[0], name) for name in ("scale", "bias", "v0", "v1")]
    leaves = jax.tree_util.tree_leaves_with_path(params)
    assert sorted(places) == sorted(tuple(key.key for key in path) for path, _ in leaves)


def test_another_size_of_images_is_cut_anew(stitched, batch):
    small, large = stitched.segments((6, 8, 8, 3)), stitched.segments((2, 12, 12, 3))
    assert [s.layer and s.layer[0] for s in small] == [s.layer and s.layer[0] for s in large]
    assert stitched.segments((6, 8, 8, 3)) is small


@pytest.mark.parametrize("size", ANCHOR_SIZES)
def test_anchors_take_any_layer(size):
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    for anchor in ANCHOR_SIZES[size]:
        model = anchor.create(10, "evonorm_b0")
        variables = jax.eval_shape(lambda x, m=model: m.init(jax.random.key(0), x), images)
        assert variables["params"]["head"]["kernel"].shape[-1] == 10
