"""Public nets with generated weights, and public nets with their own: folded, verified, and counted.

They lie beside the project in `../shared`; without that folder these tests are skipped.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from .build import Files, Folded, assert_equal, fold, run
from .weigh import weigh

SHARED = Path(__file__).parents[2] / ".." / "shared"
NETS = sorted((SHARED / "prototxt").glob("*.prototxt"))
MODELS = SHARED / "models" / "caffe"

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the public nets are not in ../shared")


def slim(text: str) -> str:
    """The net with an eighth of its wide layers' channels, so that its weights are soon made."""
    return re.sub(
        r"num_output:\s*(\d+)", lambda m: f"num_output: {int(m[1]) // 8}" if narrows(int(m[1])) else m[0], text
    )


def narrows(outs: int) -> bool:
    return outs >= 64 and outs % 8 == 0


WIDE = {
    "crnn_lstm", "mobilenet_ssd", "mobilenet_v1_shicai", "mobilenet_v2_shicai", "mobilenetv2_ssdlite",
    "mobilenetv3_yolo_se", "pvanet91_preact", "resnext26_32x4d", "se_bn_inception", "se_resnext50_axpy",
    "silentface_retina", "tusimple_yolov3lite_deconv",
}  # fmt: skip
"""Nets that other parameters, such as groups, hold at their width."""


DATA = {"cifar10_full_sigmoid_bn_bvlc": {"data": (2, 3, 32, 32)}}
"""Nets that do not say how large their images are."""


def generated(prototxt: Path, folder: Path) -> Files:
    text = prototxt.read_text(encoding="utf-8")
    text = text.replace("num_output: 4096", "num_output: 64") if prototxt.stem in WIDE else slim(text)
    files = Files(folder / "net.prototxt", folder / "net.caffemodel")
    files.prototxt.write_text(text, encoding="utf-8")
    files.caffemodel.write_bytes(b"".join(weigh(files.prototxt, inputs=DATA.get(prototxt.stem))))
    return files


# --------------------------------------------------------------------------------------- with weights that we generate

LEFT = {
    "densenet121_soeaver": 62, "pvanet91_preact": 23, "resnet101_v2_preact": 33, "resnet10_preact_cvgj": 2,
    "resnet38a_preact": 15, "resnet50_preact_cvgj": 17,
    "mobilenetv3_yolo_se": 8, "se_bn_inception": 10,
}  # fmt: skip
"""At most so many Scale and Bias layers stay: one where a BatchNorm and a Scale stood before a ReLU with no weights in
front; in the last two nets those whose multiplier is a second bottom."""
UNCONVERTED = {"pvanet91_preact": ["proposal"]}
"""Layers that are no part of the proof, with all that depends on them."""


@pytest.mark.parametrize("prototxt", NETS, ids=lambda path: path.stem)
def test_public_net(prototxt: Path, tmp_path: Path) -> None:
    files = generated(prototxt, tmp_path)
    folded = fold(files, verify=prototxt.stem not in DATA)
    after = folded.result.after
    assert not {"BatchNorm", "BN", "CuDNNBatchNorm"} & after.keys()
    assert after.get("Scale", 0) + after.get("Bias", 0) <= LEFT.get(prototxt.stem, 0)
    verification = folded.result.verification
    if verification is None:
        shapes = DATA[prototxt.stem]
        assert_equal(run(files, inputs=shapes), run(folded.files, inputs=shapes), 1e-5)
    else:
        assert verification.passed
        assert [c.name for c in verification.outputs] or prototxt.stem in UNCONVERTED
        assert verification.left_out == UNCONVERTED.get(prototxt.stem, [])
        assert len(verification.inner) >= folded.result.before["BatchNorm"] // 2


# ------------------------------------------------------------------------------------------- with weights of their own

COUNTS = {
    "landmark106": (38, 38),
    "mnv2_yolov3_nano_voc": (57, 57),
    "nsfw_resnet50_1by2": (53, 53),
    "resnet50_stem_htshinichi": (1, 1),
    "retinaface_mnet25_clancylian": (47, 47),
    "ultraface_rfb320_folded_caffe": (0, 0),
    "xilinx_espnet_encoder": (15, 0),
    "yoloface_50k": (23, 23),
}
"""BatchNorm and Scale layers before; none of either is left but for what xilinx_espnet_encoder merges into."""


def folded_model(name: str, folder: Path, **options: bool) -> tuple[Files, Folded]:
    files = Files(folder / "deploy.prototxt", folder / "weights.caffemodel")
    for path in files:
        shutil.copyfile(MODELS / name / path.name, path)
    return files, fold(files, **options)


@pytest.mark.parametrize("name", COUNTS)
def test_model(name: str, tmp_path: Path) -> None:
    files, folded = folded_model(name, tmp_path, verify=True)
    before, after = folded.result.before, folded.result.after
    assert (before.get("BatchNorm", 0), before.get("Scale", 0)) == COUNTS[name]
    assert "BatchNorm" not in after
    left = after.get("Scale", 0) + after.get("Bias", 0)
    assert left == (14 if name == "xilinx_espnet_encoder" else 0)
    assert files.prototxt.read_text().count("upsample") == folded.text.count("upsample")
    verification = folded.result.verification
    assert verification is not None
    assert verification.passed


@pytest.mark.parametrize("name", [name for name in COUNTS if (MODELS / name / "caffe-io.npz").exists()])
def test_model_gives_what_caffe_gave(name: str, tmp_path: Path) -> None:
    stored = np.load(MODELS / name / "caffe-io.npz")
    _, folded = folded_model(name, tmp_path)
    feeds = {key[3:]: stored[key] for key in stored.files if key.startswith("in:")}
    wanted = {key[4:]: stored[key] for key in stored.files if key.startswith("out:")}
    assert_equal(wanted, run(folded.files, feeds), 1e-5)


def test_a_folded_model_is_copied_byte_by_byte(tmp_path: Path) -> None:
    files, folded = folded_model("ultraface_rfb320_folded_caffe", tmp_path)
    assert [path.read_bytes() for path in folded.files] == [path.read_bytes() for path in files]
    assert not folded.result.plans[0][1].changes


def test_parameters_of_unknown_fields_survive(tmp_path: Path) -> None:
    files, folded = folded_model("mnv2_yolov3_nano_voc", tmp_path)
    block = re.compile(r"upsample_param\s*\{[^}]*\}")
    assert block.findall(folded.text) == block.findall(files.prototxt.read_text())
    assert block.findall(folded.text)
