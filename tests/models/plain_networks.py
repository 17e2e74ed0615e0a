"""Blocks and networks as plain functions of their parameters.

They run on JAX arrays for their gradients and on NumPy's float64 for the rest. Group-wise layers
have 32 groups at most, and what a block adds is decided by its parameters and shapes alone.
"""

import functools

EPSILON = 1e-5


def plain_shifts(x, size, strides):
    """The zero-padded image under each of the size x size taps, `[taps, N, H, W, C]`."""
    xp = x.__array_namespace__()
    margin = (size - 1) // 2
    height, width = x.shape[1:3]
    padded = xp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    return xp.stack(
        [
            padded[:, row : row + height : strides, column : column + width : strides]
            for row in range(size)
            for column in range(size)
        ]
    )


def plain_conv(x, params, strides=1):
    """Zero-padded convolution as a sum over shifted copies of the image."""
    kernel = params["kernel"]
    shifted = plain_shifts(x, len(kernel), strides)
    weights = kernel.reshape(-1, *kernel.shape[2:])
    return x.__array_namespace__().einsum("knhwc,kcf->nhwf", shifted, weights)


def plain_depthwise(x, params, strides=1):
    """The same with each channel on its own."""
    kernel = params["kernel"]
    shifted = plain_shifts(x, len(kernel), strides)
    weights = kernel.reshape(-1, kernel.shape[-1])
    return x.__array_namespace__().einsum("knhwc,kc->nhwc", shifted, weights)


def plain_evonorm_s0(x, params):
    xp = x.__array_namespace__()
    n, h, w, c = x.shape
    groups = max(g for g in range(1, 33) if c % g == 0)
    grouped = x.reshape(n, h * w, groups, c // groups)
    centred = grouped - grouped.mean(axis=(1, 3), keepdims=True)
    std = xp.sqrt((centred**2).mean(axis=(1, 3), keepdims=True) + EPSILON)
    y = x / (1 + xp.exp(-params["v"] * x))
    y = (y.reshape(grouped.shape) / std).reshape(x.shape)
    return y * params["scale"] + params["bias"]


def plain_batch_norm(x, params):
    xp = x.__array_namespace__()
    centred = x - x.mean(axis=(0, 1, 2))
    y = centred / xp.sqrt((centred**2).mean(axis=(0, 1, 2)) + EPSILON)
    return y * params["scale"] + params["bias"]


def plain_bn_relu(x, params):
    xp = x.__array_namespace__()
    return xp.maximum(plain_batch_norm(x, params), 0)


def plain_bn_silu(x, params):
    return plain_silu(plain_batch_norm(x, params))


def plain_basic(x, p, layer, strides):
    y = layer(x, p["norm1"])
    shortcut = plain_conv(y, p["shortcut_conv"], strides) if "shortcut_conv" in p else x
    y = plain_conv(y, p["conv1"], strides)
    return plain_conv(layer(y, p["norm2"]), p["conv2"]) + shortcut


def plain_bottleneck(x, p, layer, strides, avg_down=False):
    y = layer(x, p["norm1"])
    shortcut = x
    if "shortcut_conv" in p:
        pooled, step = (plain_avg_pool(y, strides), 1) if avg_down else (y, strides)
        shortcut = plain_conv(pooled, p["shortcut_conv"], step)
    y = plain_conv(y, p["conv1"])
    y = plain_conv(layer(y, p["norm2"]), p["conv2"], strides)
    return plain_conv(layer(y, p["norm3"]), p["conv3"]) + shortcut


def plain_basic_v1(x, p, layer, strides):
    xp = x.__array_namespace__()
    y = layer(plain_conv(x, p["conv1"], strides), p["norm1"])
    y = plain_batch_norm(plain_conv(y, p["conv2"]), p["norm2"])
    return xp.maximum(y + plain_shortcut_v1(x, p, strides), 0)


def plain_bottleneck_v1(x, p, layer, strides, avg_down=False):
    xp = x.__array_namespace__()
    y = layer(plain_conv(x, p["conv1"]), p["norm1"])
    y = layer(plain_conv(y, p["conv2"], strides), p["norm2"])
    y = plain_batch_norm(plain_conv(y, p["conv3"]), p["norm3"])
    return xp.maximum(y + plain_shortcut_v1(x, p, strides, avg_down), 0)


def plain_shortcut_v1(x, p, strides, avg_down=False):
    if "shortcut_conv" not in p:
        return x
    if avg_down:
        x, strides = plain_avg_pool(x, strides), 1
    return plain_batch_norm(plain_conv(x, p["shortcut_conv"], strides), p["shortcut_norm"])


def plain_avg_pool(x, side):
    """The mean of each square of that side, of what there is of it at the far edges."""
    xp = x.__array_namespace__()
    rows = [
        [x[:, i : i + side, j : j + side].mean(axis=(1, 2)) for j in range(0, x.shape[2], side)]
        for i in range(0, x.shape[1], side)
    ]
    return xp.stack([xp.stack(row, 1) for row in rows], 1)


def plain_stem(images, params, layer=None):
    """7x7/2 convolution, the layer if there is one, and 3x3/2 max-pool."""
    x = plain_conv(images, params["stem_conv"], 2)
    return plain_max_pool(x if layer is None else layer(x, params["stem_norm"]))


def plain_deep_stem(images, params, layer):
    """Three 3x3 convolutions, the first of stride 2, with layers between them, and max-pool."""
    x = layer(plain_conv(images, params["stem_conv1"], 2), params["stem_norm1"])
    x = layer(plain_conv(x, params["stem_conv2"]), params["stem_norm2"])
    x = plain_conv(x, params["stem_conv3"])
    return plain_max_pool(layer(x, params["stem_norm"]) if "stem_norm" in params else x)


def plain_max_pool(x):
    xp = x.__array_namespace__()
    height, width = x.shape[1:3]
    padded = xp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-xp.inf)
    windows = [
        padded[:, row : row + height : 2, column : column + width : 2]
        for row in range(3)
        for column in range(3)
    ]
    return functools.reduce(xp.maximum, windows)


def plain_head(x, params):
    return x.mean(axis=(1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]


def plain_resnet(images, p):
    x = plain_stem(images, p)
    x = plain_bottleneck(x, p["stage1_block1"], plain_evonorm_s0, 1)
    x = plain_bottleneck(x, p["stage2_block1"], plain_evonorm_s0, 2)
    return plain_head(plain_evonorm_s0(x, p["head_norm"]), p)


def plain_resnet_v1(images, p):
    x = plain_stem(images, p, plain_bn_relu)
    x = plain_bottleneck_v1(x, p["stage1_block1"], plain_bn_relu, 1)
    x = plain_bottleneck_v1(x, p["stage2_block1"], plain_bn_relu, 2)
    return plain_head(x, p)


def plain_resnet_d(images, p):
    x = plain_deep_stem(images, p, plain_evonorm_s0)
    x = plain_bottleneck(x, p["stage1_block1"], plain_evonorm_s0, 1, avg_down=True)
    x = plain_bottleneck(x, p["stage2_block1"], plain_evonorm_s0, 2, avg_down=True)
    return plain_head(plain_evonorm_s0(x, p["head_norm"]), p)


def plain_resnet_v1_d(images, p):
    x = plain_deep_stem(images, p, plain_bn_relu)
    x = plain_bottleneck_v1(x, p["stage1_block1"], plain_bn_relu, 1, avg_down=True)
    x = plain_bottleneck_v1(x, p["stage2_block1"], plain_bn_relu, 2, avg_down=True)
    return plain_head(x, p)


def plain_cifar_resnet(images, p):
    x = plain_conv(images, p["stem_conv"])
    for stage, strides in ((1, 1), (2, 2), (3, 2)):
        x = plain_basic(x, p[f"stage{stage}_block1"], plain_evonorm_s0, strides)
    return plain_head(plain_evonorm_s0(x, p["head_norm"]), p)


def plain_relu(x):
    return x.__array_namespace__().maximum(x, 0)


def plain_silu(x):
    return x / (1 + x.__array_namespace__().exp(-x))


def plain_squeeze_excite(x, p, activation):
    xp = x.__array_namespace__()
    z = activation(x.mean(axis=(1, 2)) @ p["reduce"]["kernel"] + p["reduce"]["bias"])
    z = z @ p["expand"]["kernel"] + p["expand"]["bias"]
    return x / (1 + xp.exp(-z))[:, None, None, :]


def plain_inverted_residual(x, p, layer, linear, strides, activation=plain_silu):
    """`linear` is the layer without its nonlinearity, `activation` that of squeeze-excite."""
    y = x
    if "expand_conv" in p:
        y = layer(plain_conv(y, p["expand_conv"]), p["expand_norm"])
    y = layer(plain_depthwise(y, p["depthwise_conv"], strides), p["depthwise_norm"])
    if "squeeze_excite" in p:
        y = plain_squeeze_excite(y, p["squeeze_excite"], activation)
    y = linear(plain_conv(y, p["project_conv"]), p["project_norm"])
    return x + y if y.shape == x.shape else y


def plain_affine(x, params):
    return x * params["scale"] + params["bias"]


def plain_inverted_residual_network(images, p, layer, linear, strides, activation=plain_silu):
    """`strides` are those of the stem and of the blocks, in order."""
    x = layer(plain_conv(images, p["stem_conv"], strides[0]), p["stem_norm"])
    blocks = sorted(name for name in p if name.startswith("stage"))
    for name, block_strides in zip(blocks, strides[1:], strict=True):
        x = plain_inverted_residual(x, p[name], layer, linear, block_strides, activation)
    return plain_head(layer(plain_conv(x, p["head_conv"]), p["head_norm"]), p)
