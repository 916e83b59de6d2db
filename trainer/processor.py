"""What this machine's processor or GPU is good at."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import keras

_CPU_INFO: Final = Path("/proc/cpuinfo")
_BFLOAT16_FLAGS: Final = {"avx512_bf16", "amx_bf16"}
"""The instruction sets that multiply bfloat16; without one of them it has to be emulated."""


def has_gpu() -> bool:
    """Whether JAX computes on a GPU here."""
    import jax  # brings its backend

    return bool(jax.default_backend() == "gpu")


def computes_bfloat16() -> bool:
    """Whether what computes here multiplies bfloat16 itself: with TensorFlow the processor, with JAX the GPU."""
    if keras.backend.backend() == "jax":
        return has_gpu()
    if not _CPU_INFO.exists():
        return False
    flags = next((line for line in _CPU_INFO.read_text().splitlines() if line.startswith("flags")), "")
    return not _BFLOAT16_FLAGS.isdisjoint(flags.split())
