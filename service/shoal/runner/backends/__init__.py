"""What computes a step: plain PyTorch, or the native CPU library."""
