"""Exported models: valid, described, open in their batch where the net is, and refused where ONNX cannot say it."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import onnx
import pytest

import bnfold
from bnfold.caffe.export import onnx_model
from bnfold.errors import InputError, UsageError

from .build import Files, batch_norm, he, noise, run, save, scale

NET = """
name: "small"
input: "data" input_shape { dim: 2 dim: 3 dim: 8 dim: 8 }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "sc" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 3 stride: 2 } }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc" inner_product_param { num_output: 5 } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""
WEIGHTS = {
    "conv": [he(4, 3, 3, 3), noise("b", 4)],
    "bn": batch_norm(4),
    "sc": scale(4),
    "fc": [he(5, 36), noise("f", 5)],
}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return save(tmp_path, NET, WEIGHTS)


def loaded(files: Files, **how: object) -> onnx.ModelProto:
    stream = io.BytesIO()
    onnx_model(*files, **how)[0].write(stream)  # type: ignore[arg-type]
    found = onnx.load_from_string(stream.getvalue())
    onnx.checker.check_model(found, full_check=True)
    return found


def test_a_model_says_where_it_comes_from(files: Files) -> None:
    found = loaded(files)
    assert (found.producer_name, found.ir_version, found.graph.name) == ("bnfold", 7, "small")
    assert [(o.domain, o.version) for o in found.opset_import] == [("", 13)]
    metadata = {entry.key: entry.value for entry in found.metadata_props}
    for path, key in zip(files, ("prototxt", "caffemodel"), strict=True):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert metadata[f"bnfold.source.{key}"] == f"{path.name} sha256:{digest}"
    assert {node.name for node in found.graph.node} >= {"conv", "bn", "sc", "pool", "fc", "prob"}


@pytest.mark.parametrize("opset", [13, 15, 18, 21, 23])
def test_every_opset_computes_the_same(opset: int, files: Files) -> None:
    x = {"data": noise("x", 2, 3, 8, 8)}
    assert loaded(files, opset=opset).opset_import[0].version == opset
    np.testing.assert_allclose(run(files, x, opset=opset)["prob"], run(files, x)["prob"], atol=1e-6)


@pytest.mark.parametrize(("how", "version"), [({"opset": 15}, 8), ({"opset": 22}, 10), ({"ir_version": 9}, 9)])
def test_the_ir_version_goes_with_the_opset_unless_it_is_given(how: dict[str, int], version: int, files: Files) -> None:
    assert loaded(files, **how).ir_version == version


def test_the_file_is_what_the_model_says(files: Files, tmp_path: Path) -> None:
    out, stream = tmp_path / "net.onnx", io.BytesIO()
    bnfold.export(*files, out)
    onnx_model(*files)[0].write(stream)
    assert out.read_bytes() == stream.getvalue()


def test_an_open_batch_runs_with_any(files: Files) -> None:
    found = loaded(files, dynamic_batch=True)
    assert found.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert found.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    x = noise("x", 6, 3, 8, 8)
    pairs = [run(files, {"data": x[i : i + 2]})["prob"] for i in range(0, 6, 2)]
    np.testing.assert_allclose(run(files, {"data": x}, dynamic_batch=True)["prob"], np.concatenate(pairs), atol=1e-6)


def test_a_layer_that_needs_its_batch_stands_in_the_way(tmp_path: Path) -> None:
    text = NET + 'layer { name: "r" type: "Reshape" bottom: "prob" top: "r" reshape_param { shape { dim: 10 } } }'
    files = save(tmp_path, text, WEIGHTS)
    assert run(files)["r"].shape == (10,)
    with pytest.raises(InputError) as caught:
        onnx_model(*files, dynamic_batch=True)
    assert "layer r" in caught.value.where
    assert "Reshape" in str(caught.value)


def test_given_shapes_replace_those_of_the_file(files: Files) -> None:
    shape = loaded(files, inputs={"data": (7, 3, 8, 8)}).graph.output[0].type.tensor_type.shape
    assert [dim.dim_value for dim in shape.dim] == [7, 5]
    with pytest.raises(UsageError, match="no input 'date'"):
        onnx_model(*files, inputs={"date": (1,)})


def test_a_training_net_takes_its_input_shape_from_the_user(tmp_path: Path) -> None:
    text = NET.replace(
        'input: "data" input_shape { dim: 2 dim: 3 dim: 8 dim: 8 }',
        'layer { name: "d" type: "Data" top: "data" top: "label" data_param { batch_size: 2 } }',
    ).replace("Softmax", "SoftmaxWithLoss").replace('bottom: "fc"', 'bottom: "fc" bottom: "label"')  # fmt: skip
    files = save(tmp_path, text, WEIGHTS)
    with pytest.raises(InputError) as caught:
        onnx_model(*files)
    assert "--input data=" in str(caught.value)
    given = {"data": (2, 3, 8, 8)}
    assert [i.name for i in loaded(files, inputs=given).graph.input] == ["data"]
    assert list(run(files, {"data": noise("x", *given["data"])}, inputs=given)) == ["fc"]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ('layer { name: "z" type: "Python" bottom: "prob" top: "z" }', "layer z: type Python cannot be exported"),
        ('layer { name: "z" type: "ReLU" bottom: "data" top: "data" }', "reads"),
    ],
)
def test_what_stands_in_the_way_is_named(more: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        onnx_model(*save(tmp_path, NET + more, WEIGHTS))
    assert reason in str(caught.value)


def test_a_blob_that_is_input_and_output_is_refused(tmp_path: Path) -> None:
    text = 'input: "x" input_shape { dim: 2 } layer { name: "r" type: "ReLU" bottom: "x" top: "x" }'
    with pytest.raises(InputError, match="two names"):
        onnx_model(*save(tmp_path, text, {"none": [np.zeros(1)]}))


def test_an_unsupported_opset_is_refused(files: Files) -> None:
    with pytest.raises(UsageError, match="opset 9"):
        onnx_model(*files, opset=9)


def test_golden_cases(shared: Path) -> None:
    """Every case of the corpus against the outputs of Caffe itself."""
    for case in sorted((shared / "golden" / "layers").iterdir()):
        stored = dict(np.load(case / "io.npz"))
        feeds = {key[3:]: array for key, array in stored.items() if key.startswith("in:")}
        found = run(Files(case / "net.prototxt", case / "net.caffemodel"), feeds)
        wanted = {key[4:]: array for key, array in stored.items() if key.startswith("out:")}
        assert sorted(found) == sorted(wanted), case.name
        for name, array in wanted.items():
            assert found[name].shape == array.shape, case.name
            assert np.abs(found[name] - array).max() <= 1e-5 * np.abs(array).max(), case.name


@pytest.mark.parametrize(
    "layer",
    [
        'type: "Scale" scale_param { axis: 0 num_axes: 2 }',
        'type: "Concat" bottom: "two" concat_param { axis: 0 }',
    ],
)
def test_an_open_batch_that_a_constant_fixes_is_refused(layer: str, tmp_path: Path) -> None:
    text = f"""input: "x" input_shape {{ dim: 2 dim: 3 }}
        layer {{ name: "two" type: "DummyData" top: "two" dummy_data_param {{ shape {{ dim: 2 dim: 3 }} }} }}
        layer {{ name: "l" bottom: "x" top: "y" {layer} }}
        layer {{ name: "sum" type: "Eltwise" bottom: "two" bottom: "y" top: "z" }}"""
    files = save(tmp_path, text, {"l": [noise("g", 2, 3)]} if "Scale" in layer else {"none": [np.zeros(1)]})
    with pytest.raises(InputError) as caught:
        onnx_model(*files, dynamic_batch=True)
    assert "layer " in caught.value.where
