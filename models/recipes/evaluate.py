"""The figures of the model cards, measured on held-out data through a running server.

From the root of the repository:
`python -m models.recipes.evaluate --url http://127.0.0.1:8000 --data ../shared/data/corpora`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .common.evaluation import EvaluationOptions, connect
from .minnow.evaluate import evaluate_minnow
from .pilotfish.evaluate import evaluate_pilotfish


def evaluate(options: EvaluationOptions) -> dict[str, Any]:
    """The figures of those of the two models that the server has."""
    with connect(options) as client:
        models = client.get("/v1/models").raise_for_status().json()["data"]
    served = {model["id"] for model in models}
    figures: dict[str, Any] = {}
    if "pilotfish" in served:
        figures |= evaluate_pilotfish(options)
    if "minnow" in served:
        figures |= evaluate_minnow(options)
    return figures


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data files")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of the models")
    parser.add_argument("--api-key", default=None)
    parser.add_argument("--limit", type=int, help="cases or texts of each held-out set; else all")
    parser.add_argument("--concurrency", type=int, default=8, help="requests at a time")
    parser.add_argument(
        "--schema", action="store_true", help="also SNIPS with a schema: slot values are copied"
    )
    parser.add_argument("--samples", type=Path, help="write 20 stories to this JSON file, uncut")
    options = EvaluationOptions(**vars(parser.parse_args()))
    print(json.dumps(evaluate(options), indent=2))


if __name__ == "__main__":
    main()
