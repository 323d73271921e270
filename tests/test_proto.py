"""The committed caffe_pb2.py is what proto/caffe.proto says, and can live beside another Caffe's."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from google.protobuf.descriptor import FileDescriptor

from bnfold.caffe import caffe_pb2 as pb

ROOT = Path(__file__).parents[1]
GENERATED = ROOT / "bnfold" / "caffe" / "caffe_pb2.py"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the command of proto/README.md makes, by whichever compiler is here."""
    if importlib.util.find_spec("grpc_tools") is None:
        pytest.skip("grpcio-tools is not installed")
    out = tmp_path_factory.mktemp("protoc")
    command = [sys.executable, "-m", "grpc_tools.protoc", "-Ibnfold/caffe=proto", f"--python_out={out}"]
    command += [f"--pyi_out={out}", f"--descriptor_set_out={out}/set", "bnfold/caffe/caffe.proto"]
    subprocess.run(command, cwd=ROOT, check=True)
    return out


def test_the_descriptor_is_that_of_the_proto_file(compiled: Path) -> None:
    found = descriptor_pb2.FileDescriptorSet.FromString((compiled / "set").read_bytes()).file[0]
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(found.SerializeToString())
    assert text(pb.DESCRIPTOR) == text(pool.FindFileByName(found.name))


def text(file: FileDescriptor) -> str:
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    return "\n".join(line for line in str(proto).splitlines() if "json_name" not in line)  # left out of generated code


def test_the_same_compiler_gives_the_same_files(compiled: Path) -> None:
    made = compiled / "bnfold" / "caffe"
    if version(made / GENERATED.name) != version(GENERATED):
        pytest.skip("grpcio-tools is not of the version in proto/README.md")
    for path in (GENERATED, GENERATED.with_suffix(".pyi")):
        assert (made / path.name).read_text() == path.read_text()


def version(generated: Path) -> str:
    return next(line for line in generated.read_text().splitlines() if line.startswith("# Protobuf Python Version"))


def test_the_generated_code_asks_for_no_newer_runtime() -> None:
    text = GENERATED.read_text()
    assert "runtime_version" not in text, "made by a protoc whose output refuses older runtimes"


def test_a_net_of_another_caffe_can_be_loaded_beside() -> None:
    other = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe")
    other.message_type.add(name="NetParameter")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(pb.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(other.SerializeToString())
    assert pool.FindMessageTypeByName("caffe.NetParameter") is not pool.FindMessageTypeByName(
        "bnfold.caffe.NetParameter"
    )
    assert pb.DESCRIPTOR.name == "bnfold/caffe/caffe.proto"


DEFAULTS = """
convolution: bias_term true, group 1, axis 1, pad_h 0, pad_w 0
pooling: pool MAX, pad 0, stride 1, global_pooling false, round_mode CEIL, ceil_mode true
inner_product: bias_term true, axis 1, transpose false
batch_norm: eps 1e-05, relu false, add_eps_before_sqrt true
scale: axis 1, num_axes 1, bias_term false
bias: axis 1, num_axes 1
power: power 1, scale 1, shift 0
exp: base -1, scale 1, shift 0
log: base -1, scale 1, shift 0
elu: alpha 1
relu: negative_slope 0
prelu: channel_shared false
swish: beta 1
dropout: dropout_ratio 0.5
eltwise: operation SUM
concat: axis 1, concat_dim 1
slice: axis 1, slice_dim 1
flatten: axis 1, end_axis -1
reshape: axis 0, num_axes -1
crop: axis 2
softmax: axis 1
argmax: out_max_val false, top_k 1
lrn: local_size 5, alpha 1, beta 0.75, k 1, norm_region ACROSS_CHANNELS
mvn: normalize_variance true, across_channels false, eps 1e-09
reduction: operation SUM, axis 0, coeff 1
tile: axis 1
embed: bias_term true
bn: eps 1e-05, bn_mode LEARN, var_eps 1e-10, moving_average true
norm: across_spatial true, channel_shared true, eps 1e-10
prior_box: flip true, clip false, offset 0.5
detection_output: share_location true, background_label_id 0, code_type CORNER, keep_top_k -1
shuffle_channel: group 1
interp: height 0, width 0, zoom_factor 1, shrink_factor 1, pad_beg 0, pad_end 0
reorg: reverse false
roi_pooling: pooled_h 0, pooled_w 0, spatial_scale 1
"""


@pytest.mark.parametrize("line", DEFAULTS.strip().splitlines())
def test_the_defaults_are_caffes(line: str) -> None:
    name, rest = line.split(": ")
    param = getattr(pb.LayerParameter(), f"{name}_param")
    for default in rest.split(", "):
        explicit = text_format.Parse(default.replace(" ", ": "), type(param)())
        ((field, value),) = explicit.ListFields()
        assert getattr(param, field.name) == pytest.approx(value), field.name
