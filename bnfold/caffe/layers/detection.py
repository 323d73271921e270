"""Detection layers: anchors as constants, decoding and suppression with standard operators.

Liu et al., "SSD: Single Shot MultiBox Detector" (2016), as in its Caffe branch; Redmon & Farhadi, "YOLOv3" (2018), as
MobileNet-YOLO's Caffe computes it.
"""

from __future__ import annotations

import math

import numpy as np

from ...ir.element_types import FLOAT_CODE, INT64_CODE
from ...ir.graph import Array, Value
from .. import caffe_pb2 as pb
from .builder import Builder, Unknown

CORNER, CENTER_SIZE = (pb.PriorBoxParameter.CodeType.Value(name) for name in ("CORNER", "CENTER_SIZE"))
MOST_ANCHORS = 1 << 22
MOST_CLASSES = 1 << 16
MOST_IMAGES = 1 << 10
IGNORED = float(np.finfo(np.float32).min)


def prior_box(b: Builder) -> list[Value]:
    """(1, 2, 4·P): the anchors' corners relative to the image, and below them their variances. Only shapes are read."""
    p = b.param.prior_box_param
    height, width = (b.extent(b.x, i) for i in (2, 3))
    b.positive(height=height, width=width)
    b.finite(step_h=p.step_h, step_w=p.step_w, step=p.step, offset=p.offset)
    rows = p.img_h or p.img_size or b.extent(b.bottoms[1], 2)
    columns = p.img_w or p.img_size or b.extent(b.bottoms[1], 3)
    step_h, step_w = p.step_h or p.step, p.step_w or p.step
    if not (step_h and step_w):
        step_h, step_w = rows / height, columns / width
    b.positive(img_h=rows, img_w=columns)
    sizes = np.array(_anchor_sizes(b, p), np.float32) / 2
    if height * width * len(sizes) > MOST_ANCHORS:
        raise b.fail(f"{height} x {width} places with {len(sizes)} anchors each are too many")
    x = (np.arange(width, dtype=np.float32) + np.float32(p.offset)) * np.float32(step_w)
    y = (np.arange(height, dtype=np.float32) + np.float32(p.offset)) * np.float32(step_h)
    centres = np.stack(np.broadcast_arrays(x[None, :], y[:, None]), axis=-1).reshape(-1, 1, 2)
    boxes = np.concatenate([centres - sizes, centres + sizes], axis=-1)
    boxes /= np.array([columns, rows, columns, rows], np.float32)
    if p.clip:
        boxes = boxes.clip(0, 1)
    variances = list(p.variance) or [0.1]
    if len(variances) not in (1, 4):
        raise b.fail(f"PriorBox has {len(variances)} variances; it takes 1 or 4")
    spread = np.broadcast_to(np.array(variances, np.float32), boxes.shape)
    return [b.node("Identity", np.stack([boxes.reshape(-1), spread.reshape(-1)])[None])]


def _anchor_sizes(b: Builder, p: pb.PriorBoxParameter) -> list[tuple[float, float]]:
    """Width and height of each anchor at one place; SSD cuts the sizes to whole pixels."""
    if not p.min_size or (p.max_size and len(p.max_size) != len(p.min_size)):
        raise b.fail(f"PriorBox has {len(p.min_size)} min_size and {len(p.max_size)} max_size")
    for size in p.min_size:
        b.positive(min_size=size)
    for size in p.max_size:
        b.positive(max_size=size)
    ratios = [1.0]
    for ratio in p.aspect_ratio:
        b.positive(aspect_ratio=ratio)
        if all(abs(ratio - known) >= 1e-6 for known in ratios):
            ratios += [ratio, 1 / ratio] if p.flip else [ratio]
    sizes = []
    for index, minimum in enumerate(map(int, p.min_size)):
        sizes.append((float(minimum), float(minimum)))
        if p.max_size:
            sizes.append((math.sqrt(minimum * int(p.max_size[index])),) * 2)
        sizes += [(minimum * math.sqrt(r), minimum / math.sqrt(r)) for r in ratios if abs(r - 1) >= 1e-6]
    return sizes


def detection_output(b: Builder) -> list[Value]:
    """(1, 1, K, 7): image, label, score and corners of each detection, by image, label and falling score.

    With no detection at all there is one row for each image, -1 but for the image's number.
    """
    p = b.param.detection_output_param
    if len(b.bottoms) != 3 or (p.nms_param.HasField("eta") and p.nms_param.eta != 1):
        raise Unknown("this DetectionOutput (refined anchors, or adaptive suppression) has no description")
    batch, priors = _images(b), b.extent(b.bottoms[2], 2) // 4
    b.positive(num_classes=p.num_classes, priors=priors)
    if p.num_classes > MOST_CLASSES:
        raise Unknown(f"{p.num_classes} classes are too many to be taken apart")
    locations = 1 if p.share_location else p.num_classes
    if b.known(b.x)[1:] != (priors * locations * 4,) or b.known(b.bottoms[1])[1:] != (priors * p.num_classes,):
        raise b.fail(
            f"{priors} anchors of {p.num_classes} classes do not fit the bottoms {b.x.shape} and {b.bottoms[1].shape}"
        )
    if p.num_classes == 1 and p.background_label_id == 0:
        raise b.fail("num_classes is 1, and that is the background")
    boxes = _decoded(b, p, batch, priors, locations)
    scores = b.node("Reshape", b.bottoms[1], [batch, priors, p.num_classes])
    scores = b.node("Transpose", scores, perm=[0, 2, 1])
    classes = [c for c in range(p.num_classes) if c != p.background_label_id]
    rows = [_of_image(b, p, image, boxes, scores, classes) for image in range(batch)]
    return [_or_none(b, b.node("Concat", *rows, axis=0) if batch > 1 else rows[0], batch)]


def _decoded(b: Builder, p: pb.DetectionOutputParameter, batch: int, priors: int, locations: int) -> Value:
    """Corners (N, classes or 1, P, 4) from offsets to the anchors."""
    offsets = b.node("Reshape", b.x, [batch, priors, locations, 4])
    prior = b.node("Reshape", b.bottoms[2], [2, priors, 1, 4])
    anchors = b.node("Slice", prior, [0], [1], [0])
    if not p.variance_encoded_in_target:
        offsets = b.node("Mul", offsets, b.node("Slice", prior, [1], [2], [0]))
    low, high = b.nodes_of("Split", [anchors, [2, 2]], 2, axis=3)
    size = b.node("Sub", high, low)
    first, second = b.nodes_of("Split", [offsets, [2, 2]], 2, axis=3)
    if p.code_type == CORNER:
        corners = b.node("Add", anchors, offsets)
    elif p.code_type == CENTER_SIZE:
        middle = b.node("Add", b.node("Mul", first, size), b.node("Mul", b.node("Add", low, high), 0.5))
        half = b.node("Mul", b.node("Mul", b.node("Exp", second), size), 0.5)
        corners = _corners(b, middle, half)
    else:
        moved = b.node("Add", low, b.node("Mul", first, size)), b.node("Add", high, b.node("Mul", second, size))
        corners = b.node("Concat", *moved, axis=3)
    return b.node("Transpose", corners, perm=[0, 2, 1, 3])


def _of_image(
    b: Builder, p: pb.DetectionOutputParameter, image: int, boxes: Value, scores: Value, classes: list[int]
) -> Value:
    """The detections of one image as rows of 7. Each class is suppressed as an item of a batch of its own."""
    number = len(classes)
    own = b.node("Squeeze", b.node("Slice", boxes, [image], [image + 1], [0]), [0])
    own = b.node("Expand", own, [number, 1, 1]) if p.share_location else b.node("Gather", own, classes, axis=0)
    chosen = b.node("Squeeze", b.node("Slice", scores, [image], [image + 1], [0]), [0])
    chosen = b.node("Gather", chosen, classes, axis=0)
    best = _only_top(b, p, chosen, number)
    threshold = p.confidence_threshold if p.HasField("confidence_threshold") else IGNORED
    where = _suppressed(b, own, best, p.nms_param.nms_threshold, threshold)
    if p.keep_top_k > -1:
        where = _best_of_all(b, where, b.node("GatherND", best, where), p.keep_top_k)
    label = b.node("Gather", np.array(classes, np.float32), b.node("Gather", where, [0], axis=1), axis=0)
    return _rows(b, image, label, own, best, where)


def _only_top(b: Builder, p: pb.DetectionOutputParameter, scores: Value, number: int) -> Value:
    """The scores (classes, P), the lowest number in the place of all but the best `top_k` of each class."""
    priors = b.extent(scores, 1)
    top = p.nms_param.top_k if p.nms_param.HasField("top_k") and p.nms_param.top_k > -1 else priors
    if top >= priors:
        return scores
    values, places = b.nodes_of("TopK", [scores, [top]], 2, axis=1)
    return b.node("ScatterElements", b.node("Expand", IGNORED, [number, priors]), places, values, axis=1)


def _best_of_all(b: Builder, where: Value, score: Value, limit: int) -> Value:
    """Where the `limit` best over all classes are, in their present order."""
    count = b.node("Min", b.node("Shape", score), [limit])
    _, places = b.nodes_of("TopK", [score, count], 2, axis=0)
    ordered, _ = b.nodes_of("TopK", [places, count], 2, axis=0, largest=0)
    return b.node("Gather", where, ordered, axis=0)


def yolov3_detection_output(b: Builder) -> list[Value]:
    """(1, 1, K, 7): 0, label from 1, score and corners of each detection, by falling score.

    All classes and all images of the batch suppress each other, as in that Caffe. There each cell and anchor stands
    once for every class; but the same box under another class overlaps entirely, so that its best class alone counts.
    With no detection at all there is one row for each image, -1 but for the image's number.
    """
    p = b.param.yolov3_detection_output_param
    if not 0 < p.nms_threshold <= 1:
        raise Unknown(f"suppression from an overlap of {p.nms_threshold} has no description")
    if not p.HasField("num_classes"):
        raise b.fail("Yolov3DetectionOutput needs num_classes")
    b.positive(num_classes=p.num_classes, num_box=p.num_box)
    _images(b)
    if len(b.bottoms) != p.mask_group_num:
        raise b.fail(
            f"the layer has {len(b.bottoms)} bottoms and mask_group_num {p.mask_group_num}; they must be equal"
        )
    decoded = [_yolo_cells(b, p, level) for level in range(len(b.bottoms))]
    boxes, scores = (
        b.node("Concat", *parts, axis=0) if len(parts) > 1 else parts[0] for parts in zip(*decoded, strict=True)
    )
    best, label = b.nodes_of("TopK", [scores, [1]], 2, axis=1)
    boxes = b.node("Unsqueeze", boxes, [0])
    best = b.node("Transpose", best)
    overlap = float(np.nextafter(np.float32(p.nms_threshold), np.float32(0)))  # Caffe suppresses at the threshold, too
    where = _suppressed(b, boxes, best, overlap, p.confidence_threshold)
    label = b.node("Cast", b.node("GatherND", label, b.node("Gather", where, [1], axis=1)), to=FLOAT_CODE)
    return [_or_none(b, _rows(b, 0, b.node("Add", label, 1.0), boxes, best, where), b.extent(b.x, 0))]


def _yolo_cells(b: Builder, p: pb.Yolov3DetectionOutputParameter, level: int) -> tuple[Value, Value]:
    """Corners (N·S·S·A, 4) relative to the image and class scores (N·S·S·A, classes) of one bottom of S × S cells."""
    x = b.bottoms[level]
    b.rank4(x)
    batch, channels, height, side = b.known(x)
    if height != side:
        raise Unknown(f"the versions of this layer differ for cells {x.shape} that are no square")
    if channels != p.num_box * (5 + p.num_classes):
        raise b.fail(f"{p.num_box} boxes of {p.num_classes} classes do not fit bottom {x.name} {x.shape}")
    if not 0 < channels * side * side <= MOST_ANCHORS:
        raise b.fail(f"bottom {x.name} {x.shape} has no cells, or too many")
    anchors = _yolo_anchors(b, p, level)
    cells = b.node("Reshape", x, [batch, p.num_box, 5 + p.num_classes, side * side])
    cells = b.node("Transpose", cells, perm=[0, 3, 1, 2])
    place, size, objectness, classes = b.nodes_of("Split", [cells, [2, 2, 1, p.num_classes]], 4, axis=3)
    grid = np.stack([np.tile(np.arange(side), side), np.arange(side).repeat(side)], axis=1)
    middle = b.node("Add", b.node("Sigmoid", place), grid[:, None].astype(np.float32))
    half = b.node("Mul", b.node("Exp", size), anchors / (2 * side * p.anchors_scale[level]))
    corners = _corners(b, b.node("Div", middle, float(side)), half)
    scores = b.node("Mul", b.node("Sigmoid", classes), b.node("Sigmoid", objectness))
    return b.node("Reshape", corners, [-1, 4]), b.node("Reshape", scores, [-1, p.num_classes])


def _yolo_anchors(b: Builder, p: pb.Yolov3DetectionOutputParameter, level: int) -> Array:
    """Width and height of the boxes (num_box, 2) of one bottom."""
    first = level * (len(p.mask) // p.mask_group_num)
    mask = p.mask[first : first + p.num_box]
    if len(mask) < p.num_box or max(mask) >= len(p.biases) // 2:
        raise b.fail(f"mask {list(p.mask)} does not choose {p.num_box} of {len(p.biases) // 2} biases for each bottom")
    if level >= len(p.anchors_scale):
        raise b.fail(f"the layer has {len(b.bottoms)} bottoms and {len(p.anchors_scale)} anchors_scale")
    b.positive(anchors_scale=p.anchors_scale[level])
    return np.array([p.biases[2 * m : 2 * m + 2] for m in mask], np.float32)


def _images(b: Builder) -> int:
    """The images of the batch, each of which takes nodes of its own. Raises Unknown where they are very many."""
    batch = b.extent(b.x, 0)
    if not 0 < batch <= MOST_IMAGES:
        raise Unknown(f"the detections of {batch} images are not taken apart")
    return batch


def _corners(b: Builder, middle: Value, half: Value) -> Value:
    return b.node("Concat", b.node("Sub", middle, half), b.node("Add", middle, half), axis=3)


def _suppressed(b: Builder, boxes: Value, scores: Value, overlap: float, threshold: float) -> Value:
    """(K, 2): class and box of what is left of boxes (classes, P, 4) with scores (classes, P), by class and score."""
    picked = b.node(
        "NonMaxSuppression", boxes, b.node("Unsqueeze", scores, [1]), [b.extent(scores, 1)],
        np.array([overlap], np.float32), np.array([threshold], np.float32),
    )  # fmt: skip
    return b.node("Gather", picked, [0, 2], axis=1)


def _rows(b: Builder, image: int, label: Value, boxes: Value, scores: Value, where: Value) -> Value:
    """(K, 7) of the boxes and scores at `where` (K, 2), with labels (K, 1)."""
    index = b.node("Mul", b.node("Add", label, 1.0), 0.0)
    index = b.node("Add", index, float(image))
    score = b.node("Unsqueeze", b.node("GatherND", scores, where), [1])
    return b.node("Concat", index, label, score, b.node("GatherND", boxes, where), axis=1)


def _or_none(b: Builder, found: Value, batch: int) -> Value:
    """The detections (1, 1, K, 7); where there are none a row for each image, -1 but for the image's number."""
    none = np.full((batch, 7), -1, np.float32)
    none[:, 0] = np.arange(batch)
    count = b.node("Slice", b.node("Shape", found), [0], [1])
    fallback = b.node("Mul", b.node("Cast", b.node("Equal", count, [0]), to=INT64_CODE), [batch])
    kept = b.node("Slice", b.node("Concat", found, none, axis=0), [0], b.node("Add", count, fallback), [0])
    return b.node("Unsqueeze", kept, [0, 1])
