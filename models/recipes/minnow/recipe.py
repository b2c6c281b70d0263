"""What minnow's recipe adds to the trainer: its data formats and its initial weights."""

from __future__ import annotations

from shoal.train.hooks import RecipeHooks

from ..common.warm_start import warm_start
from .readers import READERS

HOOKS = RecipeHooks(readers=READERS, initialize=warm_start)
