"""Triton backend `predict`: texts, images, sounds or tensors in, what a model says of them out; one forward pass."""
