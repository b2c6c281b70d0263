"""What a smaller number format was measured to cost a model, as its files document it.

Optional. Shape: {"int8": {"<metric>": {"full": x, "int8": y}, ...}, "int4": ...}.
"""

from math import isfinite
from typing import Any

from shoal.checkpoint.files import ModelFiles
from shoal.errors import ModelFolderError

QualityLoss = dict[str, dict[str, float]]


def read_quality_loss(files: ModelFiles, quantization: str) -> QualityLoss | None:
    """Metric -> {"full": value, quantization: value}; None where nothing is documented. Raises
    ModelFolderError for a file of another shape."""
    if (documented := files.quality) is None:
        return None
    try:
        metrics = documented.get(quantization)
        return None if metrics is None else _checked(metrics, ("full", quantization))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ModelFolderError(
            f'{files.name}/quality.json is not {{"{quantization}": {{metric: '
            f'{{"full": number, "{quantization}": number}}}}}}'
        ) from error


def _checked(metrics: Any, columns: tuple[str, str]) -> QualityLoss:
    losses = {
        str(metric): {column: float(values[column]) for column in columns}
        for metric, values in metrics.items()
    }
    if not all(isfinite(value) for values in losses.values() for value in values.values()):
        raise ValueError("a number is not finite")
    return losses
