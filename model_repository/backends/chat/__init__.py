"""Conversations as prompts: by a model's own template, in a process of its own, or by ours."""
