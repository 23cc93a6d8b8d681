"""The published ways of training AlexNet: every number in which they differ is a field."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from alexnet_keras.errors import UserError
from alexnet_keras.training.schedules import Piecewise, Plateau, Schedule, constant, divided

#: examples of ILSVRC-2012's training part
IMAGENET_EXAMPLES = 1_281_167


@dataclass(frozen=True)
class Group:
    """Variables that have a rate and a weight decay in common."""

    name: str
    #: whether a variable belongs here, by its layer's name, that of both towers as one ("conv1"),
    #: and by its own ("kernel", "bias", "gamma", "beta")
    takes: Callable[[str, str], bool]
    weight_decay: float
    schedule: Schedule


@dataclass(frozen=True)
class Preset:
    """One published way of training. Every variable belongs to exactly one group."""

    #: where the numbers are from
    source: str
    #: the key in `VARIANTS` of the net that was trained so
    variant: str
    batch_size: int
    epochs: float
    momentum: float
    #: the first is the one of the weights
    groups: tuple[Group, ...]
    #: after how many epochs the colour noise (paper, section 4.1) stops: 0 is none at all, None
    #: never
    color_until: float | None

    @property
    def learning_rate(self) -> float:
        """The first rate of the weights, for batches of `batch_size`."""
        return self.groups[0].schedule.base

    def over(self, epochs: float) -> Preset:
        """The same for a run of other length: all epochs in it change in proportion.

        Those of divisions and of the colour noise may be fractions then; a plateau's patience is
        rounded, to one epoch at least. At its own length a preset is what was published.

        Raises:
            UserError: the run has no length.
        """
        if not 0 < epochs < math.inf:
            raise UserError(f"A run of {epochs} epochs; give more than 0.")
        colour = None if self.color_until is None else self.color_until * epochs / self.epochs
        return replace(
            self,
            epochs=epochs,
            groups=tuple(
                replace(group, schedule=group.schedule.over(epochs, of=self.epochs))
                for group in self.groups
            ),
            color_until=colour,
        )


# Kernels of convolutions and fully connected layers are weights; their biases, and the gammas and
# betas of batch normalization, are biases.
def _weights(layer: str, variable: str) -> bool:
    return variable == "kernel"


def _biases(layer: str, variable: str) -> bool:
    return variable != "kernel"


def _conv1(takes: Callable[[str, str], bool]) -> Callable[[str, str], bool]:
    return lambda layer, variable: layer == "conv1" and takes(layer, variable)


def _behind_conv1(takes: Callable[[str, str], bool]) -> Callable[[str, str], bool]:
    return lambda layer, variable: layer != "conv1" and takes(layer, variable)


# Section 5 says that the rate was divided, not after how long a wait: 5 epochs, and what counts as
# an improvement, are ours. By hand, net 145's rates were kept for 25, 26 and 28 epochs.
_PAPER_RATE = Plateau(0.01, patience=5, min_improvement=1e-3, factor=10, most_divisions=3)

# solver.prototxt: lr_policy "step" with gamma .1 and stepsize 100000, up to max_iter 450000. Those
# are 19.98, 39.96, 59.95 and 79.93 of 89.92 epochs.
_CAFFE_STEPS = tuple(step * 256 / IMAGENET_EXAMPLES for step in (100e3, 200e3, 300e3, 400e3))

PRESETS: dict[str, Preset] = {
    # Batch 128, momentum .9, weight decay 5e-4; "an equal learning rate for all layers", .01 at
    # first; "roughly 90 cycles". The update rule is one "for weight w", and the paper names the
    # biases apart from the weights; the code that made its figures gives them no decay (weights.cu,
    # layer.cu), hence none here.
    "paper": Preset(
        source="Krizhevsky et al. 2012, section 5",
        variant="paper",
        batch_size=128,
        epochs=90,
        momentum=0.9,
        groups=(
            Group("weights", _weights, 5e-4, _PAPER_RATE),
            Group("biases", _biases, 0.0, _PAPER_RATE),
        ),
        color_until=None,
    ),
    # The notes at the end of layer-params-145.cfg: epsW from .01 to .001 at epoch 25, to .0001 at
    # 51, to .00001 at 79; on conv1 to .00001 at 67 and to 0 at 72; colour noise off at 67; killed
    # at 91. Epochs count from 1 there and `--epochs=N` trains to the end of the Nth (run4.sh;
    # python_util/gpumodel.py of cuda-convnet2), so "epoch 25" is taken as after 25 of them.
    # epsB is .02 in all layers but conv1, fc1000 (our fc8) included, and no note changes it. In
    # conv1 the file, as the run left it, has 0; that it became so together with epsW is what the
    # same author's layer-params-120-4gpu-auto5.cfg does at that point.
    # wc is .0005 for all weights, and biases have none (layer.cu, the constructor of WeightLayer).
    # momW and momB are .9; minibatches of 128 are convnet.py's default.
    "release": Preset(
        source="computerhistory/AlexNet-Source-Code, layers/layer-params-145.cfg",
        variant="release",
        batch_size=128,
        epochs=91,
        momentum=0.9,
        groups=(
            Group("weights", _behind_conv1(_weights), 5e-4, divided(0.01, (25, 51, 79))),
            Group("biases", _behind_conv1(_biases), 0.0, constant(0.02)),
            Group(
                "conv1 weights",
                _conv1(_weights),
                5e-4,
                Piecewise((1e-2, 1e-3, 1e-4, 1e-5, 0.0), (25, 51, 67, 72)),
            ),
            Group("conv1 biases", _conv1(_biases), 0.0, Piecewise((0.02, 0.0), (72,))),
        ),
        color_until=67,
    ),
    # solver.prototxt: base_lr .01, momentum .9, weight_decay .0005. train_val.prototxt: batches of
    # 256; in all eight layers lr_mult 1 and decay_mult 1 for the weights, 2 and 0 for the biases.
    # readme.md: "not training with the relighting data-augmentation"; the published weights are of
    # iteration 360000, 71.93 epochs.
    "caffe": Preset(
        source="BVLC/caffe, models/bvlc_alexnet/solver.prototxt and train_val.prototxt",
        variant="caffe",
        batch_size=256,
        epochs=90,
        momentum=0.9,
        groups=(
            Group("weights", _weights, 5e-4, divided(0.01, _CAFFE_STEPS)),
            Group("biases", _biases, 0.0, divided(0.02, _CAFFE_STEPS)),
        ),
        color_until=0,
    ),
}
