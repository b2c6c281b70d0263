"""What runs of these tests have in common."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def one_format(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which one is faster is measured, and may differ between two runs."""
    monkeypatch.setattr("shoal.train.finetune.compute.fastest_dtype", lambda device: torch.float32)
