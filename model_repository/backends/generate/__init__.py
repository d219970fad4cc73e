"""Triton backend `generate`: a prompt in, tokens and their text out."""
