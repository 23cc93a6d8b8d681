"""One training step of the default net, against PyTorch's and against matrix products: one claim.

    python benchmarks/training_step.py

A step is forward, backward and update of `AlexNet()` (62,378,344 parameters) in float32 on this
machine's CPU: 64 random images of 224 px, dropout, the paper's momentum and weight decay. Ours is
the step of `recipes/train_imagenet.py`, with deterministic kernels; PyTorch's is the same net with
`torch.optim.SGD`, as fast as it gets here: channels-last, the update fused, kernels of its choice.
The ceiling is the fastest product of two float32 matrices of 4096 x 4096 by NumPy, PyTorch or
TensorFlow.

Each runs in a process of its own on all cores, one at a time, in turn. Prints for each the images
and the floating-point operations a second, the slowest, median and fastest of the rounds, and our
ratio to PyTorch and share of the ceiling, taken within each round. Counted are the multiplications
and additions of convolutions and fully connected layers, in the forward pass, for the weights'
gradient and for the inputs' gradient, which the images need not; nothing else counts, though it
takes time. Needs the extra `reference` (PyTorch).
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

ROUNDS = 9
BATCH = 64
CLASSES = 1000
PARAMETERS = 62_378_344
SIDE = 4096
PRODUCTS = 3
CORES = len(os.sched_getaffinity(0))


def ours() -> dict[str, Callable[[], None]]:
    """A training step and a matrix product, each a function that returns when it is done."""
    import tensorflow as tf

    from alexnet_keras import AlexNet
    from alexnet_keras.training.net import make_repeatable
    from alexnet_keras.training.optimization import build_optimization
    from alexnet_keras.training.presets import PRESETS
    from alexnet_keras.training.step import TrainingStep

    make_repeatable(seed=0)
    model = AlexNet(classes=CLASSES)
    assert model.count_params() == PARAMETERS
    optimization = build_optimization(
        PRESETS["paper"],
        model.trainable_variables,
        batch_size=BATCH,
        epochs=90,
        steps_per_epoch=20_000,
    )
    training_step = TrainingStep(
        model,
        optimization.optimizer,
        tf.distribute.get_strategy(),
        batch_size=BATCH,
        seed=0,
    )
    truths = tf.random.uniform((BATCH,), maxval=CLASSES, dtype=tf.int32)
    batch = {
        "images": tf.random.normal((BATCH, 224, 224, 3)),
        "labels": tf.one_hot(truths, CLASSES),
        "truths": truths,
        "weights": tf.ones(BATCH),
        "rows": tf.range(BATCH),
        "unreadable": tf.zeros(BATCH, tf.bool),
    }
    multiply = tf.function(tf.matmul)
    left, right = (tf.random.normal((SIDE, SIDE)) for _ in range(2))
    return {
        "step": lambda: training_step(0, batch)["loss"].numpy(),
        "product": lambda: multiply(left, right)[0, 0].numpy(),
    }


def pytorch() -> dict[str, Callable[[], None]]:
    import torch
    from torch import nn

    torch.set_num_threads(CORES)

    def normalized_pool() -> list[nn.Module]:
        # PyTorch divides alpha by the size, 5.
        return [nn.MaxPool2d(3, 2), nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)]

    net = nn.Sequential(
        *(nn.Conv2d(3, 96, 11, stride=4, padding=2), nn.ReLU(), *normalized_pool()),
        *(nn.Conv2d(96, 256, 5, padding=2), nn.ReLU(), *normalized_pool()),
        *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        nn.Flatten(),
        *(nn.Linear(256 * 36, 4096), nn.ReLU(), nn.Dropout()),
        *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout()),
        nn.Linear(4096, CLASSES),
    ).to(memory_format=torch.channels_last)
    assert sum(parameter.numel() for parameter in net.parameters()) == PARAMETERS
    optimizer = torch.optim.SGD(
        net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True
    )
    images = torch.randn(BATCH, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    truths = torch.randint(CLASSES, (BATCH,))

    def step() -> None:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(images), truths)
        loss.backward()
        optimizer.step()
        loss.item()

    left, right = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    return {"step": step, "product": lambda: torch.mm(left, right)}


def numpy() -> dict[str, Callable[[], None]]:
    import numpy as np

    left, right = np.random.default_rng(0).random((2, SIDE, SIDE), np.float32)
    return {"product": lambda: left @ right}


PROCESSES = {"ours": ours, "PyTorch": pytorch, "NumPy": numpy}


def serve(name: str) -> None:
    """Answers each line on standard input, "step" or "product", with the seconds it took."""
    functions = PROCESSES[name]()
    for function in functions.values():
        function()  # compiling is not what is measured
    print("ready", flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        functions[line.strip()]()
        print(time.perf_counter() - began, flush=True)


class Process:
    """A process that serves."""

    def __init__(self, name: str) -> None:
        environment = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        self._process = subprocess.Popen(
            [sys.executable, __file__, name],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._answer() == "ready"

    def seconds(self, what: str) -> float:
        print(what, file=self._process.stdin, flush=True)
        return float(self._answer())

    def _answer(self) -> str:
        if not (line := self._process.stdout.readline()):
            sys.exit("A process ended; run benchmarks/training_step.py NAME to see why.")
        return line.strip()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def operations() -> float:
    """Multiplications and additions of a training step, for one image."""
    # Output positions of a layer and the size of its kernel.
    products = {
        "conv1": 55 * 55 * 11 * 11 * 3 * 96,
        "conv2": 27 * 27 * 5 * 5 * 96 * 256,
        "conv3": 13 * 13 * 3 * 3 * 256 * 384,
        "conv4": 13 * 13 * 3 * 3 * 384 * 384,
        "conv5": 13 * 13 * 3 * 3 * 384 * 256,
        "fc6": 9216 * 4096,
        "fc7": 4096 * 4096,
        "fc8": 4096 * CLASSES,
    }
    return 2 * (3 * sum(products.values()) - products["conv1"])


def spread(values: list[float], digits: int) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{low:.{digits}f} / {middle:.{digits}f} / {high:.{digits}f}"


def main() -> None:
    processes = {name: Process(name) for name in PROCESSES}
    rates: dict[str, list[float]] = {name: [] for name in PROCESSES if name != "NumPy"}
    ceilings: dict[str, list[float]] = {"NumPy": [], "PyTorch": [], "TensorFlow": []}
    for number in range(ROUNDS):
        # Every other round backwards, so that none always follows the same one.
        order = list(rates) if number % 2 else list(reversed(rates))
        for name in order:
            rates[name].append(BATCH / processes[name].seconds("step"))
        for name, found in ceilings.items():
            process = processes["ours" if name == "TensorFlow" else name]
            seconds = min(process.seconds("product") for _ in range(PRODUCTS))
            found.append(2 * SIDE**3 / seconds)
    for process in processes.values():
        process.close()

    print(
        f"{CORES} cores, load {os.getloadavg()[0]:.1f}, {ROUNDS} rounds, batch {BATCH}, "
        f"{operations() / 1e9:.2f} GFLOP an image; slowest / median / fastest"
    )
    for name, found in rates.items():
        reached = [rate * operations() / 1e9 for rate in found]
        print(f"{name}: {spread(found, 1)} images/s, {spread(reached, 0)} GFLOP/s")
    for name, found in ceilings.items():
        print(f"product by {name}: {spread([rate / 1e9 for rate in found], 0)} GFLOP/s")
    best = [max(found) for found in zip(*ceilings.values(), strict=True)]
    ratios = [a / b for a, b in zip(rates["ours"], rates["PyTorch"], strict=True)]
    shares = [100 * a * operations() / b for a, b in zip(rates["ours"], best, strict=True)]
    print(f"ours / PyTorch: {spread(ratios, 2)}")
    print(f"ours / the round's fastest product: {spread(shares, 0)} %")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        serve(sys.argv[1])
    else:
        main()
