"""OpenCV's reader of Caffe nets, which shares nothing with this package, against what is exported here.

OpenCV is no authority: it refuses what it does not know, and computes some layers in another way than Caffe. Where real
Caffe's output was recorded (in `../shared`), that decides; elsewhere the two have to agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfold.caffe.net import load

from .build import Array, Feeds, Files, bn, conv, data, layer, noise, run, scaled
from .weigh import weighed

cv2: Any = pytest.importorskip("cv2", reason="OpenCV is not installed")
if not hasattr(cv2.dnn, "readNetFromCaffe"):
    pytest.skip("this OpenCV reads no Caffe nets, as 4.x does", allow_module_level=True)

TOLERANCE = 1e-5
"""Relative to the largest element of an output."""

OTHERWISE = {
    "exclude_phase": "OpenCV keeps layers that `exclude` takes out of the net",
    "ip_transpose": "OpenCV does not look at `transpose` of an InnerProduct",
    "ip_transpose_bn": "OpenCV does not look at `transpose` of an InnerProduct",
    "log_base10": "OpenCV takes the natural logarithm of the bottom, whatever log_param says",
}
"""The recorded cases that OpenCV computes otherwise than Caffe, and why."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """OpenCV prints what it refuses."""
    logging = cv2.utils.logging
    level = logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    yield
    logging.setLogLevel(level)


def opencv(files: Files, feeds: Feeds, blobs: Iterable[str]) -> dict[str, Array] | None:
    """These blobs of the net; None where OpenCV refuses it. Its own fusion is off, which is wrong for Deconvolution."""
    try:
        net = cv2.dnn.readNetFromCaffe(*map(str, files))
        net.enableFusion(False)
        for name, array in feeds.items():
            net.setInput(array, name)
        return {blob: net.forwardAndRetrieve([name])[0][top] for blob, name, top in made(files, blobs, net)}
    except (cv2.error, IndexError):  # it does not make the second top of a convolution
        return None


def made(files: Files, blobs: Iterable[str], net: Any) -> Iterator[tuple[str, str, int]]:
    """Each blob with OpenCV's layer that makes it, and the number of the top. Some layers are known by their top."""
    makers = {top: (maker.name, number) for maker in load(*files).layers for number, top in enumerate(maker.tops)}
    known = net.getLayerNames()
    for blob in blobs:
        name, number = makers[blob]
        yield blob, name if name in known else blob, number


def agree(wanted: dict[str, Array], found: dict[str, Array]) -> bool:
    """All outputs are equal; OpenCV may give one of fewer axes another shape."""
    return all(
        array.size == found[name].size
        and np.abs(array.ravel() - found[name].ravel()).max() <= TOLERANCE * np.abs(array).max()
        for name, array in wanted.items()
    )


# ------------------------------------------------------------------------------------------------------------ the nets


def one(kind: str, body: str = "", bottoms: str = "data") -> str:
    return layer(kind, "l", bottoms, "y", body)


def pooled(param: str) -> str:
    return one("Pooling", f"pooling_param {{ {param} }}")


def convolved(kind: str, param: str) -> str:
    return one(kind, f"convolution_param {{ {param} }}")


NETS = {
    "convolution": convolved("Convolution", "num_output: 6 kernel_size: 3 pad: 1 stride: 2 group: 2"),
    "convolution, dilated": convolved(
        "Convolution", "num_output: 6 kernel_h: 3 kernel_w: 1 pad_h: 2 pad_w: 0 dilation: 2"
    ),
    "deconvolution": convolved("Deconvolution", "num_output: 6 kernel_size: 4 pad: 1 stride: 2"),
    "deconvolution, grouped": convolved("Deconvolution", "num_output: 4 kernel_size: 2 stride: 2 group: 4"),
    "inner product": one("InnerProduct", "inner_product_param { num_output: 5 }"),
    "inner product, axis 2": one("InnerProduct", "inner_product_param { num_output: 5 axis: 2 }"),
    "max, clipped window": pooled("pool: MAX kernel_size: 3 stride: 2"),
    "max, padded": pooled("pool: MAX kernel_size: 3 stride: 2 pad: 1"),
    "average, clipped window": pooled("pool: AVE kernel_size: 3 stride: 2"),
    "average, padded": pooled("pool: AVE kernel_size: 3 stride: 2 pad: 1"),
    "average, global": pooled("pool: AVE global_pooling: true"),
    "norm across channels": one("LRN", "lrn_param { local_size: 3 alpha: 0.5 beta: 0.6 }"),
    "norm within channels": one("LRN", "lrn_param { norm_region: WITHIN_CHANNEL local_size: 3 alpha: 0.5 }"),
    "batch norm": bn("l", "data", "y", "eps: 0.001"),
    "scale": scaled("l", "data", "y"),
    "power": one("Power", "power_param { power: 2 scale: 0.5 shift: 3 }"),
    "prelu": one("PReLU"),
    "elu": one("ELU", "elu_param { alpha: 0.5 }"),
    "softmax": one("Softmax"),
    "mean and variance": one("MVN"),
    "permute": one("Permute", "permute_param { order: 0 order: 2 order: 3 order: 1 }"),
    "flatten": one("Flatten", "flatten_param { axis: 2 }"),
    "reshape": one("Reshape", "reshape_param { shape { dim: 0 dim: -1 dim: 9 } }"),
    "l2 norm": one("Normalize", "norm_param { across_spatial: false channel_shared: false }"),
    "sum with coefficients": layer("ReLU", "r", "data", "r")
    + one("Eltwise", "eltwise_param { operation: SUM coeff: 2 coeff: -0.5 }", "data r"),
    "product": layer("ReLU", "r", "data", "r") + one("Eltwise", "eltwise_param { operation: PROD }", "data r"),
    "concatenation": conv("c", "data", "c", 2) + one("Concat", "concat_param { axis: 1 }", "data c"),
    "slice": layer("Slice", "s", "data", "s1 s2", "slice_param { slice_point: 1 }") + one("Concat", "", "s2 s1"),
    "crop": layer("Pooling", "p", "data", "p", "pooling_param { kernel_size: 2 stride: 2 }")
    + one("Crop", "crop_param { axis: 2 offset: 1 }", "data p"),
    "detections": convolved("Convolution", "num_output: 8 kernel_size: 1")
    + layer(
        "PriorBox", "b", "y data", "b", "prior_box_param { min_size: 3 aspect_ratio: 2 variance: 0.1 clip: false }"
    ),
}


@pytest.mark.parametrize("case", NETS)
def test_layers(case: str, tmp_path: Path) -> None:
    files = weighed(tmp_path, data(name="image") + conv("stem", "image", "data") + NETS[case])
    feeds = {"image": noise("image", 2, 4, 6, 6)}
    ours = run(files, feeds)
    theirs = opencv(files, feeds, ours)
    assert theirs is not None, "OpenCV knows this layer"
    assert agree(ours, theirs)


@pytest.mark.parametrize("name", ["cifar10", "resnet_block"])
def test_samples(name: str, samples: Path) -> None:
    files = Files(samples / f"{name}.prototxt", samples / f"{name}.caffemodel")
    feeds = {"data": noise("data", 1, 3, 32, 32)}
    ours = run(files, feeds)
    theirs = opencv(files, feeds, ours)
    assert theirs is not None
    assert agree(ours, theirs)


@pytest.mark.parametrize(("part", "least"), [("golden/layers", 80), ("golden/fold", 60), ("models/caffe", 6)])
def test_recorded(part: str, least: int, shared: Path) -> None:
    """At least so many nets agree. Real Caffe agrees with us in all cases, and so against OpenCV where that differs."""
    verdicts = {}
    for io in (shared / part).glob("*/*io.npz"):
        names = ("net.prototxt", "deploy.prototxt", "net.caffemodel", "weights.caffemodel")
        files = [io.with_name(name) for name in names if io.with_name(name).exists()]
        if len(files) == 2:
            verdicts[io.parent.name] = verdict(Files(*files), np.load(io))
    assert {name for name, told in verdicts.items() if told == "otherwise"} <= set(OTHERWISE)
    assert Counter(verdicts.values())["agrees"] >= least, verdicts


def verdict(files: Files, recorded: Any) -> str:
    feeds = {key[3:]: recorded[key].astype(np.float32) for key in recorded.files if key.startswith("in:")}
    caffe = {key[4:]: recorded[key] for key in recorded.files if key.startswith("out:")}
    ours = run(files, feeds)
    assert agree(caffe, ours), f"{files.prototxt} is not what Caffe computes"
    theirs = opencv(files, feeds, caffe)
    if theirs is None:
        return "refused"
    return "agrees" if agree(caffe, theirs) else "otherwise"
