"""What a user has to know of a net's files beside its layers: fields of the net, and weights that the text lacks."""

from __future__ import annotations

from collections.abc import Iterator

from ..planner.records import Notice, is_batch_norm
from .net import CaffeNet
from .weights.caffemodel import StoredLayer

_SHOWN = 5


def _normalises(stored: StoredLayer) -> bool:
    """Whether it is a BatchNorm or Scale, by its type; without one, by the shapes of mean, variance and factor."""
    if stored.type:
        return is_batch_norm(stored.type) or stored.type == "Scale"
    counts = [blob.count for blob in stored.blobs] if len(stored.blobs) == 3 else [0]
    return counts[-1] == 1 and counts[0] == counts[1] > 1


def notices(net: CaffeNet) -> Iterator[Notice]:
    """The net's own fields that are not understood, and normalisations that only the caffemodel holds."""
    for item in net.unread:
        yield Notice("field", item.what, item.place)
    if net.weights is None:
        return
    known = {layer.name for layer in (*net.layers, *net.inactive)}
    lost = [stored.name for stored in net.weights.layers if stored.name not in known and _normalises(stored)]
    if lost:
        names = ", ".join(lost[:_SHOWN]) + (f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else "")
        yield Notice(
            "weights-without-layers",
            f"the caffemodel holds {len(lost)} BatchNorm or Scale layers that the prototxt lacks: {names}",
            str(net.weights.path),
            "is this the prototxt of this net? One that was folded already goes with its own caffemodel",
        )
