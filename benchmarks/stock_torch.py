"""Fine-tuning as PyTorch's own parts make it: a contestant of `time_to_accuracy.py`, run by it.

The same as `stock_keras.py` in PyTorch, decoded by Pillow in the workers of a `DataLoader`.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from accuracy_curves import Curve, Point
from contestant import (
    AREA,
    ASPECT,
    BATCH,
    CURVE,
    DROPOUT,
    FEATURES,
    HEAD_EPOCHS,
    HEAD_RATE,
    MEAN,
    MOMENTUM,
    RATE,
    RESIZED,
    SIZE,
    STD,
    class_names,
    labelled,
    seconds,
    stock_options,
)

WORKERS = len(os.sched_getaffinity(0))
BILINEAR = Image.Resampling.BILINEAR
loss_of = nn.functional.cross_entropy


def main() -> None:
    options = stock_options()
    torch.manual_seed(options.seed)
    classes = class_names(options.data_dir)
    paths, labels = labelled(options.data_dir, classes)
    trunk = build_trunk(np.load(options.trunk))
    head = nn.Sequential(nn.Dropout(DROPOUT), nn.Linear(FEATURES, len(classes)))
    net = nn.Sequential(trunk, head)

    features = outputs(trunk, DataLoader(CentreViews(paths, labels), BATCH, num_workers=WORKERS))
    began = seconds()
    stored = DataLoader(TensorDataset(features, torch.from_numpy(labels)), BATCH, shuffle=True)
    adam = torch.optim.Adam(head.parameters(), HEAD_RATE)
    for _ in range(HEAD_EPOCHS):
        train_epoch(head, stored, adam)
    rates = {"head": HEAD_EPOCHS * len(paths) / (seconds() - began)}
    kept = [(seconds(), copy.deepcopy(net.state_dict()))]

    began = seconds()
    batches = DataLoader(
        RandomViews(paths, labels),
        BATCH,
        shuffle=True,
        num_workers=WORKERS,
        persistent_workers=True,
    )
    sgd = torch.optim.SGD(net.parameters(), RATE, momentum=MOMENTUM, nesterov=True)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, options.epochs * len(batches))
    for epoch in range(options.epochs):
        print(f"epoch {epoch + 1}, {seconds():.0f} s", flush=True)
        train_epoch(net, batches, sgd, cosine)
        kept.append((seconds(), copy.deepcopy(net.state_dict())))
    rates["whole net"] = options.epochs * len(paths) / (seconds() - began)

    began = seconds()
    paths, labels = labelled(options.val_dir, classes)
    views = list(DataLoader(CentreViews(paths, labels), BATCH, num_workers=WORKERS))
    points = []
    for when, weights in kept:
        net.load_state_dict(weights)
        answers = outputs(net, views).argmax(dim=1).numpy()
        points.append(Point(when, float(np.mean(answers == labels))))
    Curve(tuple(points), rates, seconds() - began).write(options.output / CURVE)


def build_trunk(tensors: Mapping[str, np.ndarray]) -> nn.Module:
    """torchvision's AlexNet from normalized RGB (batch, 3, 224, 224) to pool5, (batch, 9216).

    Args:
        tensors: `conv1/kernel` (height, width, in, out), `conv1/bias` and so on.
    """
    trunk = nn.Sequential(
        *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        nn.Flatten(),
    )
    convolutions = [layer for layer in trunk if isinstance(layer, nn.Conv2d)]
    with torch.no_grad():
        for number, layer in enumerate(convolutions, start=1):
            kernel = tensors[f"conv{number}/kernel"].transpose(3, 2, 0, 1)
            layer.weight.copy_(torch.tensor(kernel))
            layer.bias.copy_(torch.tensor(tensors[f"conv{number}/bias"]))
    return trunk.to(memory_format=torch.channels_last)  # the faster one on a CPU


def train_epoch(
    net: nn.Module,
    batches: DataLoader,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
) -> None:
    net.train()
    for inputs, labels in batches:
        optimizer.zero_grad()
        loss_of(net(inputs), labels.long()).backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()


def outputs(net: nn.Module, batches: DataLoader | list) -> torch.Tensor:
    net.eval()
    with torch.no_grad():
        return torch.cat([net(inputs) for inputs, _ in batches])


class Views(Dataset):
    """Views of photographs, float32 (3, 224, 224), normalized, and their labels."""

    def __init__(self, paths: list[str], labels: np.ndarray) -> None:
        self.paths, self.labels = paths, labels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.paths[index]) as image:
            pixels = torch.from_numpy(np.array(self.view(image.convert("RGB"))))
        pixels = pixels.permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        return (pixels - mean) / std, self.labels[index]

    def view(self, image: Image.Image) -> Image.Image:
        raise NotImplementedError


class CentreViews(Views):
    """The middle of each photograph."""

    def view(self, image: Image.Image) -> Image.Image:
        scale = RESIZED / min(image.size)
        image = image.resize([round(scale * side) for side in image.size], BILINEAR)
        left, top = ((side - SIZE) // 2 for side in image.size)
        return image.crop((left, top, left + SIZE, top + SIZE))


class RandomViews(Views):
    """A random crop of each photograph, flipped or not, another one each time."""

    def view(self, image: Image.Image) -> Image.Image:
        crop = image.crop(random_box(*image.size)).resize((SIZE, SIZE), BILINEAR)
        return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if torch.rand(()) < 0.5 else crop


def random_box(width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a crop; the middle square where ten draws do not fit."""
    for _ in range(10):
        area = width * height * uniform(*AREA)
        aspect = math.exp(uniform(*map(math.log, ASPECT)))
        across, down = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < across <= width and 0 < down <= height:
            left = int(torch.randint(width - across + 1, ()))
            top = int(torch.randint(height - down + 1, ()))
            return left, top, left + across, top + down
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def uniform(least: float, most: float) -> float:
    return least + (most - least) * float(torch.rand(()))


if __name__ == "__main__":
    main()
