"""The registry of published AlexNet weights: where each file is, and what it is known to be."""

from __future__ import annotations

from dataclasses import dataclass

from alexnet_keras.errors import UserError


@dataclass(frozen=True)
class Published:
    """One published weights file. It can be downloaded if it has an address, else takes a path."""

    #: the key in `VARIANTS` of the net that it fills
    variant: str
    file_name: str
    format: str
    #: where it is downloaded from; None where no host is known to serve a file that can be checked
    address: str | None
    #: size in bytes
    size: int | None
    #: algorithm and hexadecimal digest of the whole file, such as "sha256:7be5..."
    digest: str | None
    licence: str
    #: the key in `weights.PREPROCESSING` of what it was trained on
    preprocessing: str
    #: side in pixels of the input that the accuracies were measured with
    image_size: int
    #: accuracy in % on ImageNet's validation images (ILSVRC 2012), centre crop, as published
    top1: float | None
    top5: float | None
    #: page that publishes it
    source: str
    note: str = ""


PUBLISHED: dict[str, Published] = {
    "torchvision": Published(
        variant="torchvision",
        # Address, input size, accuracies: AlexNet_Weights.IMAGENET1K_V1 in pytorch/vision,
        # torchvision/models/alexnet.py.
        file_name="alexnet-owt-7be5be79.pth",
        format="PyTorch checkpoint",
        address="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        # torchvision publishes the first eight digits, in the file name. Ten unrelated public
        # projects that downloaded the file state all 64, and five of them the size.
        size=244_408_911,
        digest="sha256:7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        # pytorch/vision, LICENSE; its README adds that pretrained models may be bound by the terms
        # of the images that they were trained on.
        licence="BSD-3-Clause",
        preprocessing="torchvision",
        image_size=224,
        top1=56.522,
        top5=79.066,
        source="https://pytorch.org/vision/stable/models/alexnet.html",
        note="'One weird trick' (arXiv:1404.5997); no normalization, no groups",
    ),
    "caffe": Published(
        variant="caffe",
        # Address, hash, licence, accuracies: BVLC/caffe, models/bvlc_alexnet/readme.md.
        file_name="bvlc_alexnet.caffemodel",
        format="Caffe model",
        address="http://dl.caffe.berkeleyvision.org/bvlc_alexnet.caffemodel",
        # openvinotoolkit/open_model_zoo, models/public/alexnet/model.yml, which took it from there.
        size=243_862_414,
        digest="sha1:9116a64c0fbe4459d18f4bb6b56d647b63920377",
        licence="unrestricted use",
        preprocessing="caffe",
        image_size=227,  # crop_size in train_val.prototxt
        top1=57.1,
        top5=80.2,
        source="https://github.com/BVLC/caffe/tree/master/models/bvlc_alexnet",
        note="iteration 360,000; trained without colour noise",
    ),
    "onnx-alexnet": Published(
        variant="caffe",
        file_name="bvlcalexnet-12.onnx",
        format="ONNX model",
        # onnx/models, README.md: its files moved to this host in July 2025, one repository for
        # each, named after the file.
        address="https://huggingface.co/onnxmodelzoo/bvlcalexnet-12/resolve/main/bvlcalexnet-12.onnx",
        # onnx/models: the Git LFS pointer validated/vision/classification/alexnet/model/
        # bvlcalexnet-12.onnx, and ONNX_HUB_MANIFEST.json, which agrees.
        size=243_863_787,
        digest="sha256:6b0da9510f27f234ee96a85dc3809dd210150fdefad87f6850f9788513216945",
        # The LICENSE and README.md beside it. The weights are Caffe's ("Caffe BVLC AlexNet ==>
        # Caffe2 AlexNet ==> ONNX AlexNet"); accuracies measured by the zoo, at 224 px.
        licence="BSD-3-Clause",
        preprocessing="caffe",
        image_size=224,
        top1=54.80,
        top5=78.23,
        source="https://github.com/onnx/models/tree/main/validated/vision/classification/alexnet",
        note="Caffe's weights in another format; measured with another preprocessing",
    ),
    "guerzhoy": Published(
        variant="caffe",
        file_name="bvlc_alexnet.npy",
        format="NumPy dictionary",
        # Takes a path only: its page publishes no hash, and only one public repository states one
        # (sha256 1294ef51..., no size), which nothing confirms.
        address=None,
        size=None,
        digest=None,
        # guerzh/tf_weights, README.md: made by caffe-tensorflow from the weights of the row
        # "caffe", which may be used freely; "not tested on the full test set".
        licence="unrestricted use (Caffe's)",
        preprocessing="caffe",
        image_size=227,
        top1=None,
        top5=None,
        source="https://www.cs.toronto.edu/~guerzhoy/tf_alexnet/",
        note="Caffe's weights in another format; never measured",
    ),
    "caffenet": Published(
        variant="caffenet",
        # Address, hash, licence, accuracies: BVLC/caffe, models/bvlc_reference_caffenet/readme.md.
        file_name="bvlc_reference_caffenet.caffemodel",
        format="Caffe model",
        address="http://dl.caffe.berkeleyvision.org/bvlc_reference_caffenet.caffemodel",
        # openvinotoolkit/open_model_zoo, models/public/caffenet/model.yml, and the git-fat pointer
        # in FreakTheMighty/CaffeNet, which has the same SHA-1.
        size=243_862_418,
        digest="sha1:4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46",
        licence="unrestricted use",
        preprocessing="caffe",
        image_size=227,
        top1=57.4,
        top5=80.4,
        source="https://github.com/BVLC/caffe/tree/master/models/bvlc_reference_caffenet",
        note="iteration 310,000; pools before it normalizes; trained without colour noise",
    ),
    "onnx-caffenet": Published(
        variant="caffenet",
        # Every field as in "onnx-alexnet", from validated/vision/classification/caffenet.
        file_name="caffenet-12.onnx",
        format="ONNX model",
        address="https://huggingface.co/onnxmodelzoo/caffenet-12/resolve/main/caffenet-12.onnx",
        size=243_863_798,
        digest="sha256:ea563e5c47d1f58e1717cf1a2d8bf288b8adc07af0ad228b622096cd243aeecb",
        licence="BSD-3-Clause",
        preprocessing="caffe",
        image_size=224,
        top1=56.27,
        top5=79.52,
        source="https://github.com/onnx/models/tree/main/validated/vision/classification/caffenet",
        note="Caffe's weights in another format; measured with another preprocessing",
    ),
}

# The ONNX files come first for Caffe's nets: they were made from the same weights, and their host
# is in use. Berkeley's was reported down in 2016, 2017, 2018, 2019, 2022 and 2024
# (BVLC/caffe#4817, #5749, #6430, #6864), the last two times without an answer.
_IMAGENET: dict[str, tuple[str, ...]] = {
    "torchvision": ("torchvision",),
    "caffe": ("onnx-alexnet", "caffe"),
    "caffenet": ("onnx-caffenet", "caffenet"),
}


def imagenet_weights(variant: str) -> tuple[str, ...]:
    """Keys in `PUBLISHED` of the ImageNet weights for a variant that can be downloaded, best first.

    Raises:
        UserError: no weights were ever published for the variant.
    """
    if variant not in _IMAGENET:
        raise UserError(
            f"No ImageNet weights were ever published for the variant {variant!r}; choose one that "
            f"has some ({', '.join(map(repr, sorted(_IMAGENET)))}), give the path of a weights "
            "file, or take weights=None."
        )
    return _IMAGENET[variant]
