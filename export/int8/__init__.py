"""INT8 graphs: calibration, quantisation and the layers that stay in FP32."""
