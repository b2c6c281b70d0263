"""quality.json of a model folder: what a smaller number format was measured to cost.

Optional. Shape: {"int8": {"<metric>": {"full": x, "int8": y}, ...}}.
"""

import json
from math import isfinite
from pathlib import Path
from typing import Any

from shoal.errors import ModelFolderError

QualityLoss = dict[str, dict[str, float]]


def read_quality_loss(folder: Path, quantization: str) -> QualityLoss | None:
    """Metric -> {"full": value, quantization: value}; None where nothing is documented. Raises
    ModelFolderError for a file of another shape."""
    path = folder / "quality.json"
    if not path.is_file():
        return None
    try:
        documented = json.loads(path.read_text(encoding="utf-8"))
        metrics = documented.get(quantization)
        return None if metrics is None else _checked(metrics, ("full", quantization))
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise ModelFolderError(
            f'{folder.name}/quality.json is not {{"{quantization}": {{metric: '
            f'{{"full": number, "{quantization}": number}}}}}}'
        ) from error


def _checked(metrics: Any, columns: tuple[str, str]) -> QualityLoss:
    found = {
        str(metric): {column: float(values[column]) for column in columns}
        for metric, values in metrics.items()
    }
    if not all(isfinite(value) for values in found.values() for value in values.values()):
        raise ValueError("a number is not finite")
    return found
