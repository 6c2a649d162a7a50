"""From a trained checkpoint to a verified bundle of ONNX graphs; importing this alone needs no torch and no onnx."""
