"""Runs the emotion model on face crops, identically in the trainer's evaluation and on the device."""

from __future__ import annotations

from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edge.contract.errors import BundleCorrupt
from edge.contract.intensity import normalized
from edge.contract.manifest import Calibration, Manifest
from edge.contract.quantization import TensorFormat

_MIN_PROBABILITY: Final = np.float32(0.1)
"""Lower bound of a probability after inverting label smoothing, relative to s / C; keeps its logarithm finite."""


class Interpreter(Protocol):
    """The interface of a TFLite interpreter, from whichever package, with allocated tensors."""

    def get_input_details(self) -> list[dict[str, Any]]: ...
    def get_output_details(self) -> list[dict[str, Any]]: ...
    def set_tensor(self, index: int, value: NDArray[Any]) -> None: ...
    def get_tensor(self, index: int) -> NDArray[Any]: ...
    def invoke(self) -> None: ...


class EmotionModel:
    """The emotion model of a bundle.

    Args:
        interpreter: Interpreter that has loaded the bundle's .tflite file.
        manifest: Manifest of the same bundle.

    Raises:
        BundleCorrupt: The model's tensors do not match the manifest.
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
        """Returns the value in the input tensor of each of the 256 gray levels."""
        pixels = np.arange(256, dtype=np.float32)
        rule = self._manifest.preprocessing
        return stored_as.encode((pixels - np.float32(rule.offset)) / np.float32(rule.scale))

    @property
    def output_step(self) -> float:
        """Quantization step of the output of an integer model; 0 for a float model."""
        return self._stored_as.scale

    def logits(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns calibrated logits float32 (N, labels) for uint8 (N, height, width) gray crops; N may be 0."""
        return calibrated(self.outputs(crops), self._manifest.calibration)

    def outputs(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns the uncalibrated logits, as computed by the network; shapes as in `logits`."""
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
    """Returns calibrated logits for the network's uncalibrated ones; both float32 (N, labels)."""
    return _without_smoothing(outputs, calibration.label_smoothing) / np.float32(calibration.temperature)


def _without_smoothing(logits: NDArray[np.float32], label_smoothing: float) -> NDArray[np.float32]:
    """Inverts the effect of label smoothing on a network's predictions.

    The training targets were (1 - s) p + s / C (Szegedy et al. 2016, arXiv:1512.00567), and so are the predicted
    probabilities: every class at least s / C. A single temperature cannot correct that.

    Args:
        logits: float32 (N, C).
        label_smoothing: s, 0 to less than 1.

    Returns:
        float32 (N, C): log(p - s / C) of each predicted probability p, with p - s / C bounded from below.
    """
    if label_smoothing == 0.0:
        return logits
    spread = np.float32(label_smoothing / logits.shape[-1])
    return np.asarray(np.log(np.maximum(softmax(logits) - spread, _MIN_PROBABILITY * spread)), np.float32)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns probabilities float32 (..., labels) that sum to 1 over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)
