"""Networks as torch exports them, with statistics of their own data, folded: what is left, and what they compute."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import bnfold

torch: Any = pytest.importorskip("torch", reason="torch is not installed")
nn = torch.nn
torch.set_num_threads(1)  # the networks are small

Exporter = Callable[[Any, Path], None]

TOLERANCE = 1e-5
"""Relative to the largest element of the output."""

WARNINGS = [
    (DeprecationWarning, "You are using the legacy TorchScript-based ONNX export"),
    (DeprecationWarning, "The feature will be removed"),
    (DeprecationWarning, "Setting `training` to something other than default is deprecated"),
    (UserWarning, "It is recommended that constant folding be turned off"),
    (FutureWarning, r"`isinstance\(treespec, LeafSpec\)` is deprecated"),
]


class Branches(torch.nn.Module):  # type: ignore[misc]  # without types, where torch is absent
    """Several modules on one input, joined."""

    def __init__(self, join: Callable[[list[Any]], Any], *branches: Any) -> None:
        super().__init__()
        self.join, self.branches = join, nn.ModuleList(branches)

    def forward(self, x: Any) -> Any:
        return self.join([branch(x) for branch in self.branches])


def add(*branches: Any) -> Branches:
    return Branches(sum, *branches)


def concat(*branches: Any) -> Branches:
    return Branches(lambda found: torch.cat(found, 1), *branches)


def conv_norm(ins: int, outs: int, kernel: int = 3, *then: Any, **how: Any) -> Any:
    return nn.Sequential(
        nn.Conv2d(ins, outs, kernel, padding=kernel // 2, bias=False, **how), nn.BatchNorm2d(outs), *then
    )


def resnet() -> Any:
    def bottleneck(ins: int, outs: int, stride: int = 1) -> Any:
        body = nn.Sequential(
            conv_norm(ins, outs // 2, 1, nn.ReLU(inplace=True)),
            conv_norm(outs // 2, outs // 2, 3, nn.ReLU(inplace=True), stride=stride, groups=2),
            conv_norm(outs // 2, outs, 1),
        )
        shortcut = nn.Identity() if ins == outs else conv_norm(ins, outs, 1, stride=stride)
        return nn.Sequential(add(body, shortcut), nn.ReLU(inplace=True))

    stem = nn.Sequential(conv_norm(3, 8, 7, nn.ReLU(inplace=True), stride=2), nn.MaxPool2d(3, 2, 1))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
    return nn.Sequential(stem, bottleneck(8, 16, 2), bottleneck(16, 16), head)


def densenet() -> Any:
    def norm_conv(ins: int, outs: int, kernel: int) -> Any:
        conv = nn.Conv2d(ins, outs, kernel, padding=kernel // 2, bias=False)
        return nn.Sequential(nn.BatchNorm2d(ins), nn.ReLU(), conv)

    def block(ins: int) -> Any:
        layers = [concat(nn.Identity(), nn.Sequential(norm_conv(i, 8, 1), norm_conv(8, 4, 3))) for i in (ins, ins + 4)]
        return nn.Sequential(*layers)

    stem = nn.Sequential(conv_norm(3, 8, 3, nn.ReLU()), nn.MaxPool2d(2))
    transition = nn.Sequential(norm_conv(16, 8, 1), nn.AvgPool2d(2))
    head = nn.Sequential(nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
    return nn.Sequential(stem, block(8), transition, block(8), head)


def mobilenet() -> Any:
    def inverted(ins: int, outs: int, stride: int = 1) -> Any:
        body = nn.Sequential(
            conv_norm(ins, 3 * ins, 1, nn.ReLU6()),
            conv_norm(3 * ins, 3 * ins, 3, nn.ReLU6(), stride=stride, groups=3 * ins),
            conv_norm(3 * ins, outs, 1),
        )
        return add(nn.Identity(), body) if stride == 1 and ins == outs else body

    stem = conv_norm(3, 8, 3, nn.Hardswish(), stride=2)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(12, 5))
    return nn.Sequential(stem, inverted(8, 12, 2), inverted(12, 12), head)


def unet() -> Any:
    def double(ins: int, outs: int) -> Any:
        return nn.Sequential(conv_norm(ins, outs, 3, nn.ReLU()), conv_norm(outs, outs, 3, nn.LeakyReLU(0.1)))

    def level(outs: int, inside: Any, up: Any) -> Any:
        """What the level below makes of the halved image, doubled, beside the image itself."""
        return nn.Sequential(concat(nn.Identity(), nn.Sequential(nn.MaxPool2d(2), inside, up)), double(2 * outs, outs))

    transposed = nn.Sequential(nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2), nn.BatchNorm2d(4), nn.ReLU())
    resized = nn.Sequential(nn.Conv2d(16, 8, 1), nn.Upsample(scale_factor=2, mode="nearest"), nn.BatchNorm2d(8))
    deepest = double(8, 16)
    inner = nn.Sequential(double(4, 8), level(8, deepest, resized))
    return nn.Sequential(double(3, 4), level(4, inner, transposed), nn.Conv2d(4, 2, 1), nn.Sigmoid())


def vgg() -> Any:
    convs = nn.Sequential(
        conv_norm(3, 8, 3, nn.ReLU()), nn.MaxPool2d(2), conv_norm(8, 12, 3, nn.ReLU()), nn.MaxPool2d(2, ceil_mode=True)
    )
    dense = nn.Sequential(nn.Linear(12 * 8 * 8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 5))
    return nn.Sequential(convs, nn.Flatten(), dense)


def norms(module: Any) -> list[Any]:
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]


@functools.cache
def trained(build: Callable[[], Any], positive: bool = False) -> Any:
    """The network with gammas of both signs (or positive ones), and the mean and variance that its own data have."""
    torch.manual_seed(7)
    network = build().train()
    for norm in norms(network):
        norm.momentum = None  # the plain mean of all batches
        nn.init.uniform_(norm.weight, 0.4, 1.6)
        nn.init.normal_(norm.bias, 0, 0.4)
        if not positive:
            norm.weight.data *= torch.where(torch.rand(norm.num_features) < 0.3, -1.0, 1.0)
    with torch.no_grad():
        for _ in range(4):
            network(image(8))
    return network.eval()


def image(batch: int) -> Any:
    return torch.randn(batch, 3, 32, 32)


# ---------------------------------------------------------------------------------------------------------- exporters


def preserving(network: Any, path: Path) -> None:
    """As it is: evaluated, but with its BatchNormalization nodes."""
    old_exporter(network, path, training=torch.onnx.TrainingMode.PRESERVE, dynamic_axes={"x": {0: "n"}})


def unoptimised(network: Any, path: Path) -> None:
    old_exporter(network, path, do_constant_folding=False, opset_version=13)


def overridable(network: Any, path: Path) -> None:
    """All parameters are inputs too."""
    how = {"training": torch.onnx.TrainingMode.PRESERVE, "keep_initializers_as_inputs": True}
    old_exporter(network, path, opset_version=11, **how)


def old_exporter(network: Any, path: Path, **how: Any) -> None:
    export(network, path, dynamo=False, **how)


def new_exporter(network: Any, path: Path) -> None:
    """Its optimiser folds itself what stands right behind a convolution."""
    pytest.importorskip("onnxscript", reason="torch's new exporter needs onnxscript, which is not installed")
    export(network, path, dynamo=True, verbose=False, external_data=False)


def export(network: Any, path: Path, **how: Any) -> None:
    with warnings.catch_warnings():
        for category, message in WARNINGS:
            warnings.filterwarnings("ignore", message, category)
        torch.onnx.export(network, (image(1),), path, input_names=["x"], output_names=["y"], **how)


# -------------------------------------------------------------------------------------------------------------- tests


def fold(network: Any, exporter: Exporter, folder: Path) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """As exported and as folded; seen to be right: valid, verified, equal to torch, unchanged by a second fold."""
    source, out, again = folder / "net.onnx", folder / "folded.onnx", folder / "again.onnx"
    exporter(network, source)
    options = bnfold.Options(freeze=exporter is overridable)
    result = bnfold.fold(source, out, options)
    bnfold.fold(out, again, dataclasses.replace(options, verify=False))
    assert again.read_bytes() == out.read_bytes()
    assert result.verification is not None
    assert result.verification.passed
    before, after = onnx.load(source), onnx.load(out)
    onnx.checker.check_model(before, full_check=True)
    onnx.checker.check_model(after, full_check=True)
    if exporter is not new_exporter:
        assert operators(before).count("BatchNormalization") == len(norms(network))
    equal(network, out)
    return before, after


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def equal(network: Any, path: Path) -> None:
    x = image(1)
    with torch.no_grad():
        wanted = network(x).numpy()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x.numpy()})
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max())


EXPORTERS = [preserving, unoptimised, overridable, new_exporter]


@pytest.mark.parametrize("exporter", EXPORTERS, ids=lambda exporter: exporter.__name__)
@pytest.mark.parametrize("build", [resnet, mobilenet, unet, vgg], ids=lambda build: build.__name__)
def test_no_batch_normalization_is_left(build: Callable[[], Any], exporter: Exporter, tmp_path: Path) -> None:
    before, after = (Counter(operators(model)) for model in fold(trained(build), exporter, tmp_path))
    assert "BatchNormalization" not in after
    assert after <= before, "another operator has come in its place"


@pytest.mark.parametrize("exporter", EXPORTERS, ids=lambda exporter: exporter.__name__)
def test_dense_connections_keep_what_stands_before_a_relu(exporter: Exporter, tmp_path: Path) -> None:
    """Six normalisations read what others read too, and a Relu behind each lets no negative factor pass."""
    after = fold(trained(densenet), exporter, tmp_path)[1]
    assert operators(after).count("BatchNormalization") == 6
    assert not {"Mul", "Add"} & set(operators(after))


def test_dense_connections_keep_additions_where_all_factors_are_positive(tmp_path: Path) -> None:
    """Then a Relu lets the multipliers pass into the convolutions behind it."""
    after = fold(trained(densenet, positive=True), preserving, tmp_path)[1]
    assert "BatchNormalization" not in operators(after)
    assert operators(after).count("Add") == 6
    assert "Mul" not in operators(after)


def test_parameters_that_callers_may_override_stay(tmp_path: Path) -> None:
    overridable(trained(vgg), tmp_path / "net.onnx")
    result = bnfold.fold(tmp_path / "net.onnx", tmp_path / "folded.onnx")
    assert (tmp_path / "folded.onnx").read_bytes() == (tmp_path / "net.onnx").read_bytes()
    assert len(result.kept_batch_norms) == 3
    hints = [stayed.reason.hint for _, plan in result.plans for stayed in plan.stayed]
    assert len(hints) == 3
    assert all("--freeze" in hint for hint in hints)


def test_a_model_in_memory(tmp_path: Path) -> None:
    preserving(trained(resnet), tmp_path / "net.onnx")
    bnfold.fold(tmp_path / "net.onnx", tmp_path / "folded.onnx", bnfold.Options(verify=False))
    folded = bnfold.fold(onnx.load(tmp_path / "net.onnx"))
    assert folded == onnx.load(tmp_path / "folded.onnx")
