"""Mixed precision: FP32 graphs become FP16 where FP16 holds.

The pass is our own, on onnx and numpy alone, and not the AutoCast of NVIDIA's ModelOpt. ModelOpt needs PyTorch, which
the device that builds engines does not have, and its ``onnx`` extra pins versions: with ModelOpt 0.47, onnx ~= 1.21
and ONNX Runtime ~= 1.24. By default AutoCast also puts LayerNorm and the L2 normalisation in FP16; both stay in FP32
here.
"""
