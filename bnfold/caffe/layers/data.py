"""Layers without bottoms: inputs, the data layers of training nets, constants."""

from __future__ import annotations

from typing import Any

from ...ir.graph import Shape, Value
from .builder import Builder, Unknown


def inputs(b: Builder) -> list[Value]:
    """Inputs of the net, whose shapes the layer may give: one for all, or one for each."""
    shapes = b.param.input_param.shape
    if len(shapes) not in (0, 1, len(b.layer.tops)):
        raise b.fail(f"the layer has {len(b.layer.tops)} tops and {len(shapes)} shapes")
    given: list[Shape | None] = [tuple(shape.dim) for shape in shapes] or [None]
    if any(extent < 0 for shape in shapes for extent in shape.dim):
        raise b.fail("an extent is negative")
    return [Value("", given[i if len(given) > 1 else 0]) for i in range(len(b.layer.tops))]


def data(b: Builder) -> list[Value]:
    """Images and labels, as far as the parameters tell their shape: the crop, the mean, the size they are made.

    The batch is one image: the batch of training says nothing of what a deployed net is given.
    """
    image: Shape = (1, _channels(b.param), *_image_size(b.param))
    return [Value("", image if i == 0 else (1,)) for i in range(len(b.layer.tops))]


def _channels(p: Any) -> int | None:
    if p.memory_data_param.channels:
        return int(p.memory_data_param.channels)
    if p.transform_param.force_gray or not p.image_data_param.is_color:
        return 1
    colored = p.transform_param.force_color or p.HasField("image_data_param") or p.HasField("window_data_param")
    means = len(p.transform_param.mean_value)
    return 3 if colored else means if means > 1 else None


def _image_size(p: Any) -> Shape:
    """Height and width."""
    transform = p.transform_param
    crop = transform.crop_size or p.data_param.crop_size or p.window_data_param.crop_size
    if crop:
        return crop, crop
    sizes = [
        (transform.crop_h, transform.crop_w),
        (p.memory_data_param.height, p.memory_data_param.width),
        (p.image_data_param.new_height, p.image_data_param.new_width),
    ]
    resize = transform.resize_param
    if resize.resize_mode != resize.FIT_SMALL_SIZE:
        sizes.append((resize.height, resize.width))
    return next(((height, width) for height, width in sizes if height and width), (None, None))


def dummy_data(b: Builder) -> list[Value]:
    """Constants; a filler of random numbers would give new ones in each forward pass."""
    p = b.param.dummy_data_param
    legacy = [tuple(dims) for dims in zip(p.num, p.channels, p.height, p.width, strict=False)]
    shapes = [tuple(shape.dim) for shape in p.shape] or legacy
    count = len(b.layer.tops)
    if len(shapes) not in (1, count) or len(p.data_filler) not in (0, 1, count):
        raise b.fail(f"the layer has {count} tops, {len(shapes)} shapes and {len(p.data_filler)} fillers")
    if any(extent < 0 for shape in shapes for extent in shape):
        raise b.fail("an extent is negative")
    tops = []
    for index in range(count):
        value = 0.0
        if p.data_filler:
            filler = p.data_filler[index if len(p.data_filler) > 1 else 0]
            if filler.type != "constant":
                raise Unknown(f"a {filler.type} filler makes new random numbers in each pass")
            value = filler.value
        tops.append(b.node("Expand", value, list(shapes[index if len(shapes) > 1 else 0])))
    return tops


def parameter(b: Builder) -> list[Value]:
    """The layer's one blob."""
    b.want_blobs(1)
    return [b.node("Identity", b.blob(0, tuple(b.param.parameter_param.shape.dim)))]
