"""TensorRT: shapes to build for, plans built ahead of time, and what ties a plan to its entry.."""
