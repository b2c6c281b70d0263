"""Logits to tokens: logits processors, truncation, the draw. Knows arrays, no model and no batch.

Read `sampler.py` first; a new option is one file in `processors/` and its line in the registry.
"""
