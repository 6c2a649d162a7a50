"""Data sets: splits of pictures with captions, readers of the field's formats, synthetic pedestrians."""
