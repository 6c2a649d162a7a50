"""TensorRT engines, from 10.3 to 11 and TensorRT for RTX, built and run by one code path.

Importing any module here needs numpy alone; TensorRT and CUDA are imported when something is opened.
"""
