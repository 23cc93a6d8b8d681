"""Cutting a net in two: frozen layers that run once, and a tail that is trained."""

from __future__ import annotations

import keras

from alexnet_keras.tower_names import whole


class NothingBelow(ValueError):
    """A cut would leave no layer with weights below it."""


def split_model(model: keras.Model, first_trained: str) -> tuple[keras.Model, keras.Model]:
    """The layers before `first_trained`, and the rest; both share their weights with `model`.

    The cut lies at the last single tensor before `first_trained` that everything behind it is
    computed from, and before a dropout that stands directly there: dropout belongs to the tail,
    because it must be drawn anew in every step. Between two towers it lies where they were last
    joined.

    Returns:
        The trunk, from the model's input to the activations at the cut, and the tail, from these to
        the model's output.

    Raises:
        NothingBelow: no layer with weights stands before the cut.
        ValueError: there is no such layer.
    """
    layers = model.layers
    names = [layer.name for layer in layers]
    wholes = [whole(name, names) for name in names]
    if first_trained not in names and first_trained not in wholes:
        raise ValueError(f"There is no layer {first_trained!r}; the layers are {names}.")
    first = (names if first_trained in names else wholes).index(first_trained)

    producers = {id(layer.output): i for i, layer in enumerate(layers)}
    feeds = [
        [producers[id(tensor)] for tensor in keras.tree.flatten(layer.input)] if i else []
        for i, layer in enumerate(layers)
    ]

    def is_dropout(position: int) -> bool:
        layer = layers[position]
        joins = isinstance(layer, keras.layers.Concatenate)
        return isinstance(layer, keras.layers.Dropout) or (
            joins and any(map(is_dropout, feeds[position]))
        )

    def separates(position: int) -> bool:
        return all(feed >= position for later in feeds[position + 1 :] for feed in later)

    position = first - 1
    while position > 0 and (is_dropout(position) or not separates(position)):
        position -= 1
    if not any(layer.weights for layer in layers[: position + 1]):
        raise NothingBelow(f"No layer with weights stands before {first_trained!r} and a cut.")
    cut = layers[position].output
    trunk = keras.Model(model.input, cut, name=f"{model.name}_trunk")
    tail = keras.Model(cut, model.output, name=f"{model.name}_tail")
    return trunk, tail
