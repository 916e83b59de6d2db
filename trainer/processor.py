"""What the processor or GPU of this machine supports."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import keras

_CPU_INFO: Final = Path("/proc/cpuinfo")
_BFLOAT16_FLAGS: Final = {"avx512_bf16", "amx_bf16"}
"""Instruction sets that multiply bfloat16 natively; without any of them it has to be emulated."""


def has_gpu() -> bool:
    """Whether JAX has a GPU to run on."""
    import jax  # initializes its backend

    return bool(jax.default_backend() == "gpu")


def supports_bfloat16() -> bool:
    """Whether bfloat16 is supported natively: with TensorFlow by the processor, with JAX by a GPU."""
    if keras.backend.backend() == "jax":
        return has_gpu()
    if not _CPU_INFO.exists():
        return False
    flags = next((line for line in _CPU_INFO.read_text().splitlines() if line.startswith("flags")), "")
    return not _BFLOAT16_FLAGS.isdisjoint(flags.split())
