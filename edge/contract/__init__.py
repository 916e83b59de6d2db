"""What trainer and edge share: labels, preprocessing, quantization and the bundle that carries a model."""

from edge.contract.labels import EMOTIONS, UNKNOWN

__all__ = ["EMOTIONS", "UNKNOWN"]
