"""The fields of a prototxt that cannot matter at inference, whatever they say. Nothing in them is read, but for one
question: whether a Scale that has no weights at all would be filled as the identity.

A field is in the schema (proto/caffe.proto), and then a row of `layers` reads it; or it is here; or it is not
understood, and its layer opaque. What fills or trains weights is here because the weights come from the caffemodel,
what reads images because a net is given its inputs, and what chooses a kernel because all kernels compute the same.
"""

from __future__ import annotations

HARMLESS: dict[str, frozenset[str]] = {
    message: frozenset(names.split())
    for message, names in {
        # Precision, debugging and the distribution of training: BVLC, Intel, NVIDIA.
        "NetParameter": "force_backward debug_info bn_stats_batch_size default_forward_type "
        "default_backward_type default_forward_math default_backward_math global_grad_scale "
        "default_conv_algos_override default_cudnn_math_override reduce_buckets",
        "LayerParameter": "loss_weight propagate_down loss_param accuracy_param hdf5_data_param hdf5_output_param "
        "split_param annotated_data_param video_data_param detectnet_groundtruth_param detectnet_augmentation_param "
        "python_param multinode forward_type backward_type forward_math backward_math debug",
        "ParamSpec": "lr_mult decay_mult",
        # The numbers of a random filler; that it is one makes the layer opaque where it is not for weights.
        "FillerParameter": "min max mean std sparse variance_norm",
        "BatchNormParameter": "moving_average_fraction update_global_stats momentum "
        "use_alpha_beta",  # how many blobs there are, which the file tells
        "BNParameter": "slope_filler bias_filler scale_filler momentum",
        "BiasParameter": "filler",
        "ConvolutionParameter": "weight_filler bias_filler force_nd_im2col conv_algos_override "
        "cudnn_convolution_algo_seeker cudnn_math_override",
        "CuDNNBatchNormParameter": "momentum scale_filler bias_filler",
        "DataParameter": "source scale mean_file batch_size mirror rand_skip backend force_encoded_color prefetch "
        "shuffle threads parser_threads cache",
        "DetectionOutputParameter": "save_output_param visualize visualize_threshold save_file",
        "EltwiseParameter": "stable_prod_grad",
        "EmbedParameter": "weight_filler bias_filler",
        "ImageDataParameter": "source scale mean_file batch_size crop_size mirror rand_skip shuffle root_folder",
        "InnerProductParameter": "weight_filler bias_filler",
        "MemoryDataParameter": "batch_size",
        "NormalizeParameter": "scale_filler",
        "PReLUParameter": "filler",
        "RecurrentParameter": "weight_filler bias_filler debug_info",
        "ResizeParameter": "prob height_scale width_scale pad_mode pad_value interp_mode",
        "ScaleParameter": "filler bias_filler",
        "TransformationParameter": "scale mirror mean_file distort_param expand_param noise_param emit_constraint "
        "use_gpu_transform random_seed",
        "WindowDataParameter": "source scale mean_file batch_size mirror fg_threshold bg_threshold fg_fraction "
        "context_pad crop_mode cache_images root_folder",
    }.items()
}
"""Message -> its fields that cannot matter; any value is harmless there."""
ENGINE = frozenset({"engine"})
"""Which kernel runs a layer: in any message, of BVLC's and of forks."""


def harmless(message: str) -> frozenset[str]:
    """The fields of a message that cannot matter."""
    return HARMLESS.get(message, frozenset()) | ENGINE


def resembling(name: str, known: frozenset[str]) -> str:
    """The field in `known` that `name` probably means: one or two letters away, or with an end more; "" if none.

    `pad_d` beside `pad_h`, or `dilation_h` beside `dilation`, is rather another fork's word.
    """
    bare = {field.removesuffix("_param"): field for field in sorted(known)}
    stem = name.removesuffix("s").removesuffix("_param") if "_param" in name else name
    if stem != _base(stem) and _base(stem) in map(_base, bare):
        return ""
    near = min(bare, key=lambda field: _letters_apart(stem, field), default="")
    if near and _letters_apart(stem, near) <= min(2, len(near) // 2, len(stem) // 2):
        return bare[near]
    longer = [field for field in bare if len(field) > 2 and "_" not in field and stem.startswith(field)]
    end = stem.removeprefix(max(longer, key=len)) if longer else "_"
    return bare[max(longer, key=len)] if "_" not in end else ""


def _base(name: str) -> str:
    """The name without an axis or a side at its end."""
    return name[:-2] if name[-2:-1] == "_" else name


def _letters_apart(a: str, b: str) -> int:
    """Letters to insert, drop or replace between two words (Levenshtein, 1966), 3 standing for more than 2."""
    if abs(len(a) - len(b)) > 2:
        return 3
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (letter != other))
    return min(row[-1], 3)
