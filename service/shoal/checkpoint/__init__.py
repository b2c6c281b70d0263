"""The only reader of model files: formats stay in here.

Everybody else asks a `ModelFiles` (`files.py`) for config, tensors, tokenizer, chat templates,
generation defaults and digest. No torch, no web.
"""
