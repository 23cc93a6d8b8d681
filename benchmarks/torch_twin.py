"""A fine-tuned classifier in PyTorch: torchvision's convolutions under a bilinear head."""

from __future__ import annotations

import keras
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from alexnet_keras.layers import BilinearPooling
from alexnet_keras.weights import preprocessing_of

#: stride and padding of torchvision's convolutions, and whether a pool follows
_CONVOLUTIONS = ((4, 2, True), (1, 2, True), (1, 1, False), (1, 1, False), (1, 1, False))


class Twin(nn.Module):
    """What a classifier with a bilinear head computes, from RGB pixels (batch, height, width, 3).

    Only nets of the variant `torchvision` with that head, the recipes' default.
    """

    def __init__(self, model: keras.Model, mirrored: bool) -> None:
        super().__init__()
        self.mirrored = mirrored
        preprocessing = preprocessing_of(model)
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1))
        self.convolutions = nn.ModuleList()
        for number, (stride, padding, _) in enumerate(_CONVOLUTIONS, start=1):
            kernel, bias = model.get_layer(f"conv{number}").get_weights()
            size, _, channels, filters = kernel.shape
            made = nn.Conv2d(channels, filters, size, stride, padding)
            made.weight.data = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
            made.bias.data = torch.from_numpy(bias)
            self.convolutions.append(made)
        pairing = [layer for layer in model.layers if isinstance(layer, BilinearPooling)]
        for number, layer in enumerate(pairing, start=3):
            self.register_buffer(f"basis{number}", torch.from_numpy(layer._basis))
        rows, columns = np.triu_indices(pairing[0].projected)
        self.register_buffer(
            "places", torch.from_numpy((rows * pairing[0].projected + columns).astype(np.int64))
        )
        self.length = float(model.get_layer("length").scale)
        kernel, bias = model.get_layer("fc8").get_weights()
        self.fc8 = nn.Linear(*kernel.shape)
        self.fc8.weight.data = torch.from_numpy(kernel.T.copy())
        self.fc8.bias.data = torch.from_numpy(bias)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = pixels.permute(0, 3, 1, 2)
        if not self.mirrored:
            return self.look(x)
        return (self.look(x) + self.look(x.flip(3))) / 2

    def look(self, x: torch.Tensor) -> torch.Tensor:
        x = (x - self.mean) / self.std
        x = functional.max_pool2d(functional.relu(self.convolutions[0](x)), 3, 2)
        x = functional.max_pool2d(functional.relu(self.convolutions[1](x)), 3, 2)
        third = functional.relu(self.convolutions[2](x))
        fourth = functional.relu(self.convolutions[3](third))
        fifth = functional.relu(self.convolutions[4](fourth))
        pooled = [
            self.pairs(third, self.basis3),
            self.pairs(fourth, self.basis4),
            self.pairs(fifth, self.basis5),
        ]
        return self.fc8(torch.cat(pooled, 1) * self.length).softmax(1)

    def pairs(self, maps: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
        at_positions = maps.flatten(2).transpose(1, 2) @ basis
        products = (at_positions.transpose(1, 2) @ at_positions).flatten(1)
        energy = at_positions.square().sum((1, 2))[:, None] / basis.shape[1]
        shares = products[:, self.places] / energy.clamp_min(1e-18)
        roots = shares.sign() * ((shares.abs() + 1e-5).sqrt() - 1e-5**0.5)
        return roots * roots.square().sum(1, keepdim=True).clamp_min(1e-18).rsqrt()


def write_twin(model: keras.Model, path: str, mirrored: bool) -> None:
    """Writes TorchScript, channels last, which the best of PyTorch's runtimes here starts from."""
    twin = Twin(model, mirrored).eval().to(memory_format=torch.channels_last)
    torch.jit.save(torch.jit.script(twin), path)
