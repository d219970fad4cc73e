"""From a loaded PyTorch model to ONNX graphs, by one of several routes."""
