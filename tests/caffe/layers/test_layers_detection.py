"""Anchors and detections against SSD's and YOLOv3's own algorithms, written as loops."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from bnfold.errors import InputError

from ..build import Array, noise, run, save

NOTHING = {"none": [np.zeros(1)]}


def shape(name: str, *extents: int) -> str:
    return f'input: "{name}" input_shape {{ {" ".join(f"dim: {e}" for e in extents)} }}\n'


def priors(folder: Path, param: str) -> Array:
    text = shape("x", 1, 1, 2, 3) + shape("image", 1, 3, 40, 60)
    text += f'layer {{ name: "l" type: "PriorBox" bottom: "x" bottom: "image" top: "y" prior_box_param {{ {param} }} }}'
    return run(save(folder, text, NOTHING))["y"]


def test_anchors(tmp_path: Path) -> None:
    param = "min_size: 10.7 max_size: 20 aspect_ratio: 2 aspect_ratio: 0.5 variance: 0.1 variance: 0.2 "
    found = priors(tmp_path, param + "variance: 0.3 variance: 0.4 clip: true")
    sizes = [(10.0, 10.0), (math.sqrt(200),) * 2, (10 * math.sqrt(2), 10 / math.sqrt(2))]
    sizes.append(sizes[2][::-1])
    boxes = []
    for row in range(2):
        for column in range(3):
            x, y = (column + 0.5) * 20, (row + 0.5) * 20
            boxes += [[(x - w / 2) / 60, (y - h / 2) / 40, (x + w / 2) / 60, (y + h / 2) / 40] for w, h in sizes]
    assert found.shape == (1, 2, 4 * len(boxes))
    np.testing.assert_allclose(found[0, 0].reshape(-1, 4), np.clip(boxes, 0, 1), atol=1e-6)
    np.testing.assert_allclose(found[0, 1].reshape(-1, 4), np.tile([0.1, 0.2, 0.3, 0.4], (len(boxes), 1)), atol=1e-7)


def test_anchors_without_flip_with_steps_and_one_variance(tmp_path: Path) -> None:
    found = priors(tmp_path, "min_size: 4 min_size: 8 aspect_ratio: 3 flip: false step: 10 offset: 0")
    assert found.shape == (1, 2, 2 * 3 * 4 * 4)
    first = found[0, 0].reshape(-1, 4)[:4]
    halves = [(2, 2), (2 * math.sqrt(3), 2 / math.sqrt(3)), (4, 4), (4 * math.sqrt(3), 4 / math.sqrt(3))]
    np.testing.assert_allclose(first[:, 2:], [(w / 60, h / 40) for w, h in halves], atol=1e-6)
    np.testing.assert_allclose(found[0, 0].reshape(-1, 4)[4], first[0] + [10 / 60, 0, 10 / 60, 0], atol=1e-6)
    assert (found[0, 1] == np.float32(0.1)).all()


def overlap(a: Array, b: Array) -> float:
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    common = float(np.prod(sides.clip(0)))
    return common / (float(np.prod(a[2:] - a[:2])) + float(np.prod(b[2:] - b[:2])) - common)


def detections(boxes: Array, scores: Array, top: int, keep: int, threshold: float, nms: float) -> list[list[float]]:
    """SSD's DetectionOutput over boxes (N, classes, P, 4) and scores (N, P, classes), background 0."""
    rows: list[list[float]] = []
    for image in range(len(boxes)):
        found = []
        for label in range(1, scores.shape[2]):
            order = sorted((i for i in range(scores.shape[1]) if scores[image, i, label] > threshold),
                           key=lambda i: -scores[image, i, label])[:top]  # fmt: skip
            kept: list[int] = []
            for i in order:
                if all(overlap(boxes[image, label, i], boxes[image, label, k]) <= nms for k in kept):
                    kept.append(i)
            found += [(label, i) for i in kept]
        best = sorted(found, key=lambda item: -scores[image, item[1], item[0]])[:keep]
        rows += [
            [image, label, scores[image, i, label], *boxes[image, label, i]] for label, i in found if (label, i) in best
        ]
    return rows


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("code", ["CORNER", "CENTER_SIZE", "CORNER_SIZE"])
@pytest.mark.parametrize(("top", "keep"), [(400, 200), (8, 12)])
def test_detections(shared: bool, code: str, top: int, keep: int, tmp_path: Path) -> None:
    batch, count, classes = 2, 30, 4
    locations = 1 if shared else classes
    rng = np.random.default_rng(5)
    corner = rng.uniform(0, 0.7, (count, 2))
    anchors = np.concatenate([corner, corner + rng.uniform(0.1, 0.3, (count, 2))], axis=1).astype(np.float32)
    variances = np.tile(np.array([0.1, 0.1, 0.2, 0.2], np.float32), (count, 1))
    offsets = 0.3 * noise("loc", batch, count, locations, 4)
    scores = rng.uniform(0, 1, (batch, count, classes)).astype(np.float32)
    feeds: dict[str, Array] = {
        "loc": offsets.reshape(batch, -1), "conf": scores.reshape(batch, -1),
        "prior": np.stack([anchors.reshape(-1), variances.reshape(-1)])[None],
    }  # fmt: skip
    text = (
        "".join(shape(name, *array.shape) for name, array in feeds.items())
        + f"""
        layer {{ name: "l" type: "DetectionOutput" bottom: "loc" bottom: "conf" bottom: "prior" top: "y"
          detection_output_param {{ num_classes: {classes} share_location: {str(shared).lower()} code_type: {code}
            keep_top_k: {keep} confidence_threshold: 0.2 nms_param {{ nms_threshold: 0.4 top_k: {top} }} }} }}"""
    )
    scaled = (offsets * variances[:, None]).transpose(0, 2, 1, 3)
    low, size = anchors[:, :2], anchors[:, 2:] - anchors[:, :2]
    if code == "CORNER":
        boxes = anchors + scaled
    elif code == "CENTER_SIZE":
        middle = (low + anchors[:, 2:]) / 2 + scaled[..., :2] * size
        half = np.exp(scaled[..., 2:]) * size / 2
        boxes = np.concatenate([middle - half, middle + half], axis=-1)
    else:
        boxes = np.concatenate([low + scaled[..., :2] * size, anchors[:, 2:] + scaled[..., 2:] * size], axis=-1)
    boxes = np.broadcast_to(boxes, (batch, classes, count, 4))
    wanted = np.array(detections(boxes, scores, top, keep, 0.2, 0.4), np.float32)[None, None]
    found = run(save(tmp_path, text, NOTHING), feeds)["y"]
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=2e-6)


def test_an_image_without_detections_has_a_row_of_its_own(tmp_path: Path) -> None:
    feeds = {"loc": np.zeros((2, 4)), "conf": np.zeros((2, 2)), "prior": np.zeros((1, 2, 4))}
    text = (
        "".join(shape(name, *array.shape) for name, array in feeds.items())
        + """
        layer { name: "l" type: "DetectionOutput" bottom: "loc" bottom: "conf" bottom: "prior" top: "y"
          detection_output_param { num_classes: 2 confidence_threshold: 0.5 keep_top_k: 5 } }"""
    )
    found = run(save(tmp_path, text, NOTHING), {name: a.astype(np.float32) for name, a in feeds.items()})["y"]
    np.testing.assert_array_equal(found, [[[[0, *[-1] * 6], [1, *[-1] * 6]]]])


MASK, BIASES, SCALES = [2, 3, 0, 1], [10, 13, 16, 30, 33, 23, 30, 61], [16, 8]
YOLO = f"""num_classes: 3 num_box: 2 confidence_threshold: 0.3 nms_threshold: 0.4 mask_group_num: 2
    {" ".join(f"mask: {m}" for m in MASK)} {" ".join(f"biases: {v}" for v in BIASES)}
    {" ".join(f"anchors_scale: {v}" for v in SCALES)}"""


def yolo(folder: Path, feeds: dict[str, Array], param: str = YOLO) -> Array:
    bottoms = " ".join(f'bottom: "{name}"' for name in feeds)
    text = "".join(shape(name, *array.shape) for name, array in feeds.items())
    text += f'layer {{ name: "l" type: "Yolov3DetectionOutput" {bottoms} top: "y" '
    return run(save(folder, text + f"yolov3_detection_output_param {{ {param} }} }}", NOTHING), feeds)["y"]


def yolo_detections(levels: list[Array], threshold: float, nms: float) -> list[list[float]]:
    """Each class of each cell and anchor is a candidate; all images and classes suppress each other."""
    found = []
    for level, array in enumerate(levels):
        batch, channels, side, _ = array.shape
        values = array.astype(np.float64).reshape(batch, 2, channels // 2, side, side)
        for image, anchor, row, column in np.ndindex(batch, 2, side, side):
            x, y, w, h, objectness, *classes = values[image, anchor, :, row, column]
            which = MASK[level * 2 + anchor]
            middle = np.array([column + sigmoid(x), row + sigmoid(y)]) / side
            size = np.exp([w, h]) * BIASES[2 * which : 2 * which + 2] / (side * SCALES[level])
            box = np.concatenate([middle - size / 2, middle + size / 2])
            scores = [sigmoid(value) * sigmoid(objectness) for value in classes]
            found += [(score, label, box) for label, score in enumerate(scores, 1) if score > threshold]
    kept: list[tuple[float, int, Array]] = []
    for item in sorted(found, key=lambda candidate: -candidate[0]):
        if all(overlap(item[2], other[2]) < nms for other in kept):
            kept.append(item)
    return [[0, label, score, *box] for score, label, box in kept]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("batch", [1, 2])
def test_yolo_detections(batch: int, tmp_path: Path) -> None:
    feeds = {"coarse": 2 * noise("coarse", batch, 16, 3, 3), "fine": 2 * noise("fine", batch, 16, 6, 6)}
    wanted = np.array(yolo_detections(list(feeds.values()), 0.3, 0.4), np.float32)
    found = yolo(tmp_path, feeds)
    assert 10 < len(wanted) < 90 * batch
    assert found.shape == (1, 1, *wanted.shape)
    np.testing.assert_allclose(found[0, 0], wanted, atol=2e-6)


def test_a_yolo_box_suppresses_what_overlaps_by_just_the_threshold(tmp_path: Path) -> None:
    param = "num_classes: 1 num_box: 2 mask_group_num: 1 mask: 0 mask: 1 anchors_scale: 4 nms_threshold: "
    cells = np.zeros((1, 12, 1, 1), np.float32)
    cells[0, 4] = 1
    biases = " biases: 4 biases: 4 biases: 4 biases: 2"  # one box is a half of the other, exactly
    for threshold, count in ((0.5, 1), (0.51, 2)):
        assert yolo(tmp_path, {"x": cells}, f"{param} {threshold} {biases}").shape == (1, 1, count, 7)


def test_a_batch_without_yolo_detections_has_a_row_for_each_image(tmp_path: Path) -> None:
    feeds = {name: np.full((2, 16, side, side), -9, np.float32) for name, side in (("coarse", 1), ("fine", 2))}
    np.testing.assert_array_equal(yolo(tmp_path, feeds), [[[[0, *[-1] * 6], [1, *[-1] * 6]]]])


@pytest.mark.parametrize(
    ("param", "message"),
    [
        (YOLO.replace("num_classes: 3", ""), "needs num_classes"),
        (YOLO.replace("mask_group_num: 2", "mask_group_num: 3"), "2 bottoms and mask_group_num 3"),
        (YOLO.replace("num_classes: 3", "num_classes: 4"), "2 boxes of 4 classes do not fit bottom coarse"),
        (YOLO.replace("mask: 3", "mask: 9"), r"mask \[2, 9, 0, 1\] does not choose 2 of 4 biases"),
        (YOLO.replace("anchors_scale: 8", ""), "2 bottoms and 1 anchors_scale"),
        (YOLO.replace("nms_threshold: 0.4", "nms_threshold: 0"), "from an overlap of 0.0 has no description"),
    ],
)
def test_yolo_parameters_that_do_not_fit_are_refused(param: str, message: str, tmp_path: Path) -> None:
    feeds = {"coarse": noise("coarse", 1, 16, 3, 3), "fine": noise("fine", 1, 16, 6, 6)}
    with pytest.raises(InputError, match=message):
        yolo(tmp_path, feeds, param)
