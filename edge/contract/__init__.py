"""The code shared by trainer and edge: labels, cropping, quantization, and the bundle that contains a model.

It only computes and reads files. It uses no camera and no network, and the TFLite interpreter is passed in.
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
