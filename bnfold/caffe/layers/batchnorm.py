"""BatchNorm in all the forms that Caffe and its forks have given it.

What differs is the order of the blobs and where eps comes from; a `Recipe` settles both. The order is a list of parts,
and a one-element blob gives it away: third, it is the factor of mean and variance; last, it is not used.
Sources: BVLC, SSD, Intel, NVIDIA 0.14 to 0.17, yjxiong, PSPNet, SegNet, ducha-aiki, SENet, happynear, Synopsys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import AmbiguousError, UsageError
from ...ir.graph import Value
from ...planner.affine import Float64
from .. import caffe_pb2 as pb
from .builder import Builder, Unknown
from .shape import reduce_axes

PARTS = ("mean", "variance", "factor", "gamma", "beta", "unused", "inverse-deviation")
"""What a blob of a BatchNorm can be: the words of `--bn-blobs`, separated by commas."""

BVLC = ("mean", "variance", "factor")
INTEL = (*BVLC, "gamma", "beta")
PLAIN = ("gamma", "beta", "mean", "variance")
NVIDIA15 = (*PLAIN, "unused")
NVIDIA17 = ("mean", "variance", "unused", "gamma", "beta")
INFERENCE = pb.BNParameter.Mode.Value("INFERENCE")
CUDNN_MIN_EPS = 1e-5
SEGNET_EPS = 1e-9


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one layer normalises: what its blobs are, eps, and the oddities of forks.

    `batch` is the reason why the statistics are those of the batch, "" if they are stored. `eps_outside`: the root is
    taken of the variance alone. `skip`: statistics that are left out.
    """

    order: tuple[str, ...]
    eps: float
    batch: str = ""
    relu: bool = False
    eps_outside: bool = False
    skip: frozenset[str] = frozenset()


def batch_norm(b: Builder) -> list[Value]:
    """Type BatchNorm: 3 blobs (BVLC), with gamma and beta 4 or 5 (Intel, NVIDIA)."""
    p = b.param.batch_norm_param
    given = _given(b, len(b.layer.blobs))
    five = NVIDIA17 if not given and len(b.layer.blobs) == 5 and _is_nvidias(p) else INTEL
    order = given or _order(b, [BVLC, INTEL[:4], PLAIN, five, NVIDIA15])
    if "gamma" in order and p.HasField("use_weight_bias") and not p.use_weight_bias:
        raise Unknown("it has gamma and beta, and `use_weight_bias: false`")
    nvidia = order[0] == "gamma" or order[2:3] == ("unused",)
    batch = _of_the_batch(b, p)
    if "factor" in order and not given and not batch:
        _doubt_factor(b, order)
    elif order[2:3] == ("unused",) and not batch:
        _doubt_unread(b, strict=not given)
    recipe = Recipe(
        order,
        max(p.eps, CUDNN_MIN_EPS) if nvidia else p.eps,
        batch,
        relu=p.relu,
        eps_outside=not p.add_eps_before_sqrt,
        skip=frozenset(name for name in ("mean", "variance") if getattr(p, f"disable_{name}")),
    )
    return _normalize(b, recipe)


def _is_nvidias(p: pb.BatchNormParameter) -> bool:
    """Whether five blobs behind mean, variance and one element are NVIDIA's, which does not read that: by their words.

    Raises Unknown for words of both NVIDIA and Intel, whose files have the same blobs.
    """
    intel = [name for name in ("filler", "use_weight_bias", "bias_term", "stats_batch_size") if p.HasField(name)]
    nvidia = ["scale_bias"] * p.scale_bias + ["scale_filler"] * p.HasField("scale_filler")
    if intel and nvidia:
        raise Unknown(f"`{intel[0]}` is a word of Intel's Caffe and `{nvidia[0]}` of NVIDIA's, which read it otherwise")
    return bool(nvidia) or (p.HasField("bias_filler") and not intel)


def _of_the_batch(b: Builder, p: pb.BatchNormParameter | pb.CuDNNBatchNormParameter) -> str:
    """Why the statistics are those of the batch, "" where they are stored."""
    if p.HasField("use_global_stats"):
        return "" if p.use_global_stats else "use_global_stats is false"
    return _in_training(b, p.frozen and b.layer.type != "BatchNorm")


def _in_training(b: Builder, frozen: bool) -> str:
    return "the phase is TRAIN" if b.param.phase == pb.TRAIN and not frozen else ""


def _doubt_factor(b: Builder, order: tuple[str, ...]) -> None:
    """Say so where the factor is 0 and the statistics are not: BVLC's Caffe takes them for 0, NVIDIA's as they are."""
    blobs = dict(zip(order, b.layer.blobs, strict=True))
    if not blobs["factor"].array().any() and (blobs["mean"].array().any() or blobs["variance"].array().any()):
        other = ",".join("unused" if part == "factor" else part for part in order)
        b.notice(
            "factor",
            "the factor of mean and variance is 0 and they are not: read as BVLC's Caffe does, they count as 0; "
            "NVIDIA's Caffe does not read the factor",
            f"if the file is NVIDIA's, give --bn-blobs {other}",
            strict=True,
        )


def _doubt_unread(b: Builder, strict: bool) -> None:
    """Say so where the third blob, which NVIDIA's Caffe does not read, is a factor by which others divide."""
    factor = b.layer.blobs[2].array().reshape(-1)
    if factor.size == 1 and factor[0] not in (0, 1):
        what = f"the third blob is {factor[0]:.6g}; read as NVIDIA's Caffe does, it is not used; others divide by it"
        hint = f"if the file is another's, give --bn-blobs {','.join(INTEL[: len(b.layer.blobs)])}"
        b.notice("factor", what, hint, strict=strict)


def cudnn_batch_norm(b: Builder) -> list[Value]:
    """Type CuDNNBatchNorm (SENet, GENet), which takes batch_norm_param, too."""
    if b.param.HasField("cudnn_batch_norm_param"):
        p = b.param.cudnn_batch_norm_param
    else:
        p = b.param.batch_norm_param
        for name in ("relu", "disable_mean", "disable_variance", "add_eps_before_sqrt"):
            if p.HasField(name):
                raise Unknown(f"what `{name}` means to type {b.layer.type} is not known")
    return _normalize(b, Recipe(_order(b, [PLAIN]), max(p.eps, CUDNN_MIN_EPS), _of_the_batch(b, p)))


def bn(b: Builder) -> list[Value]:
    """Types BN and SyncBN: gamma, beta (SegNet), or with mean and variance behind (yjxiong, PSPNet, ducha-aiki)."""
    p = b.param.bn_param
    order = _order(b, [PLAIN[:2], PLAIN])
    if "variance" not in order and "inverse-deviation" not in order:
        batch = "" if p.bn_mode == INFERENCE else "bn_mode is LEARN"
        return _normalize(b, Recipe(order, SEGNET_EPS if batch else 0.0, batch))
    words = [name for name in ("var_eps", "moving_average", "decay", "shift_filler") if p.HasField(name)]
    if words and p.HasField("eps"):
        raise Unknown(f"`eps` and `{words[0]}` are words of two forks, which have different defaults")
    batch = _in_training(b, p.frozen) if p.moving_average else "moving_average is false"
    return _normalize(b, Recipe(order, p.var_eps if words else p.eps, batch))


# ----------------------------------------------------------------------------------------------- the order of the blobs


def _order(b: Builder, orders: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The one order that the stored shapes allow, or the user's."""
    sizes = [math.prod(blob.shape) for blob in b.layer.blobs]
    if not sizes:
        b.want_blobs(len(orders[0]))
    if given := _given(b, len(sizes)):
        return given
    possible = [order for order in orders if _allows(order, sizes)]
    if not possible:
        counts = " or ".join(sorted({str(len(order)) for order in orders}))
        raise b.fail(f"the layer has blobs of {sizes} elements; type {b.layer.type} has {counts}, with one scalar")
    if len(possible) > 1:
        readings = " or as ".join(", ".join(order) for order in possible)
        raise AmbiguousError(
            f"the {len(sizes)} blobs of {sizes} elements can be read as {readings}",
            where=b.layer.where,
            hint="choose with --bn-blobs, for example --bn-blobs " + ",".join(possible[0]),
        )
    return possible[0]


def _given(b: Builder, count: int) -> tuple[str, ...] | None:
    """The user's order, where it has as many blobs as the layer."""
    order = read_order(b.order) if b.order else ()
    b.order_fits = bool(order) and len(order) == count
    return order if b.order_fits else None


def read_order(text: str) -> tuple[str, ...]:
    """The words of `--bn-blobs`. Raises UsageError where one is no part, or stands there twice."""
    order = tuple(word.strip() for word in text.split(","))
    wrong = [word for word in order if word not in PARTS]
    twice = [word for word in order if word != "unused" and order.count(word) > 1]
    if wrong or twice:
        raise UsageError(
            f"--bn-blobs has {(wrong or twice)[0]!r}" + (", which no blob is called" if wrong else " twice"),
            hint=f"give the blobs in their order with the words {', '.join(PARTS)}",
        )
    stored = [word for word in order if word in ("variance", "inverse-deviation")]
    if len(stored) != ("mean" in order) or ("factor" in order and not stored) or set(order) == {"unused"}:
        hint = "a BatchNorm has mean and variance, with or without a factor, or gamma and beta alone"
        raise UsageError(f"--bn-blobs {text} is no order of one", hint=hint)
    return order


def _allows(order: tuple[str, ...], sizes: Sequence[int]) -> bool:
    channels = {size for part, size in zip(order, sizes, strict=False) if part not in ("factor", "unused")}
    scalars = {size for part, size in zip(order, sizes, strict=False) if part in ("factor", "unused")}
    return len(order) == len(sizes) and len(channels) == 1 and scalars <= {1}


# ------------------------------------------------------------------------------------------------------- the arithmetic


def _normalize(b: Builder, recipe: Recipe) -> list[Value]:
    shape = b.x.shape
    if shape is not None and len(shape) < 2:
        raise b.fail(f"type {b.layer.type} needs a channel axis and blob {b.x.name} has shape {shape}")
    stored = {part: blob for part, blob in zip(recipe.order, b.layer.blobs, strict=True) if part != "unused"}
    sizes = {math.prod(blob.shape) for part, blob in stored.items() if part != "factor"}
    channels = max(sizes)
    if "factor" in stored and math.prod(stored["factor"].shape) != 1:
        raise b.fail(f"the factor of mean and variance has the shape {stored['factor'].shape}")
    known = None if shape is None else shape[1]
    if len(sizes) > 1 or (known is not None and known != channels):
        raise b.fail(f"the blobs have {sorted(sizes)} elements and blob {b.x.name} {shape} has {known} channels")

    def values(part: str) -> Float64 | None:
        return stored[part].array().astype(np.float64).reshape(-1) if part in stored else None

    def made(label: str, compute: Callable[[], Float64]) -> Value:
        key = ("batch-norm", label, recipe, *(blob for blob in b.layer.blobs))
        return b.derived(key, label, (channels,), np.dtype(np.float64), compute)

    gamma = made("gamma", lambda: _or_fill(values("gamma"), channels, 1.0))
    beta = made("beta", lambda: _or_fill(values("beta"), channels, 0.0))
    if recipe.batch:
        y = _of_batch(b, recipe, gamma, beta)
    else:
        mean = made("mean", lambda: _mean(recipe, values, channels))
        variance = made("variance", lambda: _variance(recipe, values, channels))
        b.fixed = recipe.relu
        if recipe.relu:
            b.graph.notes[b.layer] = ("relu", "it ends in a ReLU of its own (`relu: true`), which would stay")
        folded = recipe.eps_outside or "inverse-deviation" in stored or "variance" in recipe.skip
        y = b.node("BatchNormalization", b.x, gamma, beta, mean, variance, epsilon=0.0 if folded else recipe.eps)
    return [b.node("Relu", y) if recipe.relu else y]


def _or_fill(values: Float64 | None, channels: int, value: float) -> Float64:
    return np.full(channels, value) if values is None else values


def _factor(values: Callable[[str], Float64 | None]) -> float:
    """What mean and variance are multiplied by: 1/f, and 0 where f is 0."""
    factor = values("factor")
    return 1.0 if factor is None else 0.0 if factor[0] == 0 else 1.0 / float(factor[0])


def _mean(recipe: Recipe, values: Callable[[str], Float64 | None], channels: int) -> Float64:
    mean = None if "mean" in recipe.skip else values("mean")
    return np.zeros(channels) if mean is None else mean * _factor(values)


def _variance(recipe: Recipe, values: Callable[[str], Float64 | None], channels: int) -> Float64:
    """The variance whose root, with the node's epsilon, is the deviation that the layer divides by."""
    inverse = values("inverse-deviation")
    with np.errstate(all="ignore"):
        if inverse is not None:
            return inverse**-2
        variance = None if "variance" in recipe.skip else values("variance")
        if variance is None:
            return np.ones(channels)
        scaled = variance * _factor(values)
        return (np.sqrt(scaled) + recipe.eps) ** 2 if recipe.eps_outside else scaled


def _of_batch(b: Builder, recipe: Recipe, gamma: Value, beta: Value) -> Value:
    """(x − mean of the batch)/√(variance of the batch + eps), then gamma and beta where they are stored."""
    b.fixed = True
    b.graph.notes[b.layer] = ("batch-statistics", f"it normalises with the statistics of the batch: {recipe.batch}")
    rank = len(b.dims(b.x))
    axes = [axis for axis in range(rank) if axis != 1]
    centred = b.node("Sub", b.x, reduce_axes(b, "ReduceMean", b.x, axes))
    variance = reduce_axes(b, "ReduceMean", b.node("Mul", centred, centred), axes)
    y = b.node("Div", centred, b.node("Sqrt", b.node("Add", variance, recipe.eps)))
    if "gamma" not in recipe.order:
        return y
    column = [-1, *(1,) * (rank - 2)]
    return b.node("Add", b.node("Mul", y, b.node("Reshape", gamma, column)), b.node("Reshape", beta, column))
