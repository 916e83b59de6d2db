"""Conversion between real numbers and the integers of a quantized tensor: real = scale * (integer - zero_point).

This is TFLite's quantization scheme (https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TensorFormat:
    """How a tensor of the model stores real numbers.

    Attributes:
        dtype: float32, int8 or uint8.
        scale: Difference in real value between two adjacent integers; 0 for float32.
        zero_point: The integer that represents 0.
    """

    dtype: np.dtype[Any]
    scale: float
    zero_point: int

    @classmethod
    def of(cls, details: Mapping[str, Any]) -> Self:
        """Returns the format of a tensor from the interpreter's details."""
        scale, zero_point = details["quantization"]
        return cls(np.dtype(details["dtype"]), float(scale), int(zero_point))

    def encode(self, real: NDArray[np.float32]) -> NDArray[Any]:
        """Converts real numbers to the tensor's type, rounding to nearest and clipping to its range."""
        if self.dtype.kind == "f":
            return real.astype(self.dtype)
        limits = np.iinfo(self.dtype)
        integers = np.rint(real / self.scale) + self.zero_point
        return np.asarray(np.clip(integers, limits.min, limits.max), self.dtype)

    def decode(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Converts values of the tensor to real numbers, float32."""
        if self.dtype.kind == "f":
            return stored.astype(np.float32)
        return (stored.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale)
