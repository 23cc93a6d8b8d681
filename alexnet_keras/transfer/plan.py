"""Which layers are trained when, and at what rate."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import keras

from alexnet_keras.errors import UserError
from alexnet_keras.tower_names import whole

#: optimizer and largest rate of new layers while no pretrained layer moves, by the kind of head
HEAD_TRAINING = {"fc": ("sgd", 0.01), "pooled": ("adamw", 0.001), "bilinear": ("adamw", 0.0005)}
#: epochs that a linear classifier is trained on one view before there are others: most of what it
#: can be, in a fraction of the time
FIRST_LOOK_EPOCHS = 6
#: times the rate of the phase after it, which begins with something to lose
FIRST_LOOK_RATE = 2
#: each convolution further down learns at this share of the rate of the one above it
OLDER_SHARE = 0.7


@dataclass(frozen=True)
class Phase:
    """A stretch of training.

    Attributes:
        name: for the console, the history and the report.
        rates: the largest learning rate of each trained layer, by name, in the net's order. All
            other layers are frozen.
        epochs: the most passes over the training part; `Settings.patience` may end it sooner.
        optimizer: a key of `training.optimizers.OPTIMIZERS`.
        views: views of each photograph, where it is trained on stored outputs; `None` leaves it to
            `Settings.views`.
    """

    name: str
    rates: dict[str, float]
    epochs: int
    optimizer: str
    views: int | None = None

    @property
    def trained(self) -> tuple[str, ...]:
        """The names of the trained layers, in the net's order."""
        return tuple(self.rates)


def plan_phases(
    model: keras.Model,
    pretrained: Iterable[str],
    *,
    head: str = "fc",
    unfreeze_from: Sequence[str],
    head_epochs: int,
    epochs: int,
    learning_rate: float,
    head_rate: float | None = None,
) -> list[Phase]:
    """First the layers without pretrained weights, then these and the pretrained ones above a cut.

    A bilinear head takes a first look at one view of each photograph. A layer with random weights
    is trained in every phase; without pretrained layers there is one phase, which trains
    everything. Pretrained batch normalization is never trained: it keeps its statistics and scales.

    Args:
        model: the whole classifier.
        pretrained: names of its layers that hold pretrained weights.
        head: the classifier's head, a key of `HEAD_TRAINING`.
        unfreeze_from: the oldest pretrained layer that each phase after the first trains: none,
            one, or several, from the newest to the oldest, so that training begins with what can
            be trained on stored outputs of small layers.
        head_epochs: epochs of the first phase.
        epochs: epochs of each later phase, or of the only one without pretrained layers.
        learning_rate: rate of the new layers in phases that train pretrained ones; older layers
            get less, the further down the less.
        head_rate: the largest rate of new layers while no pretrained layer moves; `None` takes that
            of `HEAD_TRAINING`.

    Raises:
        UserError: one of `unfreeze_from` is no layer with weights of the model, or does not reach
            further down than the one before.
    """
    names = [layer.name for layer in model.layers if layer.weights]
    pretrained = set(pretrained)
    if not pretrained:
        # Momentum alone takes long to leave the plateau that random weights begin on.
        return [Phase("all layers", dict.fromkeys(names, learning_rate), epochs, "adamw")]
    first_fresh = min(i for i, name in enumerate(names) if name not in pretrained)
    optimizer, rate = HEAD_TRAINING[head]
    rate = rate if head_rate is None else head_rate
    fresh = dict.fromkeys(names[first_fresh:], rate)
    phases = [Phase("head", fresh, head_epochs, optimizer)]
    if head == "bilinear":
        look = min(FIRST_LOOK_EPOCHS, head_epochs)
        sooner = dict.fromkeys(fresh, FIRST_LOOK_RATE * rate)
        phases.insert(0, Phase("first look", sooner, look, optimizer, views=1))
    if epochs == 0:
        return phases
    ages = {name: _age(name, names) for name in names}
    depths = list(dict.fromkeys(ages.values()))
    new = depths.index(ages[names[first_fresh]])
    # Few photographs give poor statistics of a batch, and the head was trained on the stored ones:
    # pretrained batch normalization stays as it is.
    kept = {
        layer.name
        for layer in model.layers
        if layer.name in pretrained and isinstance(layer, keras.layers.BatchNormalization)
    }
    for oldest in _oldest(unfreeze_from, names, depths):
        # Layers without pretrained weights are trained whatever is asked for.
        first = min(oldest, new)
        rates = {}
        for name in names:
            depth = depths.index(ages[name])
            if depth >= first and name not in kept:
                rates[name] = learning_rate * OLDER_SHARE ** max(new - depth, 0)
        phases.append(Phase(f"fine-tune from {depths[first]}", rates, epochs, "sgd"))
    return phases


def _oldest(unfreeze_from: Sequence[str], names: Sequence[str], depths: Sequence[str]) -> list[int]:
    """Where in `depths` each phase begins."""
    found = []
    for name in unfreeze_from:
        age = _age(name, names)
        if age not in depths:
            raise UserError(
                f"There is no layer {name!r} to unfreeze from; the layers of this net are "
                f"{', '.join(depths)}."
            )
        found.append(depths.index(age))
    for (one, earlier), (another, later) in pairwise(zip(unfreeze_from, found, strict=True)):
        if later >= earlier:
            raise UserError(
                f"Layers are unfrozen from the newest to the oldest, and {another!r} is not older "
                f"than {one!r}; give them the other way round."
            )
    return found


def _age(name: str, names: Sequence[str]) -> str:
    """The layer that stands for all of one age: both towers' `conv4`, its norm, its shortcut."""
    return re.sub("^(?:norm|shortcut)(?=[0-9])", "conv", whole(name, names))
