from __future__ import annotations

import re

import pytest

from alexnet_keras import UserError
from alexnet_keras.weights import PREPROCESSING
from alexnet_keras.weights.published import PUBLISHED, imagenet_weights

ROWS = pytest.mark.parametrize("row", PUBLISHED.values(), ids=PUBLISHED)

# torchvision: num_params of AlexNet_Weights.IMAGENET1K_V1. Caffe: the 2012 net's, whose groups it
# keeps (96 * 363 + 256 * 1200 + 384 * 2304 + 384 * 1728 + 256 * 1728 + 4096 * 9216 + 4096 * 4096
# + 1000 * 4096, and the biases).
PARAMETERS = {"torchvision": 61_100_840, "caffe": 60_965_224, "caffenet": 60_965_224}


@ROWS
def test_a_file_that_can_be_downloaded_can_be_checked(row):
    if row.address is None:
        assert (row.size, row.digest) == (None, None)
        return
    assert re.fullmatch(r"https?://[\w.-]+/\S+", row.address)
    assert row.address.endswith(f"/{row.file_name}")
    algorithm, digits = row.digest.split(":")
    assert re.fullmatch("[0-9a-f]+", digits)
    assert len(digits) == {"sha1": 40, "sha256": 64}[algorithm]


@ROWS
def test_a_file_is_its_nets_parameters_in_float32_and_little_else(row):
    if row.size is not None:
        assert 0 < row.size - 4 * PARAMETERS[row.variant] < 10_000


def test_torchvisions_file_name_carries_the_start_of_its_hash():
    # torch.hub's convention, which it checks downloads by: name-<first eight digits>.pth
    row = PUBLISHED["torchvision"]
    assert row.file_name.split("-")[-1] == row.digest.removeprefix("sha256:")[:8] + ".pth"


@ROWS
def test_rows_say_what_a_user_has_to_know(row):
    assert row.preprocessing in PREPROCESSING
    assert row.licence and row.note and row.source.startswith("https://")
    assert (row.top1 is None) == (row.top5 is None)
    if row.top1 is not None:
        assert 50 < row.top1 < row.top5 < 100


def test_files_do_not_overwrite_each_other_in_the_cache():
    names = [row.file_name for row in PUBLISHED.values()]
    assert len(set(names)) == len(names)


def test_caffes_nets_prefer_the_host_that_is_in_use():
    assert imagenet_weights("torchvision") == ("torchvision",)
    assert imagenet_weights("caffe") == ("onnx-alexnet", "caffe")
    assert imagenet_weights("caffenet") == ("onnx-caffenet", "caffenet")


@pytest.mark.parametrize("variant", ["torchvision", "caffe", "caffenet"])
def test_imagenet_weights_belong_to_the_variant_and_can_be_downloaded(variant):
    for key in imagenet_weights(variant):
        assert PUBLISHED[key].variant == variant
        assert PUBLISHED[key].address is not None


@pytest.mark.parametrize("variant", ["alexnet", "paper", "release"])
def test_a_variant_without_published_weights_is_refused_with_those_that_have_some(variant):
    with pytest.raises(UserError, match=f"'{variant}'; .*'caffe', 'caffenet', 'torchvision'"):
        imagenet_weights(variant)
