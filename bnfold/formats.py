"""The tables of formats: FORMATS, what a file is, told by its content; MODELS, of which files a model is made.

Nothing here is imported before a file of the format is opened: to recognise one loads neither numpy nor onnx.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias

from . import content
from .content import Content
from .errors import InputError, UsageError
from .files import open_mapped
from .options import CAFFE_ONLY, ONNX_ONLY, Options, check_apply
from .protobuf import WireError

if TYPE_CHECKING:
    from .document import Document
    from .planner.records import Notice, Opaque
    from .protobuf import Rope

WHOLE = "was it copied or downloaded whole?"
Exported: TypeAlias = "tuple[Rope, tuple[Sequence[Opaque], Sequence[Notice]]]"


class Format(NamedTuple):
    """A kind of files. `hint`, of one that no model is made of: how to get an ONNX or Caffe model from it.

    `name` is the part of a model that the file is (`Model.parts`), or what it is in a sentence that begins "this is".
    """

    name: str
    recognises: Callable[[Content], bool]
    suffixes: tuple[str, ...] = ()
    hint: str = ""


class Model(NamedTuple):
    """A kind of models. `parts`: the names of its files' formats, in the order in which `open` takes them.

    `options`: those of other models, which mean nothing for this one, and why. `export` makes an ONNX model of it.
    """

    parts: tuple[str, ...]
    what: str
    options: tuple[Mapping[str, str], str]
    open: Callable[[Sequence[Path], Options], Document]
    export: Callable[..., Exported]


# ----------------------------------------------------------------------------------------------------- kinds of models


def _open_onnx(paths: Sequence[Path], options: Options) -> Document:
    from .onnx.document import OnnxDocument

    return OnnxDocument.open(paths[0], freeze=options.freeze, keep=options.keep)


def _export_onnx(paths: Sequence[Path], *_: Any, **__: Any) -> NoReturn:
    raise UsageError(f"{paths[0]} is an ONNX model already", hint="`export` takes the two files of a Caffe net")


def _open_caffe(paths: Sequence[Path], options: Options) -> Document:
    from .caffe.document import CaffeDocument

    return CaffeDocument.open(
        *paths, keep=options.keep, fold_quantized=options.fold_quantized, **_caffe_reading(options)
    )


def _export_caffe(paths: Sequence[Path], options: Options, **how: Any) -> Exported:
    from .caffe.export import onnx_model

    return onnx_model(*paths, **(_caffe_reading(options) | how))


def _caffe_reading(options: Options) -> dict[str, Any]:
    """How a Caffe net is read, as the reader of documents and that of exports take it."""
    state = {"phase": options.phase or "TEST", "stages": options.stages, "level": options.level or 0}
    return state | {"bn_blobs": options.bn_blobs, "inputs": dict(options.inputs)}


MODELS = (
    Model(
        ("onnx",), "one ONNX model", (CAFFE_ONLY, "is for Caffe nets, and {} is an ONNX model"),
        _open_onnx, _export_onnx,
    ),
    Model(
        ("prototxt", "caffemodel"), "the prototxt and the caffemodel of a Caffe net",
        (ONNX_ONLY, "is for ONNX models, and {} is a Caffe net"), _open_caffe, _export_caffe,
    ),
)  # fmt: skip
ONNX_SUFFIX = ".onnx"


# ------------------------------------------------------------------------------------------------------ kinds of files

_FETCH = "download the model's file itself: of a page on GitHub that is what its button `Raw` or `Download` gives"
_UNPACK = "unpack it, and give the ONNX model or the Caffe net's files inside"
_TORCH = "load it in PyTorch and write an ONNX model with torch.onnx.export"
_KERAS = "load it in Keras and write an ONNX model with tf2onnx, or with model.export(..., format='onnx') of Keras 3"
_TENSORFLOW = "convert it to an ONNX model: python -m tf2onnx.convert"
_FROM_SOURCE = "give the ONNX or Caffe model that it was made from"
_DATA = "it holds no network; give the ONNX model, or the Caffe net's prototxt and caffemodel"
_WEIGHTS = "the weights of the net are in its .caffemodel"
FORMATS: tuple[Format, ...] = (
    # What stands for a file, or around it.
    Format("a pointer of Git LFS, not the file itself", lambda c: c.starts(b"version https://git-lfs"),
           hint="run `git lfs pull` where it was cloned, or download the file itself"),
    Format("a web page (HTML), not the file itself",
           lambda c: c.begins(rb"(<(\?xml|!--)[^>]*>\s*)*<(?i:!doctype html|html)\b"),
           (".html",), _FETCH),
    Format("a gzip-compressed file", lambda c: c.starts(b"\x1f\x8b"), (".gz", ".tgz"),
           "unpack it first: gunzip, or tar -xzf"),
    Format("a bzip2-compressed file", lambda c: c.starts(*(b"BZh%d1AY&SY" % n for n in range(1, 10))), (".bz2",),
           "unpack it first: bunzip2, or tar -xjf"),
    Format("an xz-compressed file", lambda c: c.starts(b"\xfd7zXZ\0"), (".xz",), "unpack it first: unxz, or tar -xJf"),
    Format("a zstd-compressed file", lambda c: c.starts(b"\x28\xb5\x2f\xfd"), (".zst",), "unpack it first: unzstd"),
    Format("a 7z archive", lambda c: c.starts(b"7z\xbc\xaf\x27\x1c"), (".7z",), _UNPACK),
    Format("a RAR archive", lambda c: c.starts(b"Rar!\x1a\x07"), (".rar",), _UNPACK),
    Format("a tar archive", lambda c: c.head[257:265] in (b"ustar\x0000", b"ustar  \0"), (".tar",), _UNPACK),
    # zip archives
    Format("a TorchScript model of PyTorch", lambda c: b"/constants.pkl" in c.members, (".pt", ".ptl"),
           "load it with torch.jit.load, or take the model that it was made from, and use torch.onnx.export"),
    Format("a PyTorch checkpoint", lambda c: b"/data.pkl" in c.members, (".pt", ".pth"), _TORCH),
    Format("a program of PyTorch's torch.export", lambda c: b"/archive_format" in c.members, (".pt2",),
           "load it with torch.export.load and write an ONNX model with torch.onnx.export"),
    Format("a Keras model", lambda c: b"model.weights.h5" in c.members, (".keras",), _KERAS),
    Format("an archive of NumPy arrays", lambda c: b".npy" in c.members, (".npz",), _DATA),
    Format("a zip archive", lambda c: bool(c.members), (".zip",),
           f"{_UNPACK}; a PyTorch checkpoint is exported with torch.onnx.export"),
    # HDF5
    Format("a Keras model or its weights (HDF5)",
           lambda c: b"keras_version\0" in c.hdf5_names, (".h5", ".hdf5"), _KERAS),
    Format("a solverstate (HDF5), the state of Caffe's training",
           lambda c: b"learned_net\0" in c.hdf5_names and b"current_step\0" in c.hdf5_names,
           (".solverstate.h5",), _WEIGHTS),
    Format("caffemodel", lambda c: bool(c.hdf5_names), (".caffemodel.h5",)),
    # other signatures
    Format("a PyTorch checkpoint (before PyTorch 1.6)", lambda c: c.starts(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."),
           (".pth", ".pt"), _TORCH),
    Format("a pickled Python object",
           lambda c: c.head[:1] == b"\x80" and c.head[1:2] in b"\2\3\4\5" and c.data[-1] == 46,
           (".pkl",), "load it in the program that wrote it, and write an ONNX model there"),
    Format("a TensorFlow Lite model", lambda c: c.is_flatbuffer(b"TFL3"), (".tflite",),
           "convert it to an ONNX model: python -m tf2onnx.convert --tflite"),
    Format("a model in onnxruntime's own format (ORT)", lambda c: c.is_flatbuffer(b"ORTM"), (".ort",), _FROM_SOURCE),
    Format("a TensorRT engine", lambda c: c.starts(b"ftrt", b"ptrt"), (".engine", ".plan", ".trt"), _FROM_SOURCE),
    Format("a NumPy array", lambda c: c.starts(b"\x93NUMPY"), (".npy",), _DATA),
    Format("a file of weights without a network (safetensors)", content.is_safetensors, (".safetensors",),
           "load them into their model and write an ONNX model, in PyTorch with torch.onnx.export"),
    Format("a database (LMDB), such as the images that Caffe trains on", lambda c: c.head[16:20] == b"\xde\xc0\xef\xbe",
           (".mdb",), _DATA),
    Format("a picture", lambda c: c.starts(b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"), (".png", ".jpg"),
           "give the model itself: an ONNX model, or the Caffe net's prototxt and caffemodel"),
    Format("a language model (GGUF)", lambda c: c.starts(b"GGUF"), (".gguf",), _TORCH),
    Format("a file of MXNet's weights", lambda c: c.starts(b"\x12\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0"), (".params",),
           "convert the model in MXNet: mxnet.onnx.export_model"),
    Format("a file of Darknet's weights", lambda c: c.starts(b"\0\0\0\0\1\0\0\0", b"\0\0\0\0\2\0\0\0"), (".weights",),
           "convert it to an ONNX model with a converter for Darknet (YOLO)"),
    # texts
    Format("a text in UTF-16", lambda c: c.is_utf16, hint="save it in the encoding UTF-8: iconv -f UTF-16 -t UTF-8"),
    Format("an OpenVINO network (IR)", lambda c: c.begins(rb"(<\?xml[^>]*>\s*)?<net\s[^>]*version="), (".xml",),
           _FROM_SOURCE),
    Format("an XML text, perhaps a server's answer, not the file itself", lambda c: c.begins(rb"<(\?xml|[A-Za-z]+>)"),
           (".xml",), _FETCH),
    Format("a JSON text, such as a server's answer or a model of TensorFlow.js or MXNet",
           lambda c: c.begins(rb'(\{\s*("|\})|\[\s*[{"\[])'), (".json",),
           "download the model's file itself, or convert the model to ONNX with the tools of its program"),
    Format("a Darknet network", lambda c: c.begins(rb"(#.*\n\s*)*\[net(work)?\]\s+(#.*\n\s*)*\w+\s*="), (".cfg",),
           "convert it to an ONNX model with a converter for Darknet (YOLO)"),
    Format("an ncnn network", lambda c: c.begins(rb"7767517\s"), (".param",), _FROM_SOURCE),
    Format("an ONNX model as text", lambda c: c.begins(rb"<\s*ir_version") or c.says(rb"ir_version\s*:"),
           (".textproto",), "save it as a binary file: onnx.save(onnx.load(FILE, format='textproto'), 'model.onnx')"),
    Format("a TensorFlow graph as text", lambda c: c.begins(rb"node\s*\{") and c.says(rb"op\s*:"), (".pbtxt",),
           _TENSORFLOW),
    Format("a solver, which tells how a net is trained", content.is_solver, (".prototxt",),
           "give the prototxt of the net itself: deploy.prototxt, or the train_val.prototxt that `net` names"),
    Format("prototxt", lambda c: c.is_text, (".prototxt",)),
    # protobuf
    Format("a solverstate, the state of Caffe's training", content.is_solverstate, (".solverstate",), _WEIGHTS),
    Format("a mean file (BlobProto), the mean image that is taken off a net's input",
           content.is_mean, (".binaryproto",), _WEIGHTS),
    Format("a TensorFlow graph (GraphDef)", content.is_graph_def, (".pb",), f"{_TENSORFLOW} --graphdef"),
    Format("a TensorFlow SavedModel", content.is_saved_model, (".pb",), f"{_TENSORFLOW} --saved-model with its folder"),
    Format("a TensorFlow graph with its training (.meta)", content.is_meta_graph, (".meta",),
           f"{_TENSORFLOW} --checkpoint"),
    Format("a Core ML model", content.is_core_ml, (".mlmodel",), _FROM_SOURCE),
    Format("caffemodel", content.is_caffemodel, (".caffemodel",)),
    Format("onnx", lambda c: bool(c.kinds or c.fields()), (ONNX_SUFFIX,)),
)  # fmt: skip
"""From the top down: the first that recognises a file is what it is. The last takes any protobuf message."""


# ------------------------------------------------------------------------------------------------------------- opening


def open_document(paths: Sequence[Path], options: Options) -> Document:
    """The model in these files, in any order, told by their content. Raises InputError, UsageError."""
    model, ordered = _model(paths)
    words, why = model.options
    check_apply(options, words, why.format(ordered[0]))
    return model.open(ordered, options)


def export_model(paths: Sequence[Path], options: Options, **how: Any) -> Exported:
    """The model in these files, in any order, as an ONNX model to write, and what is to be known of that.

    `how`: opset and so on, what the export of its kind takes. Raises InputError, UsageError.
    """
    model, ordered = _model(paths)
    return model.export(ordered, options, **how)


def _model(paths: Sequence[Path]) -> tuple[Model, list[Path]]:
    """The kind of the model in `paths`, and these in its order. Raises InputError for what is no part of a model."""
    names = [_recognised(path).name for path in paths]
    for model in MODELS:
        if sorted(model.parts) == sorted(names):
            return model, [paths[names.index(part)] for part in model.parts]
    told = " and ".join(f"{path} ({name})" for path, name in zip(paths, names, strict=True))
    hint = f"give {', or '.join(model.what for model in MODELS)}"
    missing = [part for model in MODELS for part in model.parts if sorted([*names, part]) == sorted(model.parts)]
    what = f"the {missing[0]} is missing" if names and missing else "this is not one model"
    raise UsageError(f"{what}: {told}", hint=hint)


def _recognised(path: Path) -> Format:
    """The format of a file, one that is a part of a model. Raises InputError with the hint of any other."""
    with open_mapped(path) as data:
        held = Content(data)
        try:
            found = next(row for row in FORMATS if row.recognises(held))
        except WireError as error:
            hint = f"it is neither text nor a whole ONNX or Caffe model; {WHOLE}"
            raise InputError(f"cannot be read: {error}", where=str(path), hint=hint) from None
    if found.hint:
        raise InputError(f"this is {found.name}", where=str(path), hint=found.hint)
    return found
