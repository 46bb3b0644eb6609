"""Operations that move numbers about, make them anew, or give shapes."""

from typing import Any

import numpy as np
import tensorflow as tf

from tests.sweep.operation import Operation, one, two

_GROUP = "shapes"
_MATRICES = "diagonals and bands"
_IMAGES = "images"
_RAW = tf.raw_ops

_MOVING: dict[str, Any] = {
    "Reshape": lambda x: tf.reshape(x, [-1, 3, 4]),
    "ExpandDims": lambda x: tf.expand_dims(x, 1),
    "Squeeze": lambda x: tf.squeeze(x[:, None], 1),
    "Pack": lambda x: tf.stack([x, x + 1], 1),
    "Unpack": lambda x: tf.unstack(x, axis=1)[2],
    "Concat": lambda x: _RAW.Concat(concat_dim=1, values=[x, -x]),
    "ConcatV2": lambda x: tf.concat([x, -x], -1),
    "Split": lambda x: _RAW.Split(axis=1, value=x, num_split=2)[1],
    "SplitV": lambda x: tf.split(x, [1, 3], 1)[1],
    "Slice": lambda x: tf.slice(x, [0, 1, 0], [-1, 2, 3]),
    "StridedSlice": lambda x: x[:, ::-2, None, 1:],
    "StridedSlice, ends beyond": lambda x: x[:, -9:9:3, -2:],
    "StridedSlice, shrinking": lambda x: x[:, -1, ..., 0],
    "Tile": lambda x: tf.tile(x, [1, 2, 1]),
    "Transpose": lambda x: tf.transpose(x, [0, 2, 1]),
    "ConjugateTranspose": lambda x: _RAW.ConjugateTranspose(x=x, perm=[0, 2, 1]),
    "Pad": lambda x: tf.pad(x, [[0, 0], [1, 2], [0, 1]]),
    "PadV2": lambda x: tf.pad(x, [[0, 0], [1, 2], [0, 1]], constant_values=-7.5),
    "MirrorPad, reflect": lambda x: tf.pad(x, [[0, 0], [1, 2], [2, 1]], "REFLECT"),
    "MirrorPad, symmetric": lambda x: tf.pad(x, [[0, 0], [1, 2], [2, 1]], "SYMMETRIC"),
    "BroadcastTo": lambda x: tf.broadcast_to(x[:, :, None], [tf.shape(x)[0], 4, 2, 3]),
    "BroadcastArgs": lambda x: x + tf.zeros(tf.broadcast_dynamic_shape(tf.shape(x), tf.constant([1, 3]))),
    "Fill": lambda x: x + tf.fill(tf.shape(x), 2.5),
    "Range": lambda x: x + tf.range(0.0, 3.0, 1.0),
    "Range, of the size": lambda x: x + tf.cast(tf.range(tf.shape(x)[2]), tf.float32),
    "LinSpace": lambda x: x + tf.linspace(-1.0, 1.0, 3),
    "Shape": lambda x: x + tf.cast(tf.shape(x)[1:2], tf.float32),
    "ShapeN": lambda x: x + tf.cast(tf.shape_n([x, x])[1][2], tf.float32),
    "Size": lambda x: x + tf.cast(tf.size(x[0]), tf.float32),
    "Rank": lambda x: x + tf.cast(tf.rank(x), tf.float32),
    "EnsureShape": lambda x: tf.ensure_shape(x, [None, 4, 3]),
    "TensorStridedSliceUpdate": lambda x: _RAW.TensorStridedSliceUpdate(
        input=x, begin=[0, 1, 0], end=[0, 3, 2], strides=[1, 1, 1], value=x[:, :2, :2] * 2, begin_mask=1, end_mask=1
    ),
    "StridedSliceGrad": lambda x: _RAW.StridedSliceGrad(
        shape=tf.concat([tf.shape(x)[:1], [6, 3]], 0),
        begin=[0, 1, 0],
        end=[0, 5, 3],
        strides=[1, 1, 1],
        dy=x,
        begin_mask=1,
        end_mask=1,
    ),
    "repeat": lambda x: tf.repeat(x, 2, 1),
    "meshgrid": lambda x: x + tf.meshgrid(tf.range(3.0), tf.range(4.0))[0],
    "Empty": lambda x: x + _RAW.Empty(shape=[3], dtype=tf.float32, init=True),
}
_SQUARE: dict[str, Any] = {
    "MatrixBandPart": lambda x: tf.linalg.band_part(x, 1, 0),
    "MatrixDiag": lambda x: _RAW.MatrixDiag(diagonal=x),
    "MatrixDiagV2": lambda x: _RAW.MatrixDiagV2(diagonal=x, k=0, num_rows=-1, num_cols=-1, padding_value=0.0),
    "MatrixDiagV3": lambda x: tf.linalg.diag(x),
    "MatrixDiagV3, k 1": lambda x: tf.linalg.diag(x, k=1, padding_value=2.0),
    "MatrixDiagPart": lambda x: _RAW.MatrixDiagPart(input=x),
    "MatrixDiagPartV2": lambda x: _RAW.MatrixDiagPartV2(input=x, k=0, padding_value=0.0),
    "MatrixDiagPartV3": lambda x: tf.linalg.diag_part(x),
    "MatrixDiagPartV3, k -1": lambda x: tf.linalg.diag_part(x, k=-1),
    "MatrixSetDiag": lambda x: _RAW.MatrixSetDiag(input=x, diagonal=x[..., 0]),
    "MatrixSetDiagV2": lambda x: _RAW.MatrixSetDiagV2(input=x, diagonal=x[..., 0], k=0),
    "MatrixSetDiagV3": lambda x: tf.linalg.set_diag(x, x[..., 0]),
    "Diag": lambda x: x @ _RAW.Diag(diagonal=tf.constant([1.0, 2.0, 3.0])),
    "DiagPart": lambda x: x + _RAW.DiagPart(input=tf.constant([[1.0, 2.0], [3.0, 4.0]]))[1],
    "eye": lambda x: x + tf.eye(3),
    "trace": lambda x: tf.linalg.trace(x),
}
_PICTURES: dict[str, Any] = {
    "DepthToSpace": lambda x: tf.nn.depth_to_space(x, 2),
    "SpaceToDepth": lambda x: tf.nn.space_to_depth(x, 2),
    "SpaceToBatchND": lambda x: _there_and_back(x),
    "BatchToSpaceND": lambda x: _there_and_back(x, crops=[[0, 1], [1, 0]]),
    "ExtractImagePatches": lambda x: tf.image.extract_patches(x, [1, 2, 2, 1], [1, 1, 1, 1], [1, 1, 1, 1], "SAME"),
    "ResizeBilinear": lambda x: tf.image.resize(x, [7, 5]),
    "ResizeBilinear, corners": lambda x: _RAW.ResizeBilinear(images=x, size=[7, 5], align_corners=True),
    "ResizeBilinear, old": lambda x: _RAW.ResizeBilinear(images=x, size=[3, 9]),
    "ResizeNearestNeighbor": lambda x: tf.image.resize(x, [7, 5], "nearest"),
    "ResizeNearestNeighbor, corners": lambda x: _RAW.ResizeNearestNeighbor(images=x, size=[6, 9], align_corners=True),
    "ResizeNearestNeighbor, old": lambda x: _RAW.ResizeNearestNeighbor(images=x, size=[6, 9]),
    "ResizeNearestNeighbor, smaller": lambda x: tf.image.resize(x, [3, 3], "nearest"),
    "ResizeBicubic": lambda x: tf.image.resize(x, [7, 5], "bicubic"),
    "ResizeArea": lambda x: tf.image.resize(x, [7, 5], "area"),
    "CropAndResize": lambda x: _cropped(x),
    "AdjustContrastv2": lambda x: _RAW.AdjustContrastv2(images=x, contrast_factor=0.5),
    "ImageProjectiveTransformV3": lambda x: _RAW.ImageProjectiveTransformV3(
        images=x,
        transforms=tf.ones([1, 8]) * [1.0, 0.2, 0.0, 0.1, 1.0, 0.0, 0.0, 0.0],
        output_shape=[4, 4],
        fill_value=0.5,
        interpolation="BILINEAR",
    ),
}
_COLOURS: dict[str, Any] = {
    "AdjustHue": lambda x: _RAW.AdjustHue(images=x, delta=0.1),
    "AdjustSaturation": lambda x: _RAW.AdjustSaturation(images=x, scale=0.5),
    "RGBToHSV": lambda x: tf.image.rgb_to_hsv(x),
    "HSVToRGB": lambda x: tf.image.hsv_to_rgb(x),
    "rgb_to_grayscale": lambda x: tf.image.rgb_to_grayscale(x),
}
_FILTERS: dict[str, Any] = {
    "AvgPool": lambda x: tf.nn.avg_pool2d(x, 2, 1, "SAME"),
    "AvgPool, valid": lambda x: tf.nn.avg_pool2d(x, 3, 2, "VALID"),
    "MaxPool": lambda x: tf.nn.max_pool2d(x, 2, 1, "SAME"),
    "MaxPool, valid": lambda x: tf.nn.max_pool2d(x, 3, 2, "VALID"),
    "MaxPoolV2": lambda x: _RAW.MaxPoolV2(input=x, ksize=[1, 2, 2, 1], strides=[1, 1, 1, 1], padding="SAME"),
    "MaxPoolWithArgmax": lambda x: dict(zip("ab", tf.nn.max_pool_with_argmax(x, 2, 2, "SAME"), strict=True)),
    "AvgPool3D": lambda x: tf.nn.avg_pool3d(x[..., None], 2, 1, "SAME"),
    "MaxPool3D": lambda x: tf.nn.max_pool3d(x[..., None], 2, 1, "SAME"),
    "Dilation2D": lambda x: tf.nn.dilation2d(x, _FILTER[..., 0], [1, 1, 1, 1], "SAME", "NHWC", [1, 1, 1, 1]),
    "LRN": lambda x: tf.nn.local_response_normalization(x, 1),
    "Conv2D": lambda x: tf.nn.conv2d(x, _FILTER, 1, "SAME"),
    "Conv2D, valid": lambda x: tf.nn.conv2d(x, _FILTER, 2, "VALID"),
    "Conv2D, dilated": lambda x: tf.nn.conv2d(x, _FILTER, 1, "SAME", dilations=2),
    "Conv2D, atrous": lambda x: tf.nn.atrous_conv2d(x, _FILTER, 2, "VALID"),
    "Conv2D, explicit": lambda x: tf.nn.conv2d(x, _FILTER, 1, [[0, 0], [1, 0], [0, 1], [0, 0]]),
    "Conv1D": lambda x: tf.nn.conv1d(x[:, 0], _FILTER[0], 1, "SAME"),
    "DepthwiseConv2dNative": lambda x: tf.nn.depthwise_conv2d(x, _FILTER, [1, 1, 1, 1], "SAME"),
    "Conv2DBackpropInput": lambda x: tf.nn.conv2d_transpose(x, _BACK, _bigger(x), 2, "SAME"),
    "Conv2DBackpropFilter": lambda x: x + _of_filter(),
    "Conv3D": lambda x: tf.nn.conv3d(x[..., None], _FILTER3, [1, 1, 1, 1, 1], "SAME"),
    "Conv3DBackpropInputV2": lambda x: tf.nn.conv3d_transpose(x[..., None], _FILTER3, _deep(x), [1] * 5),
    "FusedBatchNorm": lambda x: _normalised(x, _RAW.FusedBatchNorm),
    "FusedBatchNormV2": lambda x: _normalised(x, _RAW.FusedBatchNormV2),
    "FusedBatchNormV3": lambda x: _normalised(x, _RAW.FusedBatchNormV3),
    "ExtractVolumePatches": lambda x: tf.extract_volume_patches(x[..., None], [1, 2, 2, 2, 1], [1, 1, 1, 1, 1], "SAME"),
}
_FILTER = tf.constant(np.random.default_rng(1).standard_normal((2, 2, 4, 3)), tf.float32)
_BACK = tf.constant(np.random.default_rng(2).standard_normal((2, 2, 3, 4)), tf.float32)
_FILTER3 = tf.constant(np.random.default_rng(3).standard_normal((2, 2, 2, 1, 1)), tf.float32)
_PICTURE = one(shape=(4, 4, 4))


def _there_and_back(x: tf.Tensor, crops: Any = ((0, 0), (0, 0))) -> tf.Tensor:
    apart = tf.space_to_batch(x, [2, 2], [[0, 0], [0, 0]])
    return tf.batch_to_space(apart * 2.0, [2, 2], crops)


def _cropped(x: tf.Tensor) -> tf.Tensor:
    boxes = tf.zeros([tf.shape(x)[0], 4]) + tf.constant([0.0, 0.0, 1.2, 0.5])
    return tf.image.crop_and_resize(x, boxes, tf.range(tf.shape(x)[0]), [3, 3])


def _of_filter() -> tf.Tensor:
    images, outputs = tf.ones([1, 4, 4, 4]), tf.ones([1, 4, 4, 3])
    gradient = _RAW.Conv2DBackpropFilter(
        input=images, filter_sizes=[2, 2, 4, 3], out_backprop=outputs, strides=[1, 1, 1, 1], padding="SAME"
    )
    return tf.reduce_sum(gradient)


def _bigger(x: tf.Tensor) -> tf.Tensor:
    return tf.stack([tf.shape(x)[0], 8, 8, 3])


def _deep(x: tf.Tensor) -> tf.Tensor:
    return tf.stack([tf.shape(x)[0], 4, 4, 4, 1])


def _normalised(x: tf.Tensor, operation: Any) -> tf.Tensor:
    ones = tf.ones([4])
    return operation(x=x, scale=ones * 2.0, offset=ones, mean=ones * 0.5, variance=ones * 0.25, is_training=False)[0]


def _gradual() -> dict[str, np.ndarray]:
    """Colours from 0 to 1, where hue and saturation are defined."""
    shares = np.float32([0.0, 1e-40, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])
    red, green, blue = np.meshgrid(shares, shares, shares)
    colours = np.stack([red.ravel(), green.ravel(), blue.ravel()], 1)
    return {"x": colours.reshape(-1, 2, 2, 3)}


OPERATIONS = [
    *(Operation(name, _GROUP, compute, one(shape=(4, 3))) for name, compute in _MOVING.items()),
    Operation("Transpose int64", _GROUP, _MOVING["Transpose"], one(tf.int64, (4, 3))),
    Operation("Pad int32", _GROUP, _MOVING["Pad"], one(tf.int32, (4, 3))),
    Operation("ConcatV2 bool", _GROUP, lambda x: tf.concat([x, ~x], -1), one(tf.bool)),
    *(Operation(name, _MATRICES, compute, one(shape=(3, 3))) for name, compute in _SQUARE.items()),
    Operation("Cross", _MATRICES, lambda x, y: tf.linalg.cross(x, y), two(shape=(3,))),
    *(Operation(name, _IMAGES, compute, _PICTURE) for name, compute in _PICTURES.items()),
    *(Operation(name, _IMAGES, compute, one(shape=(2, 2, 3)), _gradual()) for name, compute in _COLOURS.items()),
    *(Operation(name, "convolutions and pools", compute, _PICTURE) for name, compute in _FILTERS.items()),
    Operation("ResizeNearestNeighbor uint8", _IMAGES, _PICTURES["ResizeNearestNeighbor"], one(tf.uint8, (4, 4, 4))),
    Operation("MaxPool int32 by Max", _IMAGES, lambda x: tf.reduce_max(x, [1, 2]), one(tf.int32, (4, 4, 4))),
]
