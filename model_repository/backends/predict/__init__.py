"""Triton backend `predict`: texts in, embeddings, labels or answers out; one forward pass, no tokens made."""
