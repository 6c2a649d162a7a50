"""A bundle as a model repository of NVIDIA Triton, and its golden vectors replayed by a server."""
