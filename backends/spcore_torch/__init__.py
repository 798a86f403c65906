"""Training and running on PyTorch's own APIs."""
