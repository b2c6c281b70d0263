"""Networks only: what a model is made of, and the same in PyTorch.

`spec.py` describes any decoder; `architectures/` reads a family's config into such a description
and names its weights; `registry.py` finds the family, `weights.py` the weights; `torch/` executes
a description. Knows nothing of batching policy or scheduling.
"""
