"""Nets as Caffe would load them: phases, old formats, and which weights end up in which layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from bnfold.caffe import caffe_pb2 as pb
from bnfold.caffe.net import CaffeNet, Layer, load
from bnfold.errors import InputError

SHARED = Path(__file__).parents[2] / ".." / "shared"
Load = Callable[..., CaffeNet]


@pytest.fixture
def net(tmp_path: Path) -> Load:
    def build(text: str, weights: Sequence[tuple[str, Sequence[float]]] | None = None, **options: Any) -> CaffeNet:
        """The net of a text, with one-element blobs by layer name, in this order in the caffemodel."""
        (tmp_path / "net.prototxt").write_text(text)
        if weights is None:
            return load(tmp_path / "net.prototxt", None, **options)
        stored = pb.NetParameter(name="trained")
        for name, values in weights:
            layer = stored.layer.add(name=name, type="any")
            layer.blobs.extend(pb.BlobProto(shape=pb.BlobShape(dim=[1]), data=[value]) for value in values)
        (tmp_path / "net.caffemodel").write_bytes(stored.SerializeToString())
        return load(tmp_path / "net.prototxt", tmp_path / "net.caffemodel", **options)

    return build


def names(layers: Sequence[Layer]) -> list[str]:
    return [layer.name for layer in layers]


def values(layer: Layer) -> list[float]:
    return [float(blob.array()[0]) for blob in layer.blobs]


def conv(name: str, *specs: str) -> str:
    params = " ".join(f'param {{ name: "{spec}" }}' for spec in specs)
    return f'layer {{ name: "{name}" type: "Convolution" bottom: "data" top: "{name}" {params} }}\n'


# --------------------------------------------------------------------------------------------------------- layers


def test_a_layer_has_names_types_and_typed_parameters(net: Load) -> None:
    layer = net(
        """layer {
          name: "c/1" type: "Convolution" bottom: 'a' bottom: "b" top: "c"
          convolution_param { num_output: 8 pad: 1 kernel_size: [3, 5] bias_term: False vendor_field: 1 }
          batch_norm_param { use_global_stats: true } pooling_param { pool: AVE } vendor_param { x: 1 }
          param { name: "w" } param { lr_mult: 2 }
        }"""
    ).layers[0]
    assert (layer.name, layer.type, layer.bottoms, layer.tops) == ("c/1", "Convolution", ["a", "b"], ["c"])
    conv = layer.param.convolution_param
    assert (conv.num_output, list(conv.pad), list(conv.kernel_size), conv.bias_term) == (8, [1], [3, 5], False)
    assert (conv.group, list(conv.stride)) == (1, [])
    assert layer.param.pooling_param.pool == pb.PoolingParameter.AVE
    assert layer.param.batch_norm_param.eps == pytest.approx(1e-5)
    assert [item.path for item in layer.unread] == ["convolution_param.vendor_field", "vendor_param"]
    assert layer.unread[0].place.endswith("net.prototxt:3:89")
    assert layer.shared == ["w", None]
    assert layer.where.endswith("net.prototxt:1:1, layer c/1")
    assert layer.block is not None
    assert layer.block.first("convolution_param") is not None


@pytest.mark.parametrize(
    ("body", "what", "at"),
    [
        ('convolution_param { num_output: "8" }', "`num_output` should be a whole number", '"8"'),
        ("convolution_param { num_output: -1 }", "`num_output` must be from 0 to 4294967295 and is -1", "-1"),
        ("convolution_param { bias_term: 2 }", "`bias_term` should be true or false", "2"),
        ("convolution_param { group: 1 group: 2 }", "`group` is given twice", "2"),
        ("convolution_param: 3", "`convolution_param` should be a block", "3"),
        ("bottom: conv1", "`bottom` should be a string in quotes and is conv1", "conv1"),
        ("include { phase: 7 }", "does not know the value 7 of `include.phase`", "7"),
        ("exclude { stages: 'a' }", "the field `exclude.stages`, probably `stage` misspelt", "'a'"),
        ("blobs { data: 1 }", "weights inside a prototxt", "{ data"),
        ('include { stage: "a" } exclude { stage: "b" }', "`include` or `exclude` rules, not both", "layer {"),
    ],
)
def test_wrong_values_name_the_place_and_the_layer(net: Load, body: str, what: str, at: str) -> None:
    text = f'layer {{ name: "c1" type: "Convolution" {body} }}'
    with pytest.raises(InputError) as caught:
        net(text)
    assert what in caught.value.what
    assert caught.value.where.endswith(f"net.prototxt:1:{text.rindex(at) + 1}, layer c1")


def test_a_phase_of_its_own_that_nobody_knows_makes_a_layer_opaque(net: Load) -> None:
    layer = net('layer { name: "b" type: "BatchNorm" phase: DEPLOY }').layers[0]
    assert [item.what for item in layer.unread] == [
        "bnfold does not know the value DEPLOY of `phase`; it can be TRAIN, TEST"
    ]


@pytest.mark.parametrize("value", ["MEAN", '"MAX"', "7"])
def test_a_wrong_value_of_an_enum_is_answered_with_the_right_ones(net: Load, value: str) -> None:
    (unread,) = net(f'layer {{ name: "p" type: "Pooling" pooling_param {{ pool: {value} }} }}').layers[0].unread
    assert f"the value {value} of `pooling_param.pool`; it can be MAX, AVE, STOCHASTIC" in unread.what


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('name: "only"', "the file has no layers"),
        ('net: "train.prototxt" base_lr: 0.1', "this is a solver"),
        ('layer { name: "a" type: "ReLU" } layers { name: "b" type: RELU }', "mixes `layer` and `layers`"),
        ('layer { name: "a" }', "the layer has no type"),
        ('layer { name: "a" type: ReLU }', "`type` should be a string"),
        ("layer: 3", "`layer` should be a block"),
        ('input: "a" input_dim: 1 input_dim: 2\nlayer { type: "ReLU" }', "each input needs one `input_shape`"),
        ('input: "a" input: "b" input_shape { dim: 1 }\nlayer { type: "ReLU" }', "the net has 2 `input` fields"),
    ],
)
def test_what_is_no_net(net: Load, text: str, what: str) -> None:
    with pytest.raises(InputError) as caught:
        net(text)
    assert what in str(caught.value)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('layers { name: "a" type: SCALE }', "SCALE"),
        ('layers { name: "a" type: 99 }', "99"),
        ('layers { layer { name: "a" type: "padding" } }', "padding"),
    ],
)
def test_an_unknown_type_of_an_old_format_stays_as_it_is_written(net: Load, text: str, kind: str) -> None:
    assert net(text).layers[0].type == kind


# --------------------------------------------------------------------------------------------------- phase rules

RULED = """
layer { name: "always" type: "ReLU" }
layer { name: "train" type: "ReLU" include { phase: TRAIN } }
layer { name: "test" type: "ReLU" include { phase: TEST } }
layer { name: "not_test" type: "ReLU" exclude { phase: TEST } }
layer { name: "deep" type: "ReLU" include { min_level: 2 max_level: 3 } }
layer { name: "deploy" type: "ReLU" include { stage: "deploy" stage: "gpu" } }
layer { name: "no_gpu" type: "ReLU" include { not_stage: "gpu" } }
layer { name: "either" type: "ReLU" include { phase: TRAIN } include { stage: "deploy" } }
layer { name: "neither" type: "ReLU" exclude { phase: TRAIN } exclude { stage: "deploy" } }
"""


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "always test no_gpu neither"),
        ({"phase": "TRAIN"}, "always train not_test no_gpu either"),
        ({"level": 2}, "always test deep no_gpu neither"),
        ({"level": 4}, "always test no_gpu neither"),
        ({"stages": ["deploy"]}, "always test no_gpu either"),
        ({"stages": ["deploy", "gpu"]}, "always test deploy either"),
    ],
)
def test_rules_choose_the_layers(net: Load, options: dict[str, Any], expected: str) -> None:
    loaded = net(RULED, **options)
    assert names(loaded.layers) == expected.split()
    assert len(loaded.layers) + len(loaded.inactive) == 9


def test_of_the_texts_own_state_the_stages_count(net: Load) -> None:
    loaded = net('state { phase: TRAIN level: 2 stage: "deploy" }' + RULED, stages=["gpu"])
    assert names(loaded.layers) == ["always", "test", "deploy", "either"]


def test_layers_take_the_phase_of_the_net_unless_they_have_one(net: Load) -> None:
    layers = net('layer { type: "ReLU" } layer { type: "ReLU" phase: TRAIN }').layers
    assert [layer.param.phase for layer in layers] == [pb.TEST, pb.TRAIN]


def test_a_layer_knows_its_twins_of_other_phases(net: Load) -> None:
    loaded = net(
        """layer { name: "bn" type: "BatchNorm" include { phase: TRAIN } }
        layer { name: "bn" type: "BatchNorm" include { phase: TEST } }
        layer { name: "loss" type: "SoftmaxWithLoss" include { phase: TRAIN } }""",
        [("bn", [1, 2, 3])],
    )
    assert names(loaded.inactive) == ["bn", "loss"]
    assert loaded.twins(loaded.layers[0]) == [loaded.inactive[0]]
    assert values(loaded.layers[0]) == [1, 2, 3]
    assert loaded.inactive[0].blobs == []


# ------------------------------------------------------------------------------------------------------- inputs


def test_input_fields_become_an_input_layer(net: Load) -> None:
    text = 'input: "a" input: "b" {} layer {{ name: "r" type: "ReLU" bottom: "a" top: "r" }}'
    dims = net(text.format("input_dim: [1, 2, 3, 4] input_dim: 5 input_dim: 6 input_dim: 7 input_dim: 8"))
    shapes = net(text.format("input_shape { dim: 1 dim: 2 dim: 3 dim: 4 } input_shape { dim: [5, 6, 7, 8] }"))
    for loaded in (dims, shapes):
        layer = loaded.layers[0]
        assert (layer.name, layer.type, layer.tops, layer.block) == ("input", "Input", ["a", "b"], None)
        assert [list(shape.dim) for shape in layer.param.input_param.shape] == [[1, 2, 3, 4], [5, 6, 7, 8]]
        assert layer.where.endswith("net.prototxt:1:1, layer input")


def test_input_names_without_shapes_are_left_to_an_input_layer(net: Load) -> None:
    loaded = net('input: "data" layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 } } }')
    assert names(loaded.layers) == ["data"]


# -------------------------------------------------------------------------------------------------- old formats


def test_v1_layers_read_as_todays(net: Load) -> None:
    loaded = net(
        """layers {
          name: "c" type: CONVOLUTION bottom: "data" top: "c"
          blobs_lr: 1 blobs_lr: 2 weight_decay: 3 param: "w" param: ""
          convolution_param { num_output: 2 } include { phase: TEST } vendor: 1
        }
        layers { name: "b" type: BN } layers { name: "x" type: RELU include { phase: TRAIN } }""",
        [("c", [1, 2])],
    )
    layer = loaded.layers[0]
    assert (loaded.version, layer.type, layer.param.convolution_param.num_output) == (1, "Convolution", 2)
    assert layer.shared == ["w", None]
    assert [item.path for item in layer.unread] == ["vendor"]
    assert values(layer) == [1, 2]
    assert [other.type for other in loaded.layers] == ["Convolution", "BN"]
    assert names(loaded.inactive) == ["x"]


def test_v0_layers_read_as_todays(net: Load) -> None:
    loaded = net(
        """layers { layer { name: "c" type: "conv" num_output: 4 kernelsize: 3 stride: 2 pad: 1
                            group: 2 biasterm: false blobs_lr: 1 meanfile: "m"
                            weight_filler { type: "gaussian" std: 0.5 } } bottom: "d" top: "c" }
        layers { layer { name: "p" type: "pool" pool: AVE kernelsize: 2 stride: 2 } bottom: "c" top: "p" }
        layers { layer { name: "n" type: "lrn" local_size: 3 alpha: 0.5 k: 2 } bottom: "p" top: "n" }
        layers { layer { name: "f" type: "innerproduct" num_output: 5 group: 3 } bottom: "n" top: "f" }""",
        [("c", [1]), ("f", [2, 3])],
    )
    conv, pool, lrn, fc = loaded.layers
    assert loaded.version == 0
    assert [layer.type for layer in loaded.layers] == ["Convolution", "Pooling", "LRN", "InnerProduct"]
    param = conv.param.convolution_param
    assert (param.num_output, list(param.kernel_size), list(param.stride), list(param.pad)) == (4, [3], [2], [1])
    assert (param.group, param.bias_term, len(conv.param.param), conv.unread) == (2, False, 1, [])
    assert (pool.param.pooling_param.pool, pool.param.pooling_param.kernel_size) == (pb.PoolingParameter.AVE, 2)
    assert (lrn.param.lrn_param.local_size, lrn.param.lrn_param.alpha, lrn.param.lrn_param.k) == (3, 0.5, 2)
    assert [item.path for item in fc.unread] == ["group"]
    assert (values(conv), values(fc), conv.bottoms) == ([1], [2, 3], ["d"])


# ------------------------------------------------------------------------------------------------------ weights


def test_weights_are_matched_by_name_alone(net: Load) -> None:
    loaded = net(conv("a") + conv("b") + conv("c"), [("extra", [9]), ("c", [3]), ("a", [1, 2])])
    assert [values(layer) for layer in loaded.layers] == [[1, 2], [], [3]]
    assert [layer.weight_index for layer in loaded.layers] == [2, None, 1]


def test_the_last_of_two_stored_layers_of_a_name_wins(net: Load) -> None:
    loaded = net(conv("a"), [("a", [1, 2]), ("a", [3])])
    assert values(loaded.layers[0]) == [3]
    assert loaded.layers[0].weight_index == 1


def test_only_the_first_of_two_layers_of_a_name_gets_weights(net: Load) -> None:
    loaded = net(conv("a") + conv("a"), [("a", [1])])
    assert [values(layer) for layer in loaded.layers] == [[1], []]
    assert [layer.weight_index for layer in loaded.layers] == [0, None]


@pytest.mark.parametrize(
    ("stored", "first", "second"),
    [
        ([("a", [1, 2]), ("b", [3, 4])], [3, 2], [3, 4]),
        ([("b", [3, 4]), ("a", [1, 2])], [1, 2], [1, 4]),
        ([("a", [1, 2])], [1, 2], [1]),
        ([("b", [3, 4])], [3], [3, 4]),
    ],
)
def test_a_shared_blob_is_whatever_was_stored_last(
    net: Load, stored: list[tuple[str, list[float]]], first: list[float], second: list[float]
) -> None:
    loaded = net(conv("a", "w") + conv("b", "w"), stored)
    assert [values(layer) for layer in loaded.layers] == [first, second]


def test_batch_norms_share_all_their_blobs(net: Load) -> None:
    loaded = net(conv("a", "m", "v", "f") + conv("b", "m", "v", "f"), [("a", [1, 2, 3])])
    one, other = loaded.layers
    assert one.blobs == other.blobs
    assert values(other) == [1, 2, 3]
    assert (one.weight_index, other.weight_index) == (0, None)


def test_a_net_without_weights(net: Load) -> None:
    loaded = net(conv("a"))
    assert loaded.weights is None
    assert loaded.layers[0].blobs == []


def test_names_that_are_not_utf8_match(tmp_path: Path) -> None:
    text = b'layer { name: "c\xff" type: "Convolution" bottom: "\xe9" top: "t" }'
    (tmp_path / "net.prototxt").write_bytes(text)
    stored = pb.LayerParameter(name="cX", blobs=[pb.BlobProto(data=[5])])
    data = pb.NetParameter(layer=[stored]).SerializeToString().replace(b"cX", b"c\xff")
    (tmp_path / "net.caffemodel").write_bytes(data)
    layer = load(tmp_path / "net.prototxt", tmp_path / "net.caffemodel").layers[0]
    assert layer.name.encode("utf-8", "surrogateescape") == b"c\xff"
    assert layer.bottoms == ["\udce9"]
    assert layer.blobs[0].array() == 5


# ------------------------------------------------------------------------------------------------------- corpus


@pytest.mark.skipif(not SHARED.is_dir(), reason="the corpus of public nets ../shared is not there")
def test_public_nets_and_golden_cases_load() -> None:
    texts = [*SHARED.glob("golden/*/*/net.prototxt"), *SHARED.glob("models/caffe/*/*.prototxt")]
    assert texts
    for text in texts:
        weights = next(text.parent.glob("*.caffemodel"))
        try:
            loaded = load(text, weights)
        except InputError:  # with a value of a wrong type, as protobuf says too
            with pytest.raises(text_format.ParseError):
                text_format.Parse(text.read_bytes(), pb.NetParameter(), allow_unknown_field=True)
            continue
        for layer in loaded.layers:
            wants = layer.type in ("Convolution", "Deconvolution", "BatchNorm", "InnerProduct", "PReLU")
            assert bool(layer.blobs) or not wants or layer.name == "unloaded", layer.where
    for text in SHARED.glob("prototxt/*.prototxt"):
        for phase in ("TRAIN", "TEST"):
            assert load(text, None, phase=phase).layers
