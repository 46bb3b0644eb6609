"""Operations from one dtype to another: casts, bits, quantised numbers, complex ones, and texts."""

from typing import Any

import numpy as np
import tensorflow as tf

from tests.sweep.operation import Operation, one, two

_CASTS = "casts and bits"
_QUANTISED = "quantised numbers"
_COMPLEX = "complex numbers and transforms"
_RAW = tf.raw_ops

_DTYPES = (tf.float32, tf.float64, tf.float16, tf.bfloat16, tf.int8, tf.uint8, tf.int16, tf.uint16, tf.int32)
_DTYPES = (*_DTYPES, tf.uint32, tf.int64, tf.uint64, tf.bool)
_FROM_EACH = (tf.float32, tf.int32, tf.int64, tf.uint8, tf.bool)
_TO_EACH = (tf.float32, tf.int32, tf.int64)


def _cast(source: tf.DType, target: tf.DType, truncate: bool = False) -> Operation:
    """What the target cannot hold is left out: TensorFlow itself leaves that to the processor."""
    values = {}
    if source.is_floating and not (target.is_floating or target == tf.bool):
        limits = np.iinfo(target.as_numpy_dtype)
        some = np.float64([0, -0.0, 0.5, -0.5, 1.5, 2.5, -2.5, 0.999, 1e-40, 100.7, -100.7, 3e4, -3e4, 2e9, -2e9, 9e18])
        some = np.float64([0, 0.5, 1.5, 2.5, 99.9]) if source == tf.float16 else some
        values = {"x": some[(some >= limits.min) & (some < limits.max)].astype(source.as_numpy_dtype)[:, None]}
    name = f"Cast {source.name} to {target.name}"
    spec = one(source, (1,)) if values else one(source)
    return Operation(name, _CASTS, lambda x: _RAW.Cast(x=x, DstT=target, Truncate=truncate), spec, values)


def _casts() -> list[Operation]:
    pairs = [(source, target) for source in _FROM_EACH for target in _DTYPES if source != target]
    pairs += [(source, target) for target in _TO_EACH for source in _DTYPES if source != target]
    return [_cast(source, target) for source, target in dict.fromkeys(pairs)]


def _bits() -> list[Operation]:
    beyond = np.float32([np.nan, np.inf, -np.inf, 3e9, -3e9, 2.0**31, -(2.0**31), -(2.0**31) - 256, 1e20, -1e20])
    wrapped = {"x": beyond[:, None]}
    return [
        Operation("Cast float32 to int32, beyond", _CASTS, lambda x: tf.cast(x, tf.int32), one(shape=(1,)), wrapped),
        Operation("Cast float32 to int64, beyond", _CASTS, lambda x: tf.cast(x, tf.int64), one(shape=(1,)), wrapped),
        Operation("Cast float32 to uint8, beyond", _CASTS, lambda x: tf.cast(x, tf.uint8), one(shape=(1,)), wrapped),
        Operation("Bitcast float32 to int32", _CASTS, lambda x: tf.bitcast(x, tf.int32), one()),
        Operation("Bitcast int32 to float32", _CASTS, lambda x: tf.bitcast(x, tf.float32), one(tf.int32)),
        Operation("Bitcast int32 to uint32", _CASTS, lambda x: tf.bitcast(x, tf.uint32), one(tf.int32)),
        Operation("Bitcast int64 to uint8", _CASTS, lambda x: tf.bitcast(x, tf.uint8), one(tf.int64)),
        Operation("saturate_cast to uint8", _CASTS, lambda x: tf.saturate_cast(x, tf.uint8), one()),
        Operation("saturate_cast to int32", _CASTS, lambda x: tf.saturate_cast(x, tf.int32), one()),
        Operation("saturate_cast int64 to int32", _CASTS, lambda x: tf.saturate_cast(x, tf.int32), one(tf.int64)),
        Operation("scaled bytes", _CASTS, lambda x: tf.cast(x, tf.float32) / 255.0, one(tf.uint8, (8,))),
        Operation("Round then Cast", _CASTS, lambda x: _nearest(x), one()),
        Operation("StringToHashBucketFast", _CASTS, lambda x: tf.strings.to_hash_bucket_fast(x, 5), one(tf.string)),
        Operation("StringLength", _CASTS, lambda x: tf.strings.length(x), one(tf.string)),
        Operation("Equal string", _CASTS, lambda x: x == b"up", one(tf.string)),
    ]


def _nearest(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.round(tf.clip_by_value(x, -1e6, 1e6)), tf.int64)


def _small() -> list[Operation]:
    """Arithmetic on the dtypes that are seldom a policy's own."""
    found = []
    for dtype in (tf.int8, tf.uint8, tf.int16, tf.uint16, tf.uint32, tf.uint64, tf.float16, tf.float64):
        for kind in ("AddV2", "Mul", "Maximum", "Less"):
            operation = getattr(_RAW, kind)
            found.append(Operation(f"{kind} {dtype.name}", _CASTS, lambda x, y, f=operation: f(x=x, y=y), two(dtype)))
    return found


def _quantised() -> list[Operation]:
    channel = {"min": [-6.0, 0.0, -1.0, 0.5], "max": [6.0, 6.0, 1.0, 10.0]}
    inputs = one()
    arguments: dict[str, dict[str, Any]] = {
        "": {"min": -6.0, "max": 6.0},
        ", 0 to 1": {"min": 0.0, "max": 1.0},
        ", narrow": {"min": -1.0, "max": 1.0, "narrow_range": True},
        ", 4 bits": {"min": -2.0, "max": 2.0, "num_bits": 4},
        ", 16 bits": {"min": -2.0, "max": 2.0, "num_bits": 16},
    }
    fake = [
        Operation(f"FakeQuantWithMinMax{which}{n}", _QUANTISED, _fake(operation, a), inputs)
        for which, operation in {
            "Args": tf.quantization.fake_quant_with_min_max_args,
            "Vars": tf.quantization.fake_quant_with_min_max_vars,
        }.items()
        for n, a in arguments.items()
    ]
    per_channel = _fake(tf.quantization.fake_quant_with_min_max_vars_per_channel, channel)
    return [
        *fake,
        Operation("FakeQuantWithMinMaxVarsPerChannel", _QUANTISED, per_channel, inputs),
        Operation("QuantizeAndDequantizeV2", _QUANTISED, lambda x: _between(x, "QuantizeAndDequantizeV2"), inputs),
        Operation("QuantizeAndDequantizeV3", _QUANTISED, lambda x: _between(x, "QuantizeAndDequantizeV3", 8), inputs),
        Operation("QuantizeAndDequantizeV4", _QUANTISED, lambda x: _between(x, "QuantizeAndDequantizeV4"), inputs),
        Operation("QuantizeV2", _QUANTISED, lambda x: _quantised_and_back(x), inputs),
    ]


def _fake(operation: Any, arguments: dict[str, Any]) -> Any:
    return lambda x: operation(x, **arguments)


def _between(x: tf.Tensor, kind: str, bits: int = 8) -> tf.Tensor:
    return getattr(_RAW, kind)(input=x, input_min=-6.0, input_max=6.0, range_given=True, num_bits=bits)


def _quantised_and_back(x: tf.Tensor) -> tf.Tensor:
    output, low, high = tf.quantization.quantize(x, -6.0, 6.0, tf.qint8)
    return tf.quantization.dequantize(output, low, high)


def _complex() -> list[Operation]:
    four, pairs = one(shape=(4,)), two()
    signals: dict[str, Any] = {
        "FFT": lambda x: tf.signal.fft(tf.cast(x, tf.complex64)),
        "IFFT": lambda x: tf.signal.ifft(tf.cast(x, tf.complex64)),
        "RFFT": lambda x: tf.signal.rfft(x),
        "IRFFT": lambda x: tf.signal.irfft(tf.cast(x, tf.complex64)),
        "FFT2D": lambda x: tf.signal.fft2d(tf.cast(tf.reshape(x, [-1, 2, 2]), tf.complex64)),
        "RFFT2D": lambda x: tf.signal.rfft2d(tf.reshape(x, [-1, 2, 2])),
        "dct": lambda x: tf.signal.dct(x),
    }
    parts: dict[str, Any] = {
        "Complex": lambda x, y: tf.complex(x, y),
        "Real": lambda x, y: tf.math.real(tf.complex(x, y) * 2.0),
        "Imag": lambda x, y: tf.math.imag(tf.complex(x, y)),
        "Conj": lambda x, y: tf.math.conj(tf.complex(x, y)),
        "Angle": lambda x, y: tf.math.angle(tf.complex(x, y)),
        "ComplexAbs": lambda x, y: tf.abs(tf.complex(x, y)),
    }
    gentle = {"x": np.random.default_rng(9).standard_normal((40, 4)).astype(np.float32)}
    return [
        *(Operation(name, _COMPLEX, compute, four, gentle) for name, compute in signals.items()),
        *(Operation(name, _COMPLEX, compute, pairs) for name, compute in parts.items()),
    ]


OPERATIONS = [*_casts(), *_bits(), *_small(), *_quantised(), *_complex()]
