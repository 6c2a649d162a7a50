"""The sections of `tbps_infer.benchmarks.device_check`: each module has ``facts``, which yields what it finds out."""
