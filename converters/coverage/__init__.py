"""The coverage table: every model type that transformers knows, made tiny, converted, served, and compared with PyTorch."""
