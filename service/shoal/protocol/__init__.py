"""Data that crosses a border. Read this folder first.

Plain immutable records and the codec for the engine link. Knows nothing of web, torch,
scheduling or text; uses the standard library and msgspec only.
"""
