"""From a trained checkpoint to a verified bundle of ONNX graphs; its modules import torch and onnx, this one nothing."""
