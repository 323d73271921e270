"""Memory under several names that a layer in place overwrites, and of which another layer reads one of them later.

What Caffe computes then is no single assignment. Such memory stays as it is, with the affines next to it; the rest of
the net folds. `simulate` computes over memory as Caffe does.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bnfold.caffe.document import CaffeDocument
from bnfold.caffe.export import onnx_model
from bnfold.caffe.net import load
from bnfold.errors import InputError
from bnfold.report.data import as_data

from .build import TOLERANCE, Files, Folded, bn, conv, data, fold, layer, noise, scaled
from .simulate import simulate
from .weigh import weighed

SPLIT = layer("Split", "split", "x", "a b")
TANH = layer("TanH", "t", "data", "t")


def relu(name: str, bottom: str, top: str) -> str:
    return layer("ReLU", name, bottom, top)


def dropout(name: str, bottom: str, top: str) -> str:
    return layer("Dropout", name, bottom, top)


def flatten(bottom: str, top: str) -> str:
    return layer("Flatten", f"flatten_{top}", bottom, top)


def judged(files: Files, **options: bool) -> Folded:
    """Fold, and see that Caffe computes the same over its memory."""
    folded, feeds = fold(files, **options), {"data": noise("data", 2, 4, 6, 6)}
    before, after = simulate(load(*files), feeds), simulate(folded.net, feeds)
    assert sorted(before) == sorted(after)
    for name, array in before.items():
        assert np.abs(array - after[name]).max() <= TOLERANCE * np.abs(array).max(), name
    return folded


READ_LATER = {
    "Split, the other top": SPLIT + relu("w", "b", "b") + layer("TanH", "r", "a", "r"),
    "Split, the source": SPLIT + relu("w", "b", "b") + layer("TanH", "r", "x", "r"),
    "Flatten": flatten("x", "f") + relu("w", "f", "f") + layer("TanH", "r", "x", "r"),
    "a lone Concat": layer("Concat", "j", "x", "a") + relu("w", "a", "a") + layer("TanH", "r", "x", "r"),
    "a lone Slice": layer("Slice", "j", "x", "a") + relu("w", "a", "a") + layer("TanH", "r", "x", "r"),
    "Reshape": (
        layer("Reshape", "j", "x", "a", "reshape_param { shape { dim: 0 dim: 2 dim: -1 } }") + relu("w", "a", "a")
        + layer("TanH", "r", "x", "r")
    ),
    "two steps": flatten("x", "f") + flatten("f", "g") + relu("w", "g", "g") + layer("TanH", "r", "x", "r"),
    "overwritten twice": (
        SPLIT + relu("w", "b", "b") + layer("TanH", "u", "a", "a") + layer("TanH", "r", "b", "r")
    ),
    "shared again afterwards": SPLIT + relu("w", "b", "b") + flatten("a", "f") + layer("TanH", "r", "f", "r"),
    "an output": SPLIT + relu("w", "b", "b"),
    "an affine": SPLIT + relu("w", "b", "b") + bn("r", "a", "r"),
    "a convolution": SPLIT + relu("w", "b", "b") + conv("r", "a", "c") + bn("n", "c", "c"),
}  # fmt: skip


@pytest.mark.parametrize("case", READ_LATER)
def test_the_rest_of_the_net_folds(tmp_path: Path, case: str) -> None:
    before = data() + conv("c0", "data", "y") + bn("n0", "y", "y") + relu("r0", "y", "z")
    aside = conv("c1", "z", "v") + bn("n1", "v", "v") + scaled("s1", "v", "v") + layer("TanH", "last", "v", "v")
    net = before + conv("c", "z", "x") + READ_LATER[case] + aside
    files = weighed(tmp_path, net)
    assert CaffeDocument.open(*files).lowered.clobbered
    folded = judged(files)
    gone = [line for line in net.splitlines() if line not in folded.text.splitlines()]
    assert [line.split('"')[1] for line in gone if '"n0"' in line or '1"' in line] == ["n0", "n1", "s1"]
    for line in READ_LATER[case].splitlines():
        assert line in folded.text or '"n"' in line or 'name: "r" type: "BatchNorm"' in line
    with pytest.raises(InputError, match="overwrites their common memory") as caught:
        onnx_model(*files)
    assert (caught.value.hint, "net.prototxt" in caught.value.where) == ("give layer w a top of its own", True)


def test_what_runs_is_verified_and_the_rest_is_named(tmp_path: Path) -> None:
    net = (
        data()
        + conv("c", "data", "x")
        + bn("n", "x", "y")
        + relu("r", "y", "z")
        + conv("d", "z", "u")
        + bn("m", "u", "u")
    )
    net += layer("Split", "split", "z", "a b") + relu("w", "b", "b") + layer("TanH", "late", "a", "late")
    net += layer("Split", "more", "b", "e f") + dropout("v", "f", "f")
    found = judged(weighed(tmp_path, net), verify=True).result.verification
    assert found is not None
    assert (found.passed, found.proven) == (True, True)
    assert [output.name for output in found.outputs] == ["f", "u"]
    assert found.left_out == ["late", "output 'e'"]


UNTOUCHED = {
    "read before it is overwritten, and by a layer behind": (
        relu("q", "data", "x") + SPLIT + bn("n", "a", "n") + relu("w", "b", "b") + conv("c", "n", "o")
        + layer("TanH", "r", "x", "r")
    ),
    "an affine that would pass into it": (
        TANH + bn("n", "t", "n") + dropout("d", "n", "x") + SPLIT + dropout("w", "b", "b") + conv("c", "b", "c")
    ),
    "an affine in front of it": TANH + bn("n", "t", "x") + SPLIT + dropout("w", "b", "b") + conv("c", "b", "c"),
    "the layer that overwrites": (
        conv("c", "data", "x") + flatten("x", "f") + scaled("n", "f", "f", "axis: 0 num_axes: 0")
        + layer("TanH", "r", "x", "r")
    ),
    "an affine that reads what is overwritten": (
        conv("c", "data", "x") + SPLIT + relu("w", "b", "b") + scaled("n", "a", "n") + layer("TanH", "r", "n", "r")
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNTOUCHED)
def test_affines_next_to_it_are_kept_with_the_reason(tmp_path: Path, case: str) -> None:
    net = data() + UNTOUCHED[case]
    given = {"n": [np.full((), 2, np.float32)]} if "num_axes: 0" in net else {}
    folded = judged(weighed(tmp_path, net, **given))
    assert len(folded.types) == len(net.splitlines())
    told = as_data(folded.result)
    ((stays, reasons),) = [(item["layers"], item["reasons"]) for item in told["kept"] + told["folds"]]
    assert [item["name"] for item in stays] == ["n"]
    assert {r["hint"] for r in reasons if r["code"] == "memory"} == {"give the layer in place a top of its own"}


def test_a_copy_between_two_memories_stays(tmp_path: Path) -> None:
    """Without the Scale, which does nothing, the ReLU would overwrite what the last layer reads."""
    net = data() + layer("TanH", "q", "data", "k") + layer("Concat", "j", "k", "p") + scaled("i", "p", "y", "")
    net += flatten("y", "f") + relu("w", "f", "f") + layer("TanH", "r", "y", "r") + layer("TanH", "e", "k", "e")
    assert judged(weighed(tmp_path, net, i=[np.ones(4, np.float32)])).text == net


def test_what_its_reader_makes_has_a_known_shape(tmp_path: Path) -> None:
    net = data() + conv("c", "data", "x") + SPLIT + relu("w", "b", "b") + layer("TanH", "r", "a", "r")
    net += layer("Pooling", "p", "r", "p", "pooling_param { kernel_size: 2 }")
    assert [found.name for found in CaffeDocument.open(*weighed(tmp_path, net)).lowered.opaque] == ["r"]


def test_an_affine_of_another_type_that_reads_it_is_kept_under_its_type(tmp_path: Path) -> None:
    net = (
        data()
        + conv("c", "data", "x")
        + SPLIT
        + relu("w", "b", "b")
        + layer("Power", "p", "a", "p", "power_param { scale: 2 }")
    )
    (kept,) = as_data(judged(weighed(tmp_path, net)).result)["kept"]
    assert kept["layers"] == [{"name": "p", "type": "Power"}]


def test_a_batch_norm_that_reads_it_counts_as_kept(tmp_path: Path) -> None:
    net = data() + conv("c", "data", "x") + SPLIT + relu("w", "b", "b") + bn("n", "a", "n")
    assert judged(weighed(tmp_path, net)).result.kept_batch_norms == ["n"]


def test_a_layer_of_unknown_type_reads_it(tmp_path: Path) -> None:
    net = data() + conv("c", "data", "x") + SPLIT + relu("w", "b", "b") + layer("Mystery", "m", "a", "m")
    ((_, why),) = CaffeDocument.open(*weighed(tmp_path, net)).lowered.opaque.items()
    assert why.reason == "layer m reads blob 'a', but layer w, in place on blob 'b', overwrites their common memory"


def test_a_layer_in_place_reads_its_own_memory_under_another_name(tmp_path: Path) -> None:
    """Caffe multiplies the third bottom when the product of the first two stands in it."""
    net = data() + layer("TanH", "t", "data", "x") + SPLIT + conv("d", "data", "y") + bn("n", "y", "y")
    net += layer("Eltwise", "w", "a y b", "a", "eltwise_param { operation: PROD }")
    files = weighed(tmp_path, net)
    assert judged(files).types == ["Input", "TanH", "Split", "Convolution", "Eltwise"]
    with pytest.raises(InputError, match="reads blob 'b', but layer w, in place on blob 'a', overwrites their common"):
        onnx_model(*files)


def test_a_silence_reads_nothing_of_it(tmp_path: Path) -> None:
    net = data() + conv("c", "data", "x") + bn("n", "x", "x") + SPLIT + relu("w", "b", "b")
    net += layer("Silence", "hush", "a", "")
    files = weighed(tmp_path, net)
    assert not CaffeDocument.open(*files).lowered.clobbered
    assert "BatchNorm" not in judged(files).types


def test_a_loss_reads_it(tmp_path: Path) -> None:
    net = data() + conv("c", "data", "x") + SPLIT + layer("TanH", "t", "a", "t") + relu("w", "b", "b")
    net += layer("EuclideanLoss", "loss", "a b", "loss")
    files = weighed(tmp_path, net)
    assert CaffeDocument.open(*files).lowered.clobbered
    assert fold(files).text == net


REFUSED = {
    "another reader of the blob": (layer("TanH", "u", "x", "u") + relu("w", "x", "x"), "reads too"),
    "a layer that reads the blob twice": (
        layer("Eltwise", "e", "x data x", "x", "eltwise_param { operation: PROD }"),
        "reads too",
    ),
    "a sum in place": (layer("Eltwise", "e", "x data", "x"), "computes by accident"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_as_a_whole(tmp_path: Path, case: str) -> None:
    net, reason = REFUSED[case]
    before = data() + conv("c", "data", "x")
    files = weighed(tmp_path, before)
    files.prototxt.write_text(before + net, encoding="utf-8")
    with pytest.raises(InputError, match=reason):
        fold(files)
