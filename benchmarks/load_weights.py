"""Reading, converting and assigning a full-size checkpoint, against PyTorch: one claim each.

    python benchmarks/load_weights.py

Writes a random checkpoint with torchvision's layout (244 MB), then loads it in processes of their
own: ours (`load_weights` into the empty Keras net) and PyTorch's (`torch.load` and
`load_state_dict` into the same net in PyTorch). Prints the seconds from the path to the filled net,
and the most memory that this took on top of the imports and the empty net. The file is in the
system's file cache. Needs Linux (for the peak of the memory) and the extra `reference` (PyTorch).
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROUNDS = 3
# torchvision.models.alexnet: number in `features`, then (out, in, size of the kernel); number in
# `classifier`, then (out, in).
CONVOLUTIONS = {
    0: (64, 3, 11),
    3: (192, 64, 5),
    6: (384, 192, 3),
    8: (256, 384, 3),
    10: (256, 256, 3),
}
DENSE = {1: (4096, 9216), 4: (4096, 4096), 6: (1000, 4096)}


def write_checkpoint(path: Path) -> None:
    import torch

    tensors = {}
    for number, (outputs, inputs, size) in CONVOLUTIONS.items():
        tensors[f"features.{number}.weight"] = torch.randn(outputs, inputs, size, size) / 100
        tensors[f"features.{number}.bias"] = torch.randn(outputs) / 100
    for number, (outputs, inputs) in DENSE.items():
        tensors[f"classifier.{number}.weight"] = torch.randn(outputs, inputs) / 100
        tensors[f"classifier.{number}.bias"] = torch.randn(outputs) / 100
    torch.save(tensors, path)


def ours(path: str) -> Callable[[], None]:
    """The empty net in Keras; the function that fills it."""
    from alexnet_keras import AlexNet
    from alexnet_keras.weights import load_weights

    model = AlexNet(variant="torchvision")

    def load() -> None:
        report = load_weights(model, path)
        assert len(report.loaded) == 8, report

    return load


def pytorch(path: str) -> Callable[[], None]:
    """The empty net in PyTorch; the function that fills it."""
    import torch
    from torch import nn

    model = nn.Module()
    model.features, model.classifier = nn.Module(), nn.Module()
    for number, (outputs, inputs, size) in CONVOLUTIONS.items():
        model.features.add_module(str(number), nn.Conv2d(inputs, outputs, size))
    for number, (outputs, inputs) in DENSE.items():
        model.classifier.add_module(str(number), nn.Linear(inputs, outputs))

    def load() -> None:
        model.load_state_dict(torch.load(path, weights_only=True))

    return load


def memory(field: str) -> float:
    """A line of this process's /proc status, in MB: VmRSS is memory in use, VmHWM its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith(field))
    return int(line.split()[1]) * 1024 / 1e6


def measure(build: Callable[[str], Callable[[], None]], path: str) -> None:
    """Prints seconds to load, and the peak of memory above what the empty net needed, in MB."""
    load = build(path)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    began = time.perf_counter()
    load()
    print(time.perf_counter() - began, memory("VmHWM") - before)


def in_a_process(name: str, path: Path) -> tuple[float, float]:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, __file__, name, str(path)]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if answer.returncode:
        sys.exit(answer.stderr)
    seconds, megabytes = answer.stdout.split()[-2:]
    return float(seconds), float(megabytes)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "checkpoint.pth")
        write_checkpoint(path)
        print(f"{path.stat().st_size / 1e6:.0f} MB")
        for name in LOADERS:
            runs = [in_a_process(name, path) for _ in range(ROUNDS)]
            seconds, megabytes = zip(*runs, strict=True)
            print(
                f"{name}: {statistics.median(seconds):.2f} s "
                f"({min(seconds):.2f} to {max(seconds):.2f}), "
                f"{statistics.median(megabytes):.0f} MB on top of the empty net "
                f"({min(megabytes):.0f} to {max(megabytes):.0f})"
            )


LOADERS = {"ours": ours, "pytorch": pytorch}

if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(LOADERS[sys.argv[1]], sys.argv[2])
    else:
        main()
