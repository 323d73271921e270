"""Caffemodels written with protobuf's own encoder, read as spans, changed, and decoded again by protobuf."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bnfold import protobuf
from bnfold.caffe import caffe_pb2 as pb
from bnfold.caffe.weights import caffemodel
from bnfold.caffe.weights.blob import Blob, LayerChange, NewBlob, NewLayer
from bnfold.caffe.weights.caffemodel import Caffemodel
from bnfold.errors import InputError

from ..build import filled

MODELS = Path(__file__).parents[3] / ".." / "shared"


def stored(shape: Sequence[int], values: Any = None, field: str = "data", legacy: bool = False) -> pb.BlobProto:
    data = np.arange(np.prod(shape, dtype=int)) if values is None else values
    blob = pb.BlobProto()
    getattr(blob, field).extend(np.asarray(data).reshape(-1).tolist())
    if legacy:
        blob.num, blob.channels, blob.height, blob.width = shape
    else:
        blob.shape.dim.extend(shape)
    return blob


def conv(name: str = "conv", *blobs: pb.BlobProto, **fields: Any) -> pb.LayerParameter:
    blobs = blobs or (stored((2, 3, 1, 1)), stored((2,)))
    return pb.LayerParameter(name=name, type="Convolution", bottom=["a"], top=["b"], blobs=blobs, **fields)


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., Caffemodel]:
    def write(*layers: pb.LayerParameter | pb.V1LayerParameter | bytes, **fields: Any) -> Caffemodel:
        data = pb.NetParameter(name="net", **fields).SerializeToString()
        for layer in layers:
            if isinstance(layer, bytes):
                data += layer
            else:
                number = 100 if isinstance(layer, pb.LayerParameter) else 2
                data += protobuf.delimited(number, layer.SerializeToString())
        path = tmp_path / "x.caffemodel"
        path.write_bytes(data)
        return Caffemodel(path)

    return write


def raw(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def written(rope: protobuf.Rope) -> bytes:
    stream = io.BytesIO()
    rope.write(stream)
    assert len(stream.getvalue()) == rope.size
    return stream.getvalue()


def decoded(rope: protobuf.Rope) -> pb.NetParameter:
    return pb.NetParameter.FromString(written(rope))


Model = Callable[..., Caffemodel]

# ------------------------------------------------------------------------------------------------------- reading


def test_layers_in_the_order_of_the_file(model: Model) -> None:
    net = model(conv("b"), conv("a", stored((1,))), pb.LayerParameter(type="ReLU"))
    assert [(layer.name, layer.type, len(layer.blobs)) for layer in net.layers] == [
        ("b", "Convolution", 2),
        ("a", "Convolution", 1),
        ("", "ReLU", 0),
    ]


def test_v1_types_have_todays_names(model: Model) -> None:
    kinds = pb.V1LayerParameter
    net = model(*(kinds(name=str(n), type=n, blobs=[stored((2,))]) for n in (4, 14, 18, 20, 39)))
    assert [layer.type for layer in net.layers] == ["Convolution", "InnerProduct", "ReLU", "Softmax", "Deconvolution"]
    assert net.layers[0].blobs[0].array().tolist() == [0, 1]


def test_names_that_are_not_utf8_survive(model: Model) -> None:
    name = b"conv\xff\xe9"
    net = model(protobuf.delimited(100, protobuf.delimited(1, name)))
    assert net.layers[0].name.encode("utf-8", "surrogateescape") == name


def test_one_packed_run_is_a_view_of_the_file(model: Model) -> None:
    array = model(conv()).layers[0].blobs[0].array()
    assert array.base is not None
    assert not array.flags.owndata
    assert not array.flags.writeable
    assert array.dtype == np.float32
    assert array.shape == (2, 3, 1, 1)


def blob_of(model: Model, proto: bytes) -> Blob:
    return model(protobuf.delimited(100, protobuf.delimited(7, proto))).layers[0].blobs[0]


def floats(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


SHAPE_3 = protobuf.delimited(7, protobuf.delimited(1, b"\x03"))


@pytest.mark.parametrize(
    "proto",
    [
        SHAPE_3 + protobuf.delimited(5, floats(1, 2, 3)),
        protobuf.delimited(5, floats(1, 2, 3)) + protobuf.delimited(7, protobuf.integer(1, 3)),
        SHAPE_3 + b"".join(protobuf.tag(5, protobuf.FIXED32) + floats(x) for x in (1, 2, 3)),
        SHAPE_3
        + protobuf.delimited(5, floats(1))
        + protobuf.tag(5, protobuf.FIXED32)
        + floats(2)
        + protobuf.delimited(5, floats(3)),
        SHAPE_3
        + protobuf.delimited(5, floats(1, 2))
        + protobuf.delimited(6, floats(9, 9))
        + protobuf.delimited(5, floats(3)),
        SHAPE_3
        + protobuf.delimited(5, floats(1, 2, 3))
        + protobuf.delimited(8, b"")
        + protobuf.integer(5, 7)
        + protobuf.integer(99, 1),
    ],
)
def test_every_encoding_of_three_floats(model: Model, proto: bytes) -> None:
    blob = blob_of(model, proto)
    assert blob.array().tolist() == [1, 2, 3] == list(pb.BlobProto.FromString(proto).data)
    assert (blob.shape, blob.count, blob.legacy) == ((3,), 3, False)


@pytest.mark.parametrize("packed", [True, False])
def test_doubles_outweigh_floats(model: Model, packed: bool) -> None:
    values = [1 / 3, 2 / 3]
    data = np.array(values, "<f8").tobytes()
    doubles = (
        protobuf.delimited(8, data)
        if packed
        else b"".join(protobuf.tag(8, protobuf.FIXED64) + data[at : at + 8] for at in (0, 8))
    )
    blob = blob_of(
        model, protobuf.delimited(5, floats(7)) + doubles + protobuf.delimited(7, protobuf.delimited(1, b"\x02"))
    )
    assert blob.dtype == np.float64
    assert blob.array().tolist() == values


def test_any_legacy_extent_outweighs_the_shape(model: Model) -> None:
    both = stored((2, 3, 1, 1), legacy=True)
    both.shape.dim.extend([6])
    blob = model(conv("c", both)).layers[0].blobs[0]
    assert (blob.shape, blob.legacy) == ((2, 3, 1, 1), True)
    with pytest.raises(InputError, match="the shape 0×2×0×0 needs 0 values, the file has 2"):
        _ = model(conv("c", pb.BlobProto(channels=2, data=[1, 2], shape=pb.BlobShape(dim=[2])))).layers[0].blobs


def test_a_scalar_has_no_axes(model: Model) -> None:
    blob = model(conv("scale", stored(()))).layers[0].blobs[0]
    assert (blob.shape, blob.array().shape) == ((), ())


def test_which_parameters_a_blob_fits(model: Model) -> None:
    weight, bias, modern = (
        model(conv("c", stored((4, 3, 1, 1), legacy=True), stored((1, 1, 1, 4), legacy=True), stored((1, 4))))
        .layers[0]
        .blobs
    )
    assert weight.fits((4, 3, 1, 1))
    assert bias.fits((4,))
    assert bias.fits((1, 4))
    assert not weight.fits((3, 4, 1, 1))
    assert modern.fits((1, 4))
    assert not modern.fits((4,))


@pytest.mark.parametrize(
    ("proto", "what"),
    [
        (SHAPE_3 + protobuf.delimited(5, floats(1, 2)), "the shape 3 needs 3 values, the file has 2"),
        (SHAPE_3, "needs 3 values, the file has 0"),
        (b"", r"the shape \(\) needs 1 values, the file has 0"),
        (protobuf.delimited(7, protobuf.integer(1, -3)) + protobuf.delimited(5, b""), "negative extent"),
        (protobuf.integer(1, -1) + protobuf.delimited(5, floats(1)), "negative extent"),
        (protobuf.delimited(7, protobuf.delimited(1, b"\x00" + b"\xff\x7f" * 5)), "larger than any blob"),
        (SHAPE_3 + protobuf.delimited(5, b"123"), "a value is cut in two"),
        (
            protobuf.delimited(7, protobuf.delimited(1, b"\x01" * 33)) + protobuf.delimited(5, floats(1)),
            "more than 32 axes",
        ),
        (protobuf.delimited(7, protobuf.delimited(1, b"\xff")), "an integer does not end"),
        (protobuf.delimited(7, b"\x0a\x05"), "runs past the end"),
        (protobuf.tag(5, protobuf.BYTES) + b"\x7f", "runs past the end"),
    ],
)
def test_broken_blobs_name_file_layer_and_blob(model: Model, proto: bytes, what: str) -> None:
    layer = protobuf.delimited(100, protobuf.string(1, "fc") + protobuf.delimited(7, proto))
    net = model(layer)
    with pytest.raises(InputError, match=what) as caught:
        _ = net.layers[0].blobs
    assert caught.value.where == f"{net.path}, layer fc, blob 0"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "the file is empty"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
        (protobuf.tag(100, protobuf.BYTES) + b"\x7f", "cut short or is no caffemodel"),
        (protobuf.delimited(100, b"") + protobuf.delimited(2, b""), "mixes"),
        (protobuf.delimited(2, protobuf.delimited(1, b"")), "format of 2013"),
        (protobuf.delimited(100, b"\x0a\x05x"), "the layer cannot be decoded"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, data: bytes, what: str) -> None:
    with pytest.raises(InputError, match=what) as caught:
        Caffemodel(raw(tmp_path / "x.caffemodel", data))
    assert str(tmp_path) in caught.value.where


def test_a_file_cut_anywhere_is_refused_or_has_whole_layers_only(tmp_path: Path) -> None:
    data = pb.NetParameter(name="net", layer=[conv("a"), conv("b")]).SerializeToString()
    for length in range(1, len(data)):
        try:
            layers = Caffemodel(raw(tmp_path / "x", data[:length])).layers
        except InputError:
            continue
        assert {layer.name: [blob.count for blob in layer.blobs] for layer in layers} in ({}, {"a": [6, 2]})


@given(st.data())
def test_mutated_files_load_or_fail_by_name(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    good = bytearray(pb.NetParameter(name="net", layer=[conv("a"), conv("b")]).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "mutated"
    try:
        net = Caffemodel(raw(path, bytes(good)))
        for layer in net.layers:
            for blob in layer.blobs:
                assert blob.array().shape == blob.shape
        change = LayerChange(name="c", type="Scale", bias_term=False)
        written(net.rope(changes=dict.fromkeys(range(len(net.layers)), change)))
    except InputError:
        return


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (protobuf.delimited(100, b"") * 300_000, "more than 1000 layers"),
        (protobuf.delimited(100, protobuf.delimited(7, b"") * 300_000), "more than 1000 blobs"),
    ],
)
def test_counts_are_limited_before_they_cost_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, what: str
) -> None:
    monkeypatch.setattr(caffemodel, "_MAX_LAYERS", 1000)
    path = raw(tmp_path / "x", data)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=what):
            _ = Caffemodel(path).layers[0].blobs
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


# ------------------------------------------------------------------------------------------------------- writing


def test_what_no_edit_touches_is_byte_identical(model: Model) -> None:
    vendor = protobuf.delimited(
        100, protobuf.string(1, "v") + protobuf.delimited(9999, b"\0\1") + protobuf.integer(2047, 5)
    )
    net = model(conv("a"), vendor, protobuf.delimited(7777, b"tail"), input=["x"])
    assert written(net.rope()) == bytes(net.data)
    assert written(net.rope(drop=[0])) == bytes(net.data[: net.layers[0].start]) + bytes(net.data[net.layers[0].end :])


def test_dropped_layers_are_gone(model: Model) -> None:
    net = model(conv("a"), conv("b"), conv("c"))
    assert [layer.name for layer in decoded(net.rope(drop={0, 2})).layer] == ["b"]


def new(shape: tuple[int, ...], array: Any = None, dtype: Any = np.float32, legacy: bool = False) -> NewBlob:
    values = np.ones(shape) if array is None else array
    return NewBlob(shape, np.dtype(dtype), legacy, lambda: values)


def test_new_blobs_replace_the_old_in_place(model: Model) -> None:
    net = model(conv("a", phase=1))
    old = net.layers[0].blobs
    bias = new((2,), np.array([0.1, 0.2]))
    layer = decoded(net.rope(changes={0: LayerChange(blobs=[old[0], bias])})).layer[0]
    expected = conv("a", phase=1)
    expected.blobs[1].data[:] = [0.1, 0.2]
    assert layer == expected
    expected.ClearField("blobs")
    assert decoded(net.rope(changes={0: LayerChange(blobs=[])})).layer[0] == expected


def test_a_layer_without_blobs_gets_some(model: Model) -> None:
    net = model(pb.LayerParameter(name="a", type="BatchNorm"))
    change = LayerChange(blobs=[new((3,))], name="b", type="Scale")
    expected = pb.LayerParameter(name="b", type="Scale", blobs=[stored((3,), np.ones(3))])
    assert decoded(net.rope(changes={0: change})).layer[0] == expected


@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64]), hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=3)
    ),
    st.booleans(),
)
def test_a_new_blob_is_encoded_as_protobuf_encodes_it(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray[Any, np.dtype[Any]], legacy: bool
) -> None:
    path = raw(tmp_path_factory.getbasetemp() / "encoded", protobuf.delimited(100, protobuf.string(1, "a\1")))
    rope = Caffemodel(path).rope(
        changes={0: LayerChange(blobs=[NewBlob(array.shape, array.dtype, legacy, lambda: array)])}
    )
    data = written(rope)
    proto = pb.NetParameter.FromString(data)
    if legacy and array.ndim <= 4:
        shape = (1,) * (4 - array.ndim) + array.shape
        blob = proto.layer[0].blobs[0]
        assert (blob.num, blob.channels, blob.height, blob.width) == shape
        assert not blob.HasField("shape")
    else:
        shape = array.shape
    if array.size:  # an empty packed field is not written by protobuf
        assert proto.SerializeToString() == data
    read = Caffemodel(raw(path, data)).layers[0].blobs[0]
    assert read.shape == shape
    if array.size:
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read.array().reshape(array.shape), array)


@pytest.mark.parametrize("number", [106, 117])
@pytest.mark.parametrize(
    ("old", "wanted", "result"),
    [(None, True, None), (None, False, False), (False, True, True), (True, True, True), (False, False, False)],
)
def test_bias_term_is_changed_only_where_it_contradicts(
    model: Model, number: int, old: bool | None, wanted: bool, result: bool | None
) -> None:
    param = b"" if old is None else protobuf.integer(2, old)
    rest = protobuf.integer(1, 64) + protobuf.integer(5, 2)
    net = model(
        protobuf.delimited(
            100,
            protobuf.string(1, "a")
            + protobuf.delimited(number, protobuf.integer(1, 64) + param + protobuf.integer(5, 2)),
        )
    )
    layer = decoded(net.rope(changes={0: LayerChange(bias_term=wanted)})).layer[0]
    got = layer.convolution_param if number == 106 else layer.inner_product_param
    assert got.bias_term == wanted
    assert (got.bias_term if got.HasField("bias_term") else None) == result
    got.ClearField("bias_term")
    assert got.SerializeToString() == rest


def test_v1_files_stay_v1(model: Model) -> None:
    net = model(pb.V1LayerParameter(name="c", type="CONVOLUTION", blobs=[stored((1, 1, 1, 2), legacy=True)]))
    change = LayerChange(blobs=[new((2,), legacy=True)], type="InnerProduct")
    extra = NewLayer("s", "Scale", ["a"], ["b"], [new((2,))])
    layers = decoded(net.rope(changes={0: change}, added=[extra])).layers
    assert [layer.name for layer in layers] == ["c", "s"]
    assert layers[0].type == pb.V1LayerParameter.INNER_PRODUCT
    assert layers[0].blobs[0] == stored((1, 1, 1, 2), [1, 1], legacy=True)
    assert not layers[1].HasField("type"), "V1 has no number for a Scale, and Caffe does not ask for one"


def test_added_layers_stand_at_the_end(model: Model) -> None:
    net = model(conv("a"))
    rope = net.rope(added=[NewLayer("b", "Bias", ["x"], ["y"], [new((2,))])])
    assert written(rope).startswith(bytes(net.data))
    expected = pb.LayerParameter(name="b", type="Bias", bottom=["x"], top=["y"], blobs=[stored((2,), [1, 1])])
    assert decoded(rope).layer[1] == expected


def test_arrays_are_made_when_they_are_written(model: Model) -> None:
    made: list[int] = []

    def load() -> np.ndarray[Any, np.dtype[Any]]:
        made.append(1)
        return np.zeros(2)

    rope = model(conv()).rope(changes={0: LayerChange(blobs=[NewBlob((2,), np.dtype("f4"), False, load)])})
    assert not made
    written(rope)
    assert made == [1]


# -------------------------------------------------------------------------------------------------------- corpus


@pytest.mark.skipif(not MODELS.is_dir(), reason="the corpus of public models ../shared is not there")
def test_public_models_as_protobuf_decodes_them() -> None:
    files = sorted([*MODELS.glob("golden/*/*/*.caffemodel"), *MODELS.glob("models/caffe/*/*.caffemodel")])
    assert files
    for path in files:
        net, proto = Caffemodel(path), pb.NetParameter.FromString(path.read_bytes())
        for ours, theirs in zip(net.layers, proto.layer or proto.layers, strict=True):
            name = ours.name.encode("utf-8", "surrogateescape")  # protobuf gives what is no UTF-8 as bytes
            assert name == (theirs.name if isinstance(theirs.name, bytes) else theirs.name.encode())
            for blob, expected in zip(ours.blobs, theirs.blobs, strict=True):
                if blob.raw:  # which the schema does not have
                    assert not filled(expected)
                    continue
                values = expected.double_data or expected.data
                np.testing.assert_array_equal(blob.array().reshape(-1), np.array(values, blob.dtype), strict=True)
        assert written(net.rope()) == path.read_bytes()
