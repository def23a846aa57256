"""Models in ONNX: a forward that can be exported, and the file that is written of it."""
