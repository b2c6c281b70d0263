"""Small files beside a model that is one file: NAME.generation_config.json and NAME.quality.json
say of NAME.gguf what a model folder's generation_config.json and quality.json say.

Standard library only, for `shoal pull`.
"""

from pathlib import Path

GENERATION_CONFIG = "generation_config.json"
QUALITY = "quality.json"
SIDECARS = (GENERATION_CONFIG, QUALITY)


def sidecar(path: Path, name: str) -> Path:
    """Where the sidecar of a model file lies; `name` is one of `SIDECARS`."""
    return path.with_name(f"{path.stem}.{name}")
