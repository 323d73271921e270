"""Random Caffe nets, folded from files to files: what Caffe computes over its shared memory stays the same.

`BNFOLD_NETS=5000 pytest tests/caffe/test_random_nets.py` tries more than the usual number of nets.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np

from bnfold.caffe.lowering import lower
from bnfold.caffe.net import load

from .build import Array, batch_norm, fold, he, layer, noise, save, scale
from .simulate import simulate

NETS = int(os.environ.get("BNFOLD_NETS", "400"))
TOLERANCE = 2e-5
"""Relative to the largest element: weights and the result are rounded to float32, and a chain of affines amplifies."""

Shape = tuple[int, ...]


@dataclass
class Maker:
    """A net that grows layer by layer, over blobs by name with their shapes; `read` are those with a reader."""

    rng: Random
    text: list[str] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    weights: dict[str, list[Array]] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)

    def blob(self) -> str:
        """Mostly the newest."""
        names = list(self.shapes)
        return names[-1] if self.rng.random() < 0.6 else self.rng.choice(names)

    def add(self, kind: str, bottoms: list[str], shapes: list[Shape], body: str = "", place: bool = False) -> str:
        """A layer with a top for each of `shapes`; `place` has the first top take the bottom's name, if Caffe can."""
        name = f"{kind.lower()}{len(self.text)}"
        place = place and bottoms[0] not in self.read and self.rng.random() < 0.5
        tops = [bottoms[0]] if place else [f"{name}_{i}" for i in range(len(shapes))]
        self.text.append(layer(kind, name, " ".join(bottoms), " ".join(tops), body))
        self.read.update(bottoms)
        for top, shape in zip(tops, shapes, strict=True):
            self.shapes.pop(top, None)
            self.shapes[top] = shape
            self.read.discard(top)
        return name


def convolution(m: Maker, x: str) -> None:
    n, c, h, w = m.shapes[x]
    outs, bias, (pad, sides) = m.rng.choice([2, 4]), m.rng.random() < 0.5, padding(m)
    kernel = m.rng.choice([1, 2]) if min(h, w) > 1 else 1
    reach = m.rng.choice([1, 1, 2]) * (kernel - 1) if min(h, w) > 2 else kernel - 1
    group = m.rng.choice([1, 1, 2]) if c % 2 == 0 else 1
    body = f"num_output: {outs} kernel_size: {kernel} {pad} group: {group} bias_term: {str(bias).lower()}"
    body += f" {m.rng.choice(['hole', 'dilation', 'filter_stride'])}: {reach // max(kernel - 1, 1) or 1}"
    space = h + sides[2] + sides[3] - reach, w + sides[0] + sides[1] - reach
    name = m.add("Convolution", [x], [(n, outs, *space)], f"convolution_param {{ {body} }}")
    m.weights[name] = [he(outs, c // group, kernel, kernel, seed=len(m.text)), *[he(outs, 2)[:, 0]] * bias]


def padding(m: Maker) -> tuple[str, tuple[int, int, int, int]]:
    """In BVLC's words, or by side: left, right, top, bottom."""
    if m.rng.random() < 0.7:
        pad = m.rng.choice([0, 0, 1])
        return f"pad: {pad}", (pad, pad, pad, pad)
    sides = (m.rng.randrange(2), m.rng.randrange(2), m.rng.randrange(2), m.rng.randrange(2))
    return " ".join(f"pad_{side}: {pad}" for side, pad in zip("lrtb", sides, strict=True)), sides


def inner_product(m: Maker, x: str) -> None:
    n, *rest = m.shapes[x]
    unit = m.rng.random() < 0.2
    word = "normalize: true" if unit else ""
    name = m.add("InnerProduct", [x], [(n, 3)], f"inner_product_param {{ num_output: 3 {word} }}")
    m.weights[name] = [(1 + 4 * unit) * he(3, int(np.prod(rest)), seed=len(m.text)), he(3, 2)[:, 0]]


def affine(m: Maker, x: str) -> None:
    shape = m.shapes[x]
    kind = m.rng.choice(["BatchNorm", "BatchNorm", "Scale", "Scale", "Bias", "Power"])
    five = m.rng.choice(["", "", "scale_filler { }", "filler { }"])  # NVIDIA's, and Intel's
    five = five if shape[1] > 1 else ""  # five blobs of one element each have no order
    bias = m.rng.random() < 0.7
    bodies = {
        "BatchNorm": f"batch_norm_param {{ {five} }}",
        "Scale": f"scale_param {{ bias_term: {str(bias).lower()} }}",
        "Power": f"power_param {{ scale: {m.rng.choice([-1.5, 0.5, 1])} shift: {m.rng.choice([0, 0.25])} }}",
    }
    name = m.add(kind, [x], [shape], bodies.get(kind, ""), place=True)
    gamma, beta = scale(shape[1], len(m.text))
    moments = batch_norm(shape[1], len(m.text), factor=1 if "scale" in five else 999.98)
    made = {"BatchNorm": [*moments, *[gamma, beta] * bool(five)], "Scale": [gamma, beta][: 1 + bias], "Bias": [beta]}
    m.weights |= {name: made[kind]} if kind in made else {}


def neuron(m: Maker, x: str) -> None:
    bodies = {
        "ReLU": m.rng.choice(["", "", "relu_param { relu6: true }"]),
        "Dropout": m.rng.choice(["", "dropout_param { scale_train: false dropout_ratio: 0.25 }"]),
    }
    kind = m.rng.choice(["ReLU", "ReLU", "TanH", "Dropout", "Mystery"])
    m.add(kind, [x], [m.shapes[x]], bodies.get(kind, ""), place=True)


def pooling(m: Maker, x: str) -> None:
    n, c, h, w = m.shapes[x]
    pad, (left, right, top, bottom) = padding(m)
    if h > 1 and w > 1:
        how = f"pooling_param {{ pool: {m.rng.choice(['MAX', 'AVE', 'AVE_EXC_PAD'])} kernel_size: 2 stride: 1 {pad} }}"
        m.add("Pooling", [x], [(n, c, h + top + bottom - 1, w + left + right - 1)], how)


def split(m: Maker, x: str) -> None:
    m.add("Split", [x], [m.shapes[x]] * 2)


def flatten(m: Maker, x: str) -> None:
    n, *rest = m.shapes[x]
    m.add("Flatten", [x], [(n, int(np.prod(rest)))])


def reshape(m: Maker, x: str) -> None:
    n, c, h, w = m.shapes[x]
    shape = m.rng.choice([(n, c * h, 1, w), (n, c, 1, h * w), (n, c, h, w)])
    dims = " ".join(f"dim: {extent}" for extent in (0, *shape[1:]))
    m.add("Reshape", [x], [shape], f"reshape_param {{ shape {{ {dims} }} }}")


def eltwise(m: Maker, x: str) -> None:
    others = [name for name, shape in m.shapes.items() if shape == m.shapes[x] and name != x]
    if others:
        body = m.rng.choice(["", "operation: SUM coeff: 1 coeff: -0.5", "operation: PROD", "operation: MAX"])
        bottoms = [x, *m.rng.choices(others, k=1 if "SUM" in body else m.rng.choice([1, 2]))]
        m.add("Eltwise", bottoms, [m.shapes[x]], f"eltwise_param {{ {body} }}", place="PROD" in body)


def concat(m: Maker, x: str) -> None:
    n, c, *space = m.shapes[x]
    others = [name for name, shape in m.shapes.items() if shape[0] == n and shape[2:] == (*space,) and name != x]
    others = m.rng.sample(others, min(len(others), m.rng.choice([0, 1, 1])))
    m.add("Concat", [x, *others], [(n, c + sum(m.shapes[name][1] for name in others), *space)])


def slice_(m: Maker, x: str) -> None:
    n, c, *space = m.shapes[x]
    if c > 1:
        at = m.rng.randrange(1, c)
        body = f"slice_param {{ axis: 1 slice_point: {at} }}"
        m.add("Slice", [x], [(n, at, *space), (n, c - at, *space)], body)


def silence(m: Maker, x: str) -> None:
    m.add("Silence", m.rng.sample(list(m.shapes), min(len(m.shapes), m.rng.choice([1, 1, 2]))), [])


def twins(m: Maker, x: str) -> None:
    """Two chains of one content, whose layers stand among each other's."""
    made = []
    for _ in "ab":
        name = m.add("Power", [x], [m.shapes[x]], "power_param { scale: 2 }")
        made.append(f"{name}_0")
    for top in m.rng.sample(made, 2):
        m.add("Power", [top], [m.shapes[x]], "power_param { shift: 0.5 }")
        m.add("TanH", [f"power{len(m.text) - 1}_0"], [m.shapes[x]])


def overwritten(m: Maker, x: str) -> None:
    """Several names of one memory, of which one is overwritten perhaps, and others are read before and after that."""
    m.rng.choice([split, split, flatten, *([reshape] if len(m.shapes[x]) == 4 else [])])(m, x)
    names = [x, *list(m.shapes)[-2 if '"Split"' in m.text[-1] else -1 :]]
    for at in m.rng.choices(names, k=m.rng.choice([2, 3, 4])):
        makers = [affine, affine, neuron, neuron, inner_product, *([convolution] if len(m.shapes[at]) == 4 else [])]
        m.rng.choice(makers)(m, at)


IMAGES: list[Callable[[Maker, str], None]] = [convolution, convolution, convolution, pooling, reshape]
ANY = [affine, affine, affine, affine, neuron, neuron, split, flatten, eltwise, concat, slice_, silence, inner_product]
ANY += [twins, overwritten]


def random_net(rng: Random) -> Maker:
    m = Maker(rng)
    m.text.append(layer("Input", "data", "", "data", "input_param { shape { dim: 2 dim: 4 dim: 4 dim: 4 } }"))
    m.shapes["data"] = (2, 4, 4, 4)
    for _ in range(rng.randrange(4, 14)):
        x = m.blob()
        rng.choice([*ANY, *(IMAGES * 2 if len(m.shapes[x]) == 4 else [])])(m, x)
    return m


def test_random_nets_compute_the_same(tmp_path: Path) -> None:
    outcomes: Counter[str] = Counter()
    feeds = {"data": noise("data", 2, 4, 4, 4)}
    for seed in range(NETS):
        made = random_net(Random(seed))
        files = save(tmp_path, "".join(made.text), made.weights)
        clobbered = lower(load(*files)).clobbered
        folded = fold(files)
        before, after = simulate(load(*files), feeds), simulate(folded.net, feeds)
        assert sorted(before) == sorted(after), seed
        for name, array in before.items():
            size = np.abs(array).max(initial=1e-30)
            assert np.abs(array - after[name]).max(initial=0) <= TOLERANCE * size, (seed, name)
        changed = folded.result.before != folded.result.after
        outcomes["clobbered, folded" if clobbered and changed else "folded" if changed else "same"] += 1
    assert outcomes["folded"] > NETS / 3, outcomes
    assert outcomes["clobbered, folded"] > NETS / 20, outcomes
