"""The discriminator once more, in PyTorch and float64, as a function of a dict of parameters.

Written from the description of BigGAN-deep alone; nothing here knows the package under test but the
names and layouts of its parameters.
"""

import numpy as np


def run(case: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scores and the norms of the gradients, by the images and by each parameter."""
    import torch  # here, so that collecting doctests does without it

    p = {
        name: torch.tensor(value).double().requires_grad_(name != "labels")
        for name, value in case.items()
    }
    scores = _scores(torch, p, _normalized(torch, p))
    (scores * p["cotangent"].detach()).sum().backward()
    skipped = ("u/", "labels", "cotangent")
    norms = {
        name: tensor.grad.norm().item()
        for name, tensor in p.items()
        if not name.startswith(skipped)
    }
    return {"scores": scores.detach().numpy(), **norms}


def _scores(torch, p, weights):
    functional = torch.nn.functional
    relu = functional.relu

    def conv(x, name):
        kernel = weights[f"{name}/kernel"].permute(3, 2, 0, 1)
        bias = p.get(f"{name}/bias")
        return functional.conv2d(x, kernel, bias, padding=kernel.shape[-1] // 2)

    def block(x, name, downsample):
        h = conv(relu(x), f"{name}/conv1")
        h = conv(relu(h), f"{name}/conv2")
        h = relu(conv(relu(h), f"{name}/conv3"))
        if downsample:
            h, x = functional.avg_pool2d(h, 2), functional.avg_pool2d(x, 2)
        h = conv(h, f"{name}/conv4")
        if f"{name}/shortcut_conv/kernel" in weights:
            x = torch.cat([x, conv(x, f"{name}/shortcut_conv")], 1)
        return h + x

    def attention(x):
        n, c, height, width = x.shape
        theta = conv(x, "non_local/theta").view(n, c // 8, -1)
        phi = functional.max_pool2d(conv(x, "non_local/phi"), 2).view(n, c // 8, -1)
        g = functional.max_pool2d(conv(x, "non_local/g"), 2).view(n, c // 2, -1)
        weight = torch.softmax(torch.bmm(theta.transpose(1, 2), phi), -1)
        o = torch.bmm(g, weight.transpose(1, 2)).view(n, c // 2, height, width)
        return x + p["non_local/gamma"] * conv(o, "non_local/output")

    x = conv(p["images"].permute(0, 3, 1, 2), "stem_conv")
    x = block(block(x, "stage1_block1", True), "stage1_block2", False)
    x = attention(x)
    x = block(block(x, "stage2_block1", True), "stage2_block2", False)
    x = block(block(x, "stage3_block1", False), "stage3_block2", False)
    h = relu(x).sum((2, 3))
    embedded = weights["class_embedding/embedding"][p["labels"].long()]
    return (h @ weights["linear/kernel"] + p["linear/bias"])[:, 0] + (embedded * h).sum(1)


def _normalized(torch, p):
    """Kernels over their sigma, after one step of the power method from the given u."""

    def unit(x):
        return torch.nn.functional.normalize(x, dim=0, eps=1e-6)

    weights, used = {}, {}
    for name in sorted(p, key=lambda name: tuple(name.split("/"))):
        if not name.endswith(("kernel", "embedding")):
            continue
        w = p[name].reshape(-1, p[name].shape[-1])
        shape = "x".join(map(str, w.shape))
        u = p[f"u/{shape}"].detach()[used.get(shape, 0)]
        used[shape] = used.get(shape, 0) + 1
        with torch.no_grad():
            v = unit(w @ u)
            u = unit(w.T @ v)
        weights[name] = p[name] / torch.dot(v, torch.mv(w, u))
    return weights
