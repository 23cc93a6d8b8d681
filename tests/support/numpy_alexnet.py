"""The published nets in float64 NumPy, written from their sources and not from the package.

Weights are named tensors (`conv1/kernel` in height, width, in / groups, out; `fc6/kernel` in, out).
Where the nets have two towers, the first half of the channels is the first tower.
"""

from __future__ import annotations

import numpy as np

# Geometry and order of each net. lrn: (k, alpha that multiplies the sum of squares, beta).
PAPER_LRN = (2.0, 1e-4, 0.75)
NETS = {
    # A single column with pooling before normalization: the common reimplementation.
    "alexnet": {"padding": (2, 2), "orders": ["relu pool lrn", "relu pool lrn", "relu pool"]},
    # torchvision/models/alexnet.py
    "torchvision": {"padding": (2, 2), "orders": ["relu pool", "relu pool", "relu pool"]},
    # The paper, sections 3.3 to 3.5 and figure 2.
    "paper": {
        "padding": (0, 3),
        "orders": ["relu lrn pool", "relu lrn pool", "relu pool"],
        "grouped": True,
        "lrn_halves": True,
    },
    # layers-145.cfg and layer-params-145.cfg: rnorm scale 1e-4 / 5, minDiv 2; cnorm 1e-3 / 25.
    "release": {
        "padding": (0, 3),
        "orders": ["lrn pool relu", "relu lrn spatial pool", "pool relu"],
        "grouped": True,
        "lrn_halves": True,
        "lrn": (2.0, 1e-4 / 5, 0.75),
        "ceil": True,
    },
    # models/bvlc_alexnet/train_val.prototxt; lrn_layer.cpp: k 1, alpha / local_size.
    "caffe": {
        "padding": (0, 0),
        "orders": ["relu lrn pool", "relu lrn pool", "relu pool"],
        "grouped": True,
        "lrn": (1.0, 1e-4 / 5, 0.75),
        "ceil": True,
    },
    # models/bvlc_reference_caffenet/train_val.prototxt
    "caffenet": {
        "padding": (0, 0),
        "orders": ["relu pool lrn", "relu pool lrn", "relu pool"],
        "grouped": True,
        "lrn": (1.0, 1e-4 / 5, 0.75),
        "ceil": True,
    },
}


def convolve(x, kernel, bias, *, stride=1, padding=(0, 0), groups=1):
    """(rows, columns, in) to (rows, columns, out)."""
    size = kernel.shape[0]
    x = np.pad(x.astype(np.float64), (padding, padding, (0, 0)))
    outputs = []
    for part, weights in zip(
        np.split(x, groups, axis=-1),
        np.split(kernel.astype(np.float64), groups, axis=-1),
        strict=True,
    ):
        windows = np.lib.stride_tricks.sliding_window_view(part, (size, size), axis=(0, 1))
        outputs.append(np.einsum("rcihw,hwio->rco", windows[::stride, ::stride], weights))
    return np.concatenate(outputs, axis=-1) + bias.astype(np.float64)


def pool(x, *, ceil, size=3, step=2):
    rounded = np.ceil if ceil else np.floor
    rows, columns = (int(rounded((side - size) / step)) + 1 for side in x.shape[:2])
    return np.array(
        [
            [
                x[step * r : step * r + size, step * c : step * c + size].max(axis=(0, 1))
                for c in range(columns)
            ]
            for r in range(rows)
        ]
    )


def lrn(x, k, alpha, beta):
    """Across channels, two on each side, as each channel of its own."""
    result = np.empty_like(x)
    for c in range(x.shape[-1]):
        near = x[..., max(c - 2, 0) : c + 3]
        result[..., c] = x[..., c] / (k + alpha * (near**2).sum(axis=-1)) ** beta
    return result


def spatial(x, size=5, scale=1e-3, beta=0.75):
    """Within each map, over the size x size positions around."""
    result, reach = np.empty_like(x), size // 2
    for r in range(x.shape[0]):
        for c in range(x.shape[1]):
            near = x[max(r - reach, 0) : r + reach + 1, max(c - reach, 0) : c + reach + 1]
            total = (near**2).sum(axis=(0, 1))
            result[r, c] = x[r, c] / (1 + scale / size**2 * total) ** beta
    return result


def forward(name, tensors, image):
    """Activations by name: `conv1` (after its ReLU where that comes first) .. `pool5`, `fc8`."""
    net = NETS[name]
    halves = 2 if net.get("lrn_halves") else 1
    constants = net.get("lrn", PAPER_LRN)
    steps = {
        "relu": lambda x: np.maximum(x, 0),
        "pool": lambda x: pool(x, ceil=net.get("ceil", False)),
        "spatial": spatial,
        "lrn": lambda x: np.concatenate(
            [lrn(half, *constants) for half in np.split(x, halves, axis=-1)], axis=-1
        ),
    }
    orders = dict(zip((1, 2, 5), net["orders"], strict=True)) | {3: "relu", 4: "relu"}
    found, x = {}, image
    for n in range(1, 6):
        x = convolve(
            x,
            tensors[f"conv{n}/kernel"],
            tensors[f"conv{n}/bias"],
            stride=4 if n == 1 else 1,
            padding={1: net["padding"], 2: (2, 2)}.get(n, (1, 1)),
            groups=2 if net.get("grouped") and n in (2, 4, 5) else 1,
        )
        order = orders[n].split()
        if order[0] == "relu":
            x, order = steps["relu"](x), order[1:]
        found[f"conv{n}"] = x
        for step in order:
            x = steps[step](x)
        if n in (1, 2, 5):
            found[f"pool{n}"] = x
    if "fc6/kernel" in tensors:
        x = x.reshape(-1)
        for name in ("fc6", "fc7", "fc8"):
            x = x @ tensors[f"{name}/kernel"].astype(np.float64) + tensors[f"{name}/bias"]
            if name != "fc8":
                x = np.maximum(x, 0)
            found[name] = x
    return found


def forward_modern(tensors, image, epsilon=1e-3):
    """Logits of the net "modern" in inference, as variants.py describes it."""

    def named(name):
        return tensors[name].astype(np.float64)

    def normalize(n, x):
        scale = named(f"norm{n}/gamma") / np.sqrt(named(f"norm{n}/moving_variance") + epsilon)
        return (x - named(f"norm{n}/moving_mean")) * scale + named(f"norm{n}/beta")

    x = image
    for n in range(1, 6):
        before = x
        x = convolve(
            x,
            tensors[f"conv{n}/kernel"],
            np.zeros(1),
            stride=2 if n == 1 else 1,
            padding=(2, 2) if n == 1 else (1, 1),
        )
        x = normalize(n, x)
        if n in (4, 5):
            if f"shortcut{n}/kernel" in tensors:
                before = before @ named(f"shortcut{n}/kernel")[0, 0]
            x = x + before
        x = np.maximum(x, 0)
        if n in (1, 2):
            x = pool(x, ceil=False)
    return x.mean(axis=(0, 1)) @ named("fc8/kernel") + named("fc8/bias")


def softmax(logits):
    raised = np.exp(logits - logits.max())
    return raised / raised.sum()
