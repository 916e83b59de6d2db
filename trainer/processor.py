"""What this machine's processor is good at."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_CPU_INFO: Final = Path("/proc/cpuinfo")
_BFLOAT16_FLAGS: Final = {"avx512_bf16", "amx_bf16"}
"""Without one of these instruction sets, oneDNN emulates bfloat16 or TensorFlow computes it element by element."""


def computes_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself, which makes training about one and a half times as fast."""
    if not _CPU_INFO.exists():
        return False
    flags = next((line for line in _CPU_INFO.read_text().splitlines() if line.startswith("flags")), "")
    return not _BFLOAT16_FLAGS.isdisjoint(flags.split())
