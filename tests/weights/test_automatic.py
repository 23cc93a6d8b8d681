from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from alexnet_keras.network import unreachable
from alexnet_keras.weights import PUBLISHED, automatic, automatic_weights
from alexnet_keras.weights.published import imagenet_weights

HOST = {"torchvision": "download.pytorch.org", "caffe": "huggingface.co"}


@pytest.fixture
def world(monkeypatch):
    """What there is: files in the cache, why hosts do not answer, what the starter lacks."""

    def make(cache=(), silent="no route", fault=None):
        asked = []

        def probe(address):
            asked.append(address)
            return silent

        monkeypatch.setattr(
            automatic, "cached", lambda row: "a path" if row.file_name in cache else None
        )
        monkeypatch.setattr(automatic, "unreachable", probe)
        monkeypatch.setattr(automatic, "starter_fault", lambda: fault)
        return asked

    return make


FAULT = "The starter weights are not as they were shipped (x is missing); reinstall alexnet-keras."


@pytest.mark.parametrize("variant", [None, "torchvision", "caffe", "caffenet"])
def test_imagenets_weights_in_the_cache_come_first_and_nobody_is_asked(variant, world):
    # Any of the files will do.
    row = PUBLISHED[imagenet_weights(variant or "torchvision")[-1]]
    asked = world(cache=(row.file_name,))
    source, sentence = automatic_weights(variant)
    assert source == "imagenet"
    assert f"{row.file_name} from the cache" in sentence
    assert asked == []


@pytest.mark.parametrize(
    ("variant", "fault", "avoids"),
    [
        (None, None, "--weights none or starter avoids"),
        (None, FAULT, "--weights none avoids"),
        ("caffe", None, "--weights none avoids"),
    ],
)
def test_a_download_is_announced_with_its_size(variant, fault, avoids, world):
    asked = world(silent=None, fault=fault)
    source, sentence = automatic_weights(variant)
    assert source == "imagenet"
    assert "will be downloaded (244 MB)" in sentence and avoids in sentence
    assert asked == [PUBLISHED[imagenet_weights(variant or "torchvision")[0]].address]


def test_out_of_reach_the_starter_is_taken(world):
    asked = world()
    source, sentence = automatic_weights(None)
    assert source == "starter"
    assert "not in the cache" in sentence and f"{HOST['torchvision']} does not answer" in sentence
    assert "(no route)" in sentence and "starter weights" in sentence
    assert "Tiny ImageNet" in sentence
    assert len(asked) == 1


def test_the_starters_own_variant_takes_it_without_asking_anybody(world):
    asked = world(silent=None)
    source, sentence = automatic_weights("modern")
    assert source == "starter"
    assert "No ImageNet weights" in sentence and "'modern'" in sentence
    assert asked == []


@pytest.mark.parametrize("variant", [None, "modern"])
def test_without_a_starter_the_weights_are_random_and_its_fault_is_told(variant, world):
    world(fault=FAULT)
    source, sentence = automatic_weights(variant)
    assert source is None
    assert FAULT[:-1] in sentence and "random weights" in sentence and "--weights PATH" in sentence
    assert ("(no route)" in sentence) == (variant is None)


@pytest.mark.parametrize("variant", ["torchvision", "caffe"])
def test_a_variant_that_the_starter_does_not_fit_starts_from_random_weights(variant, world):
    world()
    source, sentence = automatic_weights(variant)
    assert source is None
    assert f"{HOST[variant]} does not answer (no route)" in sentence
    assert "random weights" in sentence and "--weights PATH" in sentence


@pytest.mark.parametrize("variant", ["alexnet", "paper", "release"])
def test_a_variant_whose_weights_were_never_published_asks_nobody(variant, world):
    asked = world(silent=None)
    source, sentence = automatic_weights(variant)
    assert source is None
    assert f"No ImageNet weights were ever published for the variant '{variant}'" in sentence
    assert "random weights" in sentence and "--weights PATH" in sentence
    assert asked == []


def test_a_cache_that_cannot_be_read_is_as_an_empty_one(world, monkeypatch):
    def forbidden(row):
        raise PermissionError(13, "Permission denied")

    world()
    monkeypatch.setattr(automatic, "cached", forbidden)
    assert automatic_weights(None)[0] == "starter"


def test_a_silent_host_is_given_up(world, monkeypatch):
    world()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/weights"
        monkeypatch.setitem(
            PUBLISHED, "torchvision", replace(PUBLISHED["torchvision"], address=address)
        )
        monkeypatch.setattr(automatic, "unreachable", unreachable)
        source, sentence = automatic_weights(None)
    assert source == "starter"
    assert "127.0.0.1 does not answer" in sentence
