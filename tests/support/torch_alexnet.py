"""torchvision's AlexNet in PyTorch, from its published layout; torchvision itself is not needed."""

from __future__ import annotations

import torch
from torch import nn

#: channels of conv1 to conv5; kernel, stride, padding, and whether a pool follows
CHANNELS = (64, 192, 384, 256, 256)
GEOMETRY = ((11, 4, 2, True), (5, 1, 2, True), (3, 1, 1, False), (3, 1, 1, False), (3, 1, 1, True))


class TorchAlexNet(nn.Module):
    """`state_dict` has torchvision's names: features.0.weight .. classifier.6.bias."""

    def __init__(self, classes=1000, channels=CHANNELS, hidden=4096):
        super().__init__()
        layers = []
        for i, o, (kernel, stride, padding, pooled) in zip(
            (3, *channels), channels, GEOMETRY, strict=False
        ):
            layers += [nn.Conv2d(i, o, kernel, stride, padding), nn.ReLU()]
            layers += [nn.MaxPool2d(3, 2)] if pooled else []
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(channels[-1] * 36, hidden),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),
        )

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))

    def activations(self, x):
        """conv1 .. conv5 after their ReLU, pool5 and fc8 by name; images channels-last."""
        names = iter(("conv1", "conv2", "conv3", "conv4", "conv5"))
        found = {}
        with torch.no_grad():
            x = torch.from_numpy(x).permute(0, 3, 1, 2)
            for layer in self.features:
                x = layer(x)
                if isinstance(layer, nn.ReLU):
                    found[next(names)] = x.permute(0, 2, 3, 1).numpy()
            found["pool5"] = x.permute(0, 2, 3, 1).numpy()
            found["fc8"] = self.classifier(torch.flatten(self.avgpool(x), 1)).numpy()
        return found

    def load_trunk(self, tensors):
        """Sets the convolutions from `conv1/kernel` (height, width, in, out) and so on."""
        convolutions = [layer for layer in self.features if isinstance(layer, nn.Conv2d)]
        for number, layer in enumerate(convolutions, start=1):
            kernel = tensors[f"conv{number}/kernel"].transpose(3, 2, 0, 1).copy()
            layer.weight.data = torch.from_numpy(kernel)
            layer.bias.data = torch.from_numpy(tensors[f"conv{number}/bias"])
        return self.eval()
