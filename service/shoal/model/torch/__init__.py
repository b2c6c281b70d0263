"""The networks in plain PyTorch: the readable reference, and what computes on a GPU."""
