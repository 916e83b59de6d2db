"""What trainer and edge share: labels, cropping, quantization, and the bundle that carries a model.

It computes and reads files, and does nothing else: no camera, no network, and no TFLite runtime, for an interpreter is
handed in.
"""

from edge.contract.bundle import Bundle, load_bundle
from edge.contract.errors import BundleCorrupt, BundleError, BundleIncompatible, BundleMissing, UserError
from edge.contract.inference import EmotionModel, Interpreter, calibrated, softmax
from edge.contract.labels import EMOTIONS, UNKNOWN
from edge.contract.manifest import Framing, Manifest

__all__ = [
    "EMOTIONS",
    "UNKNOWN",
    "Bundle",
    "BundleCorrupt",
    "BundleError",
    "BundleIncompatible",
    "BundleMissing",
    "EmotionModel",
    "Framing",
    "Interpreter",
    "Manifest",
    "UserError",
    "calibrated",
    "load_bundle",
    "softmax",
]
