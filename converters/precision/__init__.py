"""From a float32 graph that has been compared with PyTorch to a smaller one, and what that costs."""
