"""Networks only: checked configuration, weights from safetensors, one file per family.

Knows nothing of batching policy or scheduling. Read `llama.py` top to bottom.
"""
