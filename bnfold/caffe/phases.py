"""Which layers a net has in a phase: the rules `include { ... }` and `exclude { ... }`, as Caffe applies them."""

from __future__ import annotations

from collections.abc import Iterable

from . import caffe_pb2 as pb


def is_included(state: pb.NetState, layer: pb.LayerParameter) -> bool:
    """Whether the layer is in the net: any `include` rule met, or none given and no `exclude` rule met."""
    if layer.include:
        return _any_met(state, layer.include)
    return not _any_met(state, layer.exclude)


def _any_met(state: pb.NetState, rules: Iterable[pb.NetStateRule]) -> bool:
    return any(_is_met(state, rule) for rule in rules)


def _is_met(state: pb.NetState, rule: pb.NetStateRule) -> bool:
    stages = set(state.stage)
    return (
        (not rule.HasField("phase") or rule.phase == state.phase)
        and (not rule.HasField("min_level") or state.level >= rule.min_level)
        and (not rule.HasField("max_level") or state.level <= rule.max_level)
        and stages.issuperset(rule.stage)
        and stages.isdisjoint(rule.not_stage)
    )
