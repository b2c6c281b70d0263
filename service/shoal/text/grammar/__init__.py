"""Structured output: what an answer must look like, as a grammar that the engine can follow.

`spec.py` says what may be asked for, `compile.py` checks it within limits and gives the grammar's
text. The grammars are those of llguidance, which only `worker.py`, a process of its own, imports.
"""
