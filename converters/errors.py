"""What can go wrong between a stranger's model and an entry.

In: nothing. Out: error kinds, sorted by who must act. This module must never import anything but the standard library.
"""

from __future__ import annotations


class ConverterError(Exception):
    """Root of every error of this package; `exit_code` is what `python -m converters` ends with."""

    exit_code = 1


class ModelRefused(ConverterError):
    """The publisher must act: the model is unsafe, incomplete, or of a kind we do not convert.

    Raised before any loader has opened a file, when the reason is safety.
    """

    exit_code = 3


class ConversionFailed(ConverterError):
    """The exporter could not convert a model that was safe to try; the message names the step and its cause."""

    exit_code = 4


class ParityFailed(ConverterError):
    """ONNX does not give PyTorch's answers within the bound; the message names output, difference and bound."""

    exit_code = 5


class EntryBroken(ConverterError):
    """An entry on disk is not what it says: a missing, extra, linked or changed file, or an unreadable `entry.json`."""

    exit_code = 6


class WeightsBroken(ConverterError):
    """Weights on disk are not what they say: a missing, strange, linked or changed file."""

    exit_code = 6
