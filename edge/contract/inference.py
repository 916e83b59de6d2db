"""Runs the emotion model on face crops, the same way in the trainer's evaluation and on the device."""

from __future__ import annotations

from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edge.contract.errors import BundleCorrupt
from edge.contract.intensity import normalized
from edge.contract.manifest import Calibration, Manifest
from edge.contract.quantization import TensorFormat

_LEAST_REST: Final = np.float32(0.1)
"""What is left of a probability that smoothing alone explains, as a share of the latter: its logarithm is finite."""


class Interpreter(Protocol):
    """What is used of a TFLite interpreter, whichever package it comes from; its tensors are allocated."""

    def get_input_details(self) -> list[dict[str, Any]]: ...
    def get_output_details(self) -> list[dict[str, Any]]: ...
    def set_tensor(self, index: int, value: NDArray[Any]) -> None: ...
    def get_tensor(self, index: int) -> NDArray[Any]: ...
    def invoke(self) -> None: ...


class EmotionModel:
    """The model of a bundle behind an interpreter.

    Args:
        interpreter: Holds the bundle's .tflite file.
        manifest: Of the same bundle.

    Raises:
        BundleCorrupt: The file's tensors are not what the manifest says.
    """

    def __init__(self, interpreter: Interpreter, manifest: Manifest) -> None:
        self._interpreter = interpreter
        self._manifest = manifest
        (input_details,), (output_details,) = interpreter.get_input_details(), interpreter.get_output_details()
        self._require_shape(input_details, (1, manifest.input.height_px, manifest.input.width_px, 1))
        self._require_shape(output_details, (1, len(manifest.labels)))
        self._input, self._output = input_details["index"], output_details["index"]
        self._stored_as = TensorFormat.of(output_details)
        self._table = self._input_table(TensorFormat.of(input_details))

    def _require_shape(self, details: dict[str, Any], expected: tuple[int, ...]) -> None:
        found = tuple(int(n) for n in details["shape"])
        if found != expected:
            raise BundleCorrupt(f"tensor {details['name']} has shape {found}, the manifest says {expected}",
                                where=self._manifest.model, remedy="Export the bundle again")  # fmt: skip

    def _input_table(self, stored_as: TensorFormat) -> NDArray[Any]:
        """What each of the 256 gray levels becomes in the input tensor."""
        pixels = np.arange(256, dtype=np.float32)
        rule = self._manifest.preprocessing
        return stored_as.encode((pixels - np.float32(rule.offset)) / np.float32(rule.scale))

    @property
    def output_step(self) -> float:
        """Least difference between two outputs of an integer model; 0 for a float one."""
        return self._stored_as.scale

    def logits(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Calibrated logits float32 (N, labels) for uint8 (N, height, width) gray crops; N may be 0."""
        return calibrated(self.outputs(crops), self._manifest.calibration)

    def outputs(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The same as the network gives them, not calibrated."""
        outputs = np.empty((len(crops), len(self._manifest.labels)), np.float32)
        intensity = self._manifest.preprocessing.intensity
        for crop, output in zip(crops, outputs, strict=True):
            pixels = crop if intensity is None else normalized(crop, intensity)
            self._interpreter.set_tensor(self._input, self._table[pixels][np.newaxis, :, :, np.newaxis])
            self._interpreter.invoke()
            output[:] = self._stored_as.decode(self._interpreter.get_tensor(self._output))[0]
        if self._manifest.output.kind == "probabilities":
            outputs = np.log(np.maximum(outputs, np.float32(1e-6)))
        return outputs


def calibrated(outputs: NDArray[np.float32], calibration: Calibration) -> NDArray[np.float32]:
    """Logits whose softmax can be believed, from the network's own; both float32 (N, labels)."""
    return _without_smoothing(outputs, calibration.label_smoothing) / np.float32(calibration.temperature)


def _without_smoothing(logits: NDArray[np.float32], label_smoothing: float) -> NDArray[np.float32]:
    """Takes back the smoothing of the labels that a network learned from.

    Its targets were (1 - s) p + s / C (Szegedy et al. 2016, arXiv:1512.00567), and so are the probabilities that it
    answers with: no class under s / C, and none over 1 - s. No single temperature makes up for that.

    Args:
        logits: float32 (N, C).
        label_smoothing: s, 0 to less than 1.

    Returns:
        float32 (N, C): the logarithms of the probabilities less s / C each.
    """
    if label_smoothing == 0.0:
        return logits
    spread = np.float32(label_smoothing / logits.shape[-1])
    return np.asarray(np.log(np.maximum(softmax(logits) - spread, _LEAST_REST * spread)), np.float32)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities float32 (..., labels) that sum to 1 over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)
