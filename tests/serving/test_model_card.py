from __future__ import annotations

import pytest

from alexnet_keras.serving.model_card import ModelCard, licence


@pytest.mark.parametrize(
    ("weights", "variant", "part"),
    [
        ("imagenet", None, "BSD-3-Clause (https://pytorch.org"),
        ("imagenet", "caffe", "BSD-3-Clause or unrestricted use"),
        ("caffenet", None, "unrestricted use"),
        ("/somewhere/bvlc_alexnet.caffemodel", None, "unrestricted use"),
        ("starter", None, "Tiny ImageNet"),
        ("none", None, "there were none"),
        ("none (random)", None, "there were none"),
        ("imagenet", "paper", "does not know it"),  # none were published
        ("my/own.weights.h5", None, "whatever the file own.weights.h5 came with"),
    ],
)
def test_the_licence_is_that_of_the_weights(weights, variant, part):
    assert part in licence(weights, variant)


def test_a_run_from_random_weights_says_so():
    metrics = {
        **{"val_images": 10, "val_top1": 0.5, "weights": "none (random)"},
        **{"train_images": 40, "dataset": "photographs", "classes": 2},
    }
    card = ModelCard.of_run(metrics)
    assert card.weights == "random numbers"
    assert card.data == "40 photographs of photographs, 2 classes"


def test_nothing_is_known_of_a_model_without_a_run():
    assert ModelCard.of_run({}) == ModelCard()
