"""The only reader of model files: formats stay in here.

Everybody else calls `open_model` (`open.py`) and asks the `ModelFiles` (`files.py`) it returns for
config, tensors, tokenizer, chat templates, generation defaults and digest. A new format is one
class with these methods and a line in `open_model`. No torch, no web.
"""
