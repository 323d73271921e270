"""What is not understood is named: opaque layers, inputs of unknown types, the net's fields, weights without layers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bnfold.caffe.export import onnx_model
from bnfold.caffe.layers.builder import Builder
from bnfold.caffe.layers.table import ROWS, register
from bnfold.cli import main
from bnfold.errors import InputError, StrictError, UsageError
from bnfold.ir.graph import Value
from bnfold.planner.records import Opaque
from bnfold.report.data import as_data
from bnfold.report.tables import as_tables

from .build import Files, batch_norm, bn, check, conv, data, fold, he, layer, save, scale, scaled, stored

WEIGHTS = {"c": [he(4, 4, 1, 1), he(4)], "b": batch_norm(4)}
SIMPLE = data() + conv("c", "data", "c") + bn("b", "c", "c")


def mysteries(*names: str, kind: str = "Mystery") -> str:
    return "".join(layer(kind, name, "c", name) for name in names)


# ------------------------------------------------------------------------------------------------------- the reports


def test_each_layer_is_in_the_data_and_its_type_on_the_screen(tmp_path: Path) -> None:
    odd = layer("ReLU", "odd", "c", "odd", "relu_param { slope: 1 }")
    files = save(tmp_path, SIMPLE + mysteries("m1", "m2", "m3") + odd, WEIGHTS)
    told = as_data(fold(files).result)
    assert [(layer["layer"], layer["type"]) for layer in told["opaque"]] == [
        ("m1", "Mystery"), ("m2", "Mystery"), ("m3", "Mystery"), ("odd", "ReLU"),
    ]  # fmt: skip
    assert told["opaque"][3]["where"].startswith(f"{files.prototxt}:7:")
    assert told["opaque"][3]["reason"] == "bnfold does not know the field `relu_param.slope`"
    (short,) = [table for table in as_tables(told) if "not understood" in table.heading]
    assert short.rows == [
        ["m1, m2 and 1 more", "Mystery", "bnfold does not know the type Mystery"],
        ["odd", "ReLU", "bnfold does not know the field `relu_param.slope`"],
    ]
    (whole,) = [table for table in as_tables(told, verbose=True) if "not understood" in table.heading]
    assert [row[0] for row in whole.rows] == ["m1", "m2", "m3", "odd"]
    assert whole.columns[-1] == "where"


@pytest.mark.parametrize(("option", "shown"), [("-v", True), ("--no-verify", False)])
def test_the_command_shows_each_under_v(
    option: str, shown: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = save(tmp_path, SIMPLE + mysteries("m1", "m2", "m3"), WEIGHTS)
    assert main([*map(str, files), "-o", str(tmp_path / "out"), option]) == 0
    screen = capsys.readouterr().out
    assert "Mystery" in screen
    assert ("m3" in screen) == shown


def test_a_misspelt_field_is_told_with_what_it_probably_is(tmp_path: Path) -> None:
    net = data() + conv("c", "data", "c") + bn("b", "c", "c", "epsilon: 0.001")
    (opaque,) = fold(save(tmp_path, net, WEIGHTS)).result.opaque
    assert opaque.reason == (
        "bnfold does not know the field `batch_norm_param.epsilon`, probably `eps` misspelt: "
        "real Caffe refuses such a file"
    )


def test_nothing_folds_into_or_past_an_opaque_layer(tmp_path: Path) -> None:
    odd = conv("c", "data", "c").replace("kernel_size", "shift_h: 1 kernel_size")
    net = data() + odd + bn("b", "c", "c") + layer("ReLU", "r", "c", "r")
    folded = fold(save(tmp_path, net, WEIGHTS))
    np.testing.assert_array_equal(folded.blobs["c"][0], WEIGHTS["c"][0])
    (decision,) = folded.result.plans[0][1].decisions
    assert decision.reasons[0].code == "unknown"
    assert decision.reasons[0].sentence == "what Convolution 'c' computes is not known here"


@pytest.mark.parametrize("kind", ["FusedBatchNorm", "LayerNorm", "InPlaceABN", "GroupNormalization", "batch_norm"])
def test_strict_fails_for_a_normalisation_by_its_name(kind: str, tmp_path: Path) -> None:
    files = save(tmp_path, SIMPLE + mysteries("n", kind=kind), WEIGHTS)
    fold(files)
    with pytest.raises(StrictError, match=rf"BatchNorm kept: n \({kind}, not understood\);"):
        fold(files, strict=True)


@pytest.mark.parametrize("kind", ["BNLL", "Subnet", "Upscale", "DBNet"])
def test_other_types_are_none(kind: str) -> None:
    assert not Opaque("x", kind, "", "").normalises


def test_the_type_in_a_record_is_the_layers(tmp_path: Path) -> None:
    """A Scale is no BatchNormalization and no Mul, also where it stays; the inside of an LSTM was not kept."""
    net = (
        layer("Input", "data", "", "data", "input_param { shape { dim: 3 dim: 2 dim: 4 } }")
        + layer("Input", "flags", "", "flags", "input_param { shape { dim: 3 dim: 2 } }")
        + layer("LSTM", "lstm", "data flags", "h", "recurrent_param { num_output: 4 }")
        + layer("Scale", "two", "h data", "y", "scale_param { axis: 0 }")
    )
    lstm = [he(16, 4), he(16), he(16, 4)]
    kept = as_data(fold(save(tmp_path, net, {"lstm": lstm})).result)["kept"]
    assert [(record["layers"], record["reasons"][0]["code"]) for record in kept] == [
        ([{"name": "two", "type": "Scale"}], "dynamic")
    ]
    batch = data() + bn("b", "data", "y", "use_global_stats: false") + layer("Mystery", "m", "y", "y2")
    behind = scaled("s", "y2", "z")
    told = as_data(fold(save(tmp_path, batch + behind, {"b": batch_norm(4), "s": scale(4)})).result)
    assert sorted(layer["type"] for record in told["kept"] for layer in record["layers"]) == ["BatchNorm", "Scale"]


def test_a_description_of_ones_own_reads_its_own_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROWS, "Leak", ROWS["ReLU"])

    def leak(b: Builder) -> list[Value]:
        assert b.layer.block is not None
        (param,) = b.layer.block.messages("leak_param")
        return [b.node("LeakyRelu", b.x, alpha=param.all("slope")[0].real())]

    register("Leak", leak)
    files = save(tmp_path, SIMPLE + layer("Leak", "l", "c", "y", "leak_param { slope: 0.5 }"), WEIGHTS)
    assert not check(files).result.opaque


# -------------------------------------------------------------------------------------------------- the net's files


def test_fields_of_the_net_are_named(tmp_path: Path) -> None:
    files = save(tmp_path, f"force_backwards: true state {{ stages: 'x' }}\n{SIMPLE}", WEIGHTS)
    notices = fold(files).result.notices
    assert [notice.sentence for notice in notices] == [
        f"bnfold does not know the field `{field}`, probably `{known}` misspelt: real Caffe refuses such a file"
        for field, known in (("force_backwards", "force_backward"), ("state.stages", "stage"))
    ]
    assert notices[0].where == f"{files.prototxt}:1:1"


def test_normalisations_that_only_the_caffemodel_has(tmp_path: Path) -> None:
    lost = [stored("b1", *batch_norm(4), kind="BatchNorm"), stored("s1", *scale(4), kind="Scale")]
    weights = [stored("c", *WEIGHTS["c"]), *lost, stored("loss", kind="Softmax"), stored("w", he(4, 4), kind="Split")]
    (notice,) = fold(save(tmp_path, data() + conv("c", "data", "c"), weights)).result.notices
    assert "2 BatchNorm or Scale layers that the prototxt lacks: b1, s1" in notice.sentence


def test_layers_of_another_phase_are_not_lacking(tmp_path: Path) -> None:
    other = layer("BatchNorm", "b1", "c", "t", "include { phase: TRAIN }")
    weights = [stored("c", *WEIGHTS["c"]), stored("b1", *batch_norm(4), kind="BatchNorm")]
    assert not fold(save(tmp_path, data() + conv("c", "data", "c") + other, weights)).result.notices


@pytest.mark.parametrize(
    ("rule", "option"), [('include { stage: "deploy" }', "--stage"), ("include { phase: TRAIN }", "--phase"),
                         ("include { min_level: 3 }", "--level"),
                         ('include { stage: "x" phase: TRAIN }', "--stage and --phase"),
                         ('exclude { not_stage: "x" }', "--stage")],
)  # fmt: skip
def test_a_blob_that_an_inactive_layer_makes(rule: str, option: str, tmp_path: Path) -> None:
    text = data()[:-3] + rule + " }\n" + conv("c", "data", "c")
    with pytest.raises(InputError, match="no layer before makes the bottom blob 'data'") as caught:
        fold(save(tmp_path, text, WEIGHTS))
    assert caught.value.hint == f"layer 'data' makes it, which its rules leave out; see {option}"


# --------------------------------------------------------------------------------------------------------- sources


def source(tops: str, kind: str = "Python") -> str:
    return layer(kind, "in", "", tops, "python_param { module: 'm' layer: 'L' } my_param { x: 1 }")


def read(tmp_path: Path, kind: str = "Python") -> Files:
    return save(tmp_path, source("data label", kind) + conv("c", "data", "c", kernel=3) + bn("b", "c", "c"),
                {"c": [he(4, 3, 3, 3), he(4)], "b": batch_norm(4)})  # fmt: skip


@pytest.mark.parametrize("kind", ["Python", "DenseImageData"])
def test_a_source_of_unknown_type_is_an_input(kind: str, tmp_path: Path) -> None:
    result = fold(read(tmp_path, kind), verify=True).result
    assert result.verification is not None
    assert result.verification.proven
    (told,) = result.opaque
    assert (told.layer, told.type) == ("in", kind)
    assert told.reason == f"bnfold does not know the type {kind}; its tops are taken for inputs of the net"
    assert result.after["BatchNorm"] == 0 if "BatchNorm" in result.after else True


def test_the_shape_of_an_input_can_be_given(tmp_path: Path) -> None:
    pooled = layer("Pooling", "p", "data", "p", "pooling_param { pool: AVE kernel_size: 3 pad: 1 }")
    net = source("data") + pooled + conv("c", "p", "c") + bn("b", "c", "c")
    rectified = source("data") + layer("ReLU", "r", "data", "r") + conv("c", "r", "c") + bn("b", "c", "c")
    with pytest.raises(InputError, match="the shape of input 'data' is not known") as caught:
        fold(save(tmp_path, rectified, WEIGHTS), verify=True)
    assert "--input data=1x3x224x224" in caught.value.hint
    files = save(tmp_path, net, WEIGHTS)
    assert [layer.layer for layer in fold(files).result.opaque] == ["p", "in"]
    folded = fold(files, inputs=(("data", (1, 4, 8, 8)),), verify=True)
    assert [layer.layer for layer in folded.result.opaque] == ["in"]
    assert folded.types == ["Python", "Pooling", "Convolution"]
    with pytest.raises(UsageError, match="the net has no input 'image'"):
        fold(files, inputs=(("image", (1, 4, 8, 8)),))
    onnx_model(*files, inputs={"data": (1, 4, 8, 8)})


def test_input_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = read(tmp_path)
    words = [*map(str, files), "-o", str(tmp_path / "out"), "--input", "data=2x3x9x9", "--json", "-"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verification"]["proven"]
    assert main([*words[:-3], "data=2x5x9x9"]) == 3  # which the weights do not fit
    assert (
        main(
            [
                str(Path(__file__).parents[2] / "samples/keras.onnx"),
                "-o",
                str(tmp_path / "x.onnx"),
                "--input",
                "data=1x3",
            ]
        )
        == 2
    )


# ---------------------------------------------------------------------------------------- one layer never costs a net


def test_detection_layers_whose_numbers_do_not_fit(tmp_path: Path) -> None:
    """BVLC's SSD has other anchors than some forks: what they are for is opaque, the rest folds."""
    boxes = layer(
        "PriorBox", "p", "c data", "p", "prior_box_param { min_size: 4 max_size: 2 max_size: 3 variance: 0.1 }"
    )
    files = save(tmp_path, SIMPLE + boxes, WEIGHTS)
    folded = fold(files, verify=True)
    assert folded.types == ["Input", "Convolution", "PriorBox"]
    (opaque,) = folded.result.opaque
    assert opaque.reason == "PriorBox has 1 min_size and 2 max_size"
    with pytest.raises(InputError, match="type PriorBox cannot be exported: PriorBox has 1 min_size"):
        onnx_model(*files)


def test_a_value_of_an_enum_nobody_knows_costs_its_layer(tmp_path: Path) -> None:
    pool = layer("Pooling", "p", "c", "p", "pooling_param { pool: MEDIAN kernel_size: 2 }")
    folded = check_all_but_exports(save(tmp_path, SIMPLE + pool, WEIGHTS))
    assert folded == ["Input", "Convolution", "Pooling"]


def check_all_but_exports(files: Files) -> list[str]:
    folded = fold(files, verify=True)
    assert folded.result.verification is not None
    assert folded.result.verification.left_out == ["p"]
    return folded.types


def test_a_net_of_known_words_has_nothing_opaque(tmp_path: Path) -> None:
    result = check(save(tmp_path, SIMPLE, WEIGHTS)).result
    assert (result.opaque, result.notices) == ((), ())


# ----------------------------------------------------------------------------------------- more of one layer's own cost


@pytest.mark.parametrize(
    "body", ["pooling_param { odd: 1 }", "pooling_param { pool: MEDIAN kernel_size: 1 }", "odd_param { }"]
)
def test_an_opaque_layer_in_place_costs_itself_alone(body: str, tmp_path: Path) -> None:
    folded = fold(save(tmp_path, SIMPLE + layer("Pooling", "p", "c", "c", body), WEIGHTS))
    assert folded.types == ["Input", "Convolution", "Pooling"]
    assert [layer.layer for layer in folded.result.opaque] == ["p"]


@pytest.mark.parametrize(
    ("old", "what"),
    [
        ('layers { layer { name: "p" type: "pool" pool: FOO kernelsize: 2 } bottom: "c" top: "p" }', "FOO of `pool`"),
        (
            'layers { name: "p" type: CONVOLUTION bottom: "c" top: "p" blob_share_mode: FOO }',
            "FOO of `blob_share_mode`",
        ),
    ],
)
def test_enums_of_the_old_formats_cost_their_layer(old: str, what: str, tmp_path: Path) -> None:
    inputs = 'input: "data" input_dim: 2 input_dim: 4 input_dim: 6 input_dim: 6\n'
    param = "convolution_param { num_output: 4 kernel_size: 1 }"
    first = f'layers {{ name: "c" type: CONVOLUTION bottom: "data" top: "c" {param} }}\n'
    (opaque,) = fold(save(tmp_path, inputs + first + old, {"c": WEIGHTS["c"]})).result.opaque
    assert what in opaque.reason


def test_a_parameter_of_2013_that_is_given_twice(tmp_path: Path) -> None:
    text = 'layers { layer { name: "p" type: "pool" stride: 2 stride: 3 kernelsize: 2 } bottom: "x" top: "p" }'
    with pytest.raises(InputError, match="`stride` is given twice"):
        fold(save(tmp_path, text, WEIGHTS))


def test_an_open_input_in_front_of_a_batch_norm_is_an_image(tmp_path: Path) -> None:
    net = source("data") + bn("b", "data", "n") + conv("c", "n", "c", kernel=3)
    result = fold(save(tmp_path, net, {"b": batch_norm(4), "c": [he(4, 4, 3, 3), he(4)]}), verify=True).result
    assert result.verification is not None
    assert result.verification.proven


@pytest.mark.parametrize(
    "param",
    [
        "convolution_param { weight_filler { bias_term: false } num_output: 4 kernel_size: 1 bias_term: false }",
        "scale_param { bias_term: false } convolution_param { num_output: 4 kernel_size: 1 bias_term: false }",
    ],
)
def test_a_bias_term_of_something_else_is_left_alone(param: str, tmp_path: Path) -> None:
    net = data() + layer("Convolution", "c", "data", "c", param) + bn("b", "c", "c")
    folded = check(save(tmp_path, net, {"c": WEIGHTS["c"][:1], "b": WEIGHTS["b"]}))
    assert folded.types == ["Input", "Convolution"]
    assert folded.text.count("bias_term: true") == 1


def test_statistics_without_a_type_are_known_by_their_shapes(tmp_path: Path) -> None:
    weights = [stored("c", *WEIGHTS["c"]), stored("b1", *batch_norm(4)), stored("f", he(4, 4), he(4))]
    (notice,) = fold(save(tmp_path, data() + conv("c", "data", "c"), weights)).result.notices
    assert notice.sentence.endswith("that the prototxt lacks: b1")


def test_the_number_of_a_forks_value_is_bnfolds_own(tmp_path: Path) -> None:
    pool = layer("Pooling", "p", "c", "p", "pooling_param { pool: 1000 kernel_size: 2 }")
    (opaque,) = fold(save(tmp_path, SIMPLE + pool, WEIGHTS)).result.opaque
    assert "the value 1000 of `pooling_param.pool`" in opaque.reason


def test_a_data_layer_of_2013_is_an_input(tmp_path: Path) -> None:
    text = 'layers { layer { name: "d" type: "hdf5_data" source: "x" batchsize: 2 } top: "data" }\n'
    text += 'layers { layer { name: "c" type: "conv" num_output: 4 kernelsize: 1 } bottom: "data" top: "c" }'
    result = fold(save(tmp_path, text, {"c": WEIGHTS["c"]})).result
    assert (result.opaque, result.before["HDF5Data"]) == ((), 1)


def test_a_source_is_no_normalisation_that_was_left(tmp_path: Path) -> None:
    assert fold(read(tmp_path, "BNData"), strict=True).types == ["BNData", "Convolution"]
