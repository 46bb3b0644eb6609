"""Operations on each number by itself."""

from typing import Any

import numpy as np
import tensorflow as tf

from tests.sweep.operation import Operation, one, three, two

_RAW = tf.raw_ops
_OF_ONE = "functions of one number"
_OF_TWO = "functions of two numbers"
_ACTIVATIONS = "activations"

# Kinds whose only tensor is called x, of float32.
_PLAIN = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BesselI0", "BesselI0e", "BesselI1", "BesselI1e"),
    *("BesselJ0", "BesselJ1", "BesselK0", "BesselK0e", "BesselK1", "BesselK1e", "BesselY0", "BesselY1"),
    *("Ceil", "Cos", "Cosh", "Dawsn", "Digamma", "Erf", "Erfc", "Erfinv", "Exp", "Expint", "Expm1", "Floor"),
    *("FresnelCos", "FresnelSin", "Inv", "IsFinite", "IsInf", "IsNan", "Lgamma", "Log", "Log1p", "Ndtri", "Neg"),
    *("Reciprocal", "Rint", "Round", "Rsqrt", "Sigmoid", "Sign", "Sin", "Sinh", "Spence", "Sqrt", "Square"),
    *("Tan", "Tanh", "OnesLike", "ZerosLike", "DeepCopy"),
)
_FEATURES = ("Elu", "LeakyRelu", "Relu", "Relu6", "Selu", "Softplus", "Softsign")
_PASSING = ("Identity", "StopGradient", "PreventGradient", "Snapshot")
_GRADIENTS = {
    "EluGrad": ("gradients", "outputs"),
    "InvGrad": ("dy", "y"),
    "LeakyReluGrad": ("gradients", "features"),
    "ReciprocalGrad": ("dy", "y"),
    "Relu6Grad": ("gradients", "features"),
    "ReluGrad": ("gradients", "features"),
    "RsqrtGrad": ("dy", "y"),
    "SeluGrad": ("gradients", "outputs"),
    "SigmoidGrad": ("dy", "y"),
    "SoftplusGrad": ("gradients", "features"),
    "SoftsignGrad": ("gradients", "features"),
    "SqrtGrad": ("dy", "y"),
    "TanhGrad": ("dy", "y"),
}
_OF_PAIRS = (
    *("Add", "AddV2", "ApproximateEqual", "Atan2", "Div", "DivNoNan", "Equal", "FloorDiv", "FloorMod", "Greater"),
    *("GreaterEqual", "Less", "LessEqual", "Maximum", "Minimum", "Mod", "Mul", "MulNoNan", "NotEqual", "Pow"),
    *("RealDiv", "SquaredDifference", "Sub", "TruncateMod", "Xdivy", "Xlog1py", "Xlogy"),
)
_OF_INTEGERS = (
    *("Add", "AddV2", "Div", "Equal", "FloorDiv", "FloorMod", "Greater", "GreaterEqual", "Less", "LessEqual"),
    *("Maximum", "Minimum", "Mod", "Mul", "NotEqual", "SquaredDifference", "Sub", "TruncateDiv", "TruncateMod"),
    *("BitwiseAnd", "BitwiseOr", "BitwiseXor", "LeftShift", "RightShift"),
)
_ONE_INTEGER = ("Abs", "Invert", "Neg", "PopulationCount", "Relu", "Sign", "Square")
_INTEGERS = (tf.int32, tf.int64)
_DIVIDING = ("Div", "FloorDiv", "FloorMod", "Mod", "TruncateDiv", "TruncateMod")
_SHIFTING = ("LeftShift", "RightShift")


def _raw(kind: str, *names: str, **attributes: Any) -> Any:
    operation = getattr(_RAW, kind)
    return lambda **tensors: operation(**dict(zip(names, tensors.values(), strict=True)), **attributes)


def _integer_pairs(kind: str, dtype: tf.DType) -> Operation:
    """Divisors are not 0, which ends the process that divides, and shifts are those that a processor knows."""
    name = f"{kind} {dtype.name}"
    limits = np.iinfo(dtype.as_numpy_dtype)
    many = [0, 1, -1, 2, -2, 3, 7, -7, 8, 100, -100, 2**24 + 1, 2**31 - 1, -(2**31) + 1, 2**31, 2**32 + 2, 2**53 + 1]
    many = [v for v in (*many, limits.max, limits.min, limits.min + 1) if limits.min <= v <= limits.max]
    others = {_DIVIDING: [v for v in many if v not in (0, -1)], _SHIFTING: [0, 1, 2, 5, limits.bits - 1]}
    second = next((values for kinds, values in others.items() if kind in kinds), many)
    x, y = (grid.ravel() for grid in np.meshgrid(np.array(many, dtype.as_numpy_dtype), second))
    values = {"x": x[:, None], "y": y.astype(dtype.as_numpy_dtype)[:, None]}
    return Operation(name, _OF_TWO, _raw(kind, "x", "y"), two(dtype, (1,)), values)


def _logical() -> list[Operation]:
    pairs = [Operation(kind, _OF_TWO, _raw(kind, "x", "y"), two(tf.bool)) for kind in ("LogicalAnd", "LogicalOr")]
    return [*pairs, Operation("LogicalNot", _OF_ONE, _raw("LogicalNot", "x"), one(tf.bool))]


def _special() -> list[Operation]:
    """Those that are defined for some numbers only."""
    ramp = np.array([1e-30, 1e-5, 0.1, 0.5, 1.0, 1.5, 2.0, 7.5, 30.0, 1e3, 1e6, 1e30], np.float32)
    x, y = (grid.reshape(-1, 1) for grid in np.meshgrid(ramp, ramp))
    pairs = [
        Operation(kind, _OF_TWO, _raw(kind, *names), two(shape=(1,)), {"x": x, "y": y})
        for kind, names in {"Igamma": ("a", "x"), "Igammac": ("a", "x"), "IgammaGradA": ("a", "x")}.items()
    ]
    zeta = Operation("Zeta", _OF_TWO, _raw("Zeta", "x", "q"), two(shape=(1,)), {"x": x + np.float32(1), "y": y})
    orders = {"x": np.float32([[0], [1], [2], [3]]).repeat(3, 0), "y": np.float32([[0.5], [2.5], [30]] * 4)}
    polygamma = Operation("Polygamma", _OF_TWO, _raw("Polygamma", "a", "x"), two(shape=(1,)), orders)
    shares = np.linspace(0, 1, len(x), dtype=np.float32)[:, None]
    thirds = {"x": x, "y": y, "z": shares}
    betainc = Operation("Betainc", _OF_TWO, lambda x, y, z: tf.math.betainc(x, y, z), three(shape=(1,)), thirds)
    next_after = Operation("NextAfter", _OF_TWO, _raw("NextAfter", "x1", "x2"), two())
    return [*pairs, zeta, polygamma, betainc, next_after]


def _clips() -> list[Operation]:
    """Two operations that a converter may take for one."""
    bounds = ((0.0, 6.0), (-1.0, 1.0), (0.0, 1.0), (-6.0, 6.0), (0.5, 2.5), (-np.inf, 6.0))
    clips = [
        Operation(f"ClipByValue {low:g} to {high:g}", _ACTIVATIONS, _clip(low, high), one()) for low, high in bounds
    ]
    whole = [
        Operation(f"ClipByValue {low} to {high} {dtype.name}", _ACTIVATIONS, _clip(low, high), one(dtype))
        for dtype in _INTEGERS
        for low, high in ((0, 6), (-1, 1), (0, 1), (1, 7))
    ]
    rounded = Operation("Round and ClipByValue 0 to 6", _ACTIVATIONS, lambda x: _clip(0.0, 6.0)(x=tf.round(x)), one())
    limits = Operation("ClipByValue", _ACTIVATIONS, lambda x, y, z: tf.clip_by_value(x, y, z), three())
    return [*clips, *whole, rounded, limits]


def _clip(low: float, high: float) -> Any:
    return lambda x: tf.clip_by_value(x, low, high)


def _swish_like() -> list[Operation]:
    return [
        Operation("gelu", _ACTIVATIONS, lambda x: tf.nn.gelu(x), one()),
        Operation("gelu, approximate", _ACTIVATIONS, lambda x: tf.nn.gelu(x, approximate=True), one()),
        Operation("silu", _ACTIVATIONS, lambda x: x * tf.sigmoid(x), one()),
        Operation("hard swish", _ACTIVATIONS, lambda x: x * tf.nn.relu6(x + 3.0) / 6.0, one()),
        Operation("hard sigmoid", _ACTIVATIONS, lambda x: tf.clip_by_value(0.2 * x + 0.5, 0.0, 1.0), one()),
        Operation("mish", _ACTIVATIONS, lambda x: x * tf.tanh(tf.nn.softplus(x)), one()),
        Operation("crelu", _ACTIVATIONS, lambda x: tf.nn.crelu(x), one()),
        Operation("leaky by Maximum", _ACTIVATIONS, lambda x: tf.maximum(x, 0.1 * x), one()),
        Operation("parametric relu", _ACTIVATIONS, lambda x: tf.nn.relu(x) - 0.25 * tf.nn.relu(-x), one()),
        Operation("logsigmoid", _ACTIVATIONS, lambda x: tf.math.log_sigmoid(x), one()),
        Operation("LeakyRelu 1.5", _ACTIVATIONS, _raw("LeakyRelu", "features", alpha=1.5), one()),
    ]


OPERATIONS = [
    *(Operation(kind, _OF_ONE, _raw(kind, "x"), one()) for kind in _PLAIN),
    *(Operation(kind, _ACTIVATIONS, _raw(kind, "features"), one()) for kind in _FEATURES),
    *(Operation(kind, _OF_ONE, _raw(kind, "input"), one()) for kind in _PASSING),
    Operation("CheckNumerics", _OF_ONE, _raw("CheckNumerics", "tensor", message="no"), one()),
    Operation("IdentityN", _OF_ONE, lambda x: tf.raw_ops.IdentityN(input=[x, x + 1])[1], one()),
    *(Operation(kind, _OF_TWO, _raw(kind, *names), two()) for kind, names in _GRADIENTS.items()),
    *(Operation(kind, _OF_TWO, _raw(kind, "x", "y"), two()) for kind in _OF_PAIRS),
    *(_integer_pairs(kind, dtype) for kind in _OF_INTEGERS for dtype in _INTEGERS),
    *(
        Operation(f"{kind} {dtype.name}", _OF_ONE, _raw(kind, "features" if kind == "Relu" else "x"), one(dtype))
        for kind in _ONE_INTEGER
        for dtype in _INTEGERS
    ),
    Operation("AddN", _OF_TWO, lambda x, y: tf.add_n([x, y, x]), two()),
    Operation("AccumulateNV2", _OF_TWO, lambda x, y: tf.math.accumulate_n([x, y, x]), two()),
    *_logical(),
    *_special(),
    *_clips(),
    *_swish_like(),
]
