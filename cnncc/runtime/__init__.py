"""What runs a compiled model. Nothing here imports a compiler, torch or onnx."""
