"""LSTM and RNN, unrolled over their steps as Caffe itself does it.

Bottoms are x (T, N, ...), the continuation flags (T, N), with static input (N, ...) behind, and with expose_hidden the
first hidden states, which without it are zero; Caffe then carries the last states over into the next forward pass, so
that the two agree where the first flags are 0 or on the first pass.
"""

from __future__ import annotations

import numpy as np

from ...ir.graph import Value
from ...ir.shapes.check import product
from .builder import Builder, Unknown

MOST_STEPS = 4096
"""Every step becomes a dozen nodes."""


class _Steps:
    """What both share: transformed inputs and flags, step by step, and the first hidden states."""

    def __init__(self, b: Builder, states: int, blobs: int, gates: int) -> None:
        p = b.param.recurrent_param
        hidden = states if p.expose_hidden else 0
        self.static = len(b.bottoms) - 2 - hidden
        if self.static not in (0, 1) or len(b.layer.tops) != 1 + hidden or not p.num_output:
            ends = f"{len(b.bottoms)} bottoms and {len(b.layer.tops)} tops"
            raise b.fail(f"type {b.layer.type} of {p.num_output} outputs has {ends}")
        b.want_blobs(blobs + self.static)
        self.b, self.size, self.exposed = b, p.num_output, bool(hidden)
        if len(b.dims(b.x)) < 2:
            raise b.fail(f"type {b.layer.type} needs steps and sequences and {b.x.name} has shape {b.x.shape}")
        self.count, self.batch = b.known(b.x)[:2]
        if not 1 <= self.count <= MOST_STEPS:
            raise Unknown(f"{self.count} steps cannot be unrolled")
        if b.bottoms[1].shape != (self.count, self.batch):
            raise b.fail(f"the flags have shape {b.bottoms[1].shape} and x has {b.x.shape}")
        self.inputs = self._split(self._transformed(gates * self.size))
        self.flags = self._split(b.reshape(b.bottoms[1], (self.count, self.batch, 1)))
        if hidden:
            self.first = b.bottoms[len(b.bottoms) - hidden :]
        else:
            self.first = [b.constant(np.zeros((1, self.batch, self.size), np.float32)) for _ in range(states)]

    def _transformed(self, width: int) -> Value:
        """W·x + bias for all steps at once, and what the static input adds to each."""
        b = self.b
        features = product(b.known(b.x)[2:]) or 0
        flat = b.node("Reshape", b.x, [self.count * self.batch, features])
        y = b.node("Gemm", flat, b.blob(0, (width, features)), b.blob(1, (width,)), transB=1)
        y = b.reshape(y, (self.count, self.batch, width))
        if not self.static:
            return y
        static = b.bottoms[2]
        features = product(b.known(static)[1:]) or 0
        added = b.node("Gemm", b.node("Flatten", static, axis=1), b.blob(2, (width, features)), transB=1)
        return b.node("Add", y, b.reshape(added, (1, self.batch, width)))

    def _split(self, value: Value) -> list[Value]:
        if self.count == 1:
            return [value]
        return self.b.nodes_of("Split", [value, [1] * self.count], self.count, axis=0)

    def recur(self, step: int, hidden: Value, blob: int, gates: int) -> Value:
        """The step's transformed input plus W·(flag·h)."""
        b, width = self.b, gates * self.size
        held = b.node("Mul", hidden, self.flags[step])
        product_ = self.apply(held, blob, width)
        return b.node("Add", product_, self.inputs[step])

    def apply(self, value: Value, blob: int, width: int, bias: int | None = None) -> Value:
        """W·value for a value (1, N, size)."""
        b = self.b
        flat = b.node("Reshape", value, [self.batch, self.size])
        shift = None if bias is None else b.blob(bias, (width,))
        y = b.node("Gemm", flat, b.blob(blob, (width, self.size)), shift, transB=1)
        return b.node("Reshape", y, [1, self.batch, width])

    def tops(self, outputs: list[Value], *last: Value) -> list[Value]:
        b = self.b
        whole = b.node("Concat", *outputs, axis=0) if len(outputs) > 1 else outputs[0]
        return [whole, *last] if self.exposed else [whole]


def lstm(b: Builder) -> list[Value]:
    """Gates in the order input, forget, output, candidate: c' = flag·f·c + i·g, h' = o·tanh c'."""
    steps = _Steps(b, states=2, blobs=3, gates=4)
    recurrent = 2 + steps.static
    h, c = steps.first
    outputs = []
    for t in range(steps.count):
        gates = steps.recur(t, h, recurrent, 4)
        i, f, o, g = b.nodes_of("Split", [gates, [steps.size] * 4], 4, axis=2)
        keep = b.node("Mul", b.node("Mul", b.node("Sigmoid", f), steps.flags[t]), c)
        c = b.node("Add", keep, b.node("Mul", b.node("Sigmoid", i), b.node("Tanh", g)))
        h = b.node("Mul", b.node("Sigmoid", o), b.node("Tanh", c))
        outputs.append(h)
    return steps.tops(outputs, h, c)


def rnn(b: Builder) -> list[Value]:
    """h' = tanh(W·x + W·(flag·h) + b), output tanh(W·h' + b)."""
    steps = _Steps(b, states=1, blobs=5, gates=1)
    recurrent = 2 + steps.static
    (h,) = steps.first
    outputs = []
    for t in range(steps.count):
        h = b.node("Tanh", steps.recur(t, h, recurrent, 1))
        outputs.append(b.node("Tanh", steps.apply(h, recurrent + 1, steps.size, recurrent + 2)))
    return steps.tops(outputs, h)


def continuation_indicator(b: Builder) -> list[Value]:
    """0 in the first step of a sequence, 1 in the others."""
    p = b.param.continuation_indicator_param
    if p.time_step * p.batch_size > 1 << 24:
        raise b.fail(f"{p.time_step} steps of {p.batch_size} sequences are too many")
    flags = np.ones((p.time_step, p.batch_size), np.float32)
    flags[:1] = 0
    return [b.node("Identity", flags)]
