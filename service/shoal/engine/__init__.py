"""Decides what to compute. Integers only: no tensors, sockets (but `process.py`) or text.

Read `core.py` first: a step is plan, run, apply.
"""
