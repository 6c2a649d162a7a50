"""One boundary per file format: what is read there is bounded and typed, or an error with a sentence.

A file may be damaged, cut short, or made by somebody who means harm. No other module of the library reads JSON,
NumPy's archives, ONNX graphs, SQLite or `tokenizers` files by itself (`tests/project/test_architecture.py`). Where
the meaning of a file is not known here, its problem is a `ValueError` whose text ends the sentence of who knows it.
"""
