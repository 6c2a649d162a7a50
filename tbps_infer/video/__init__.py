"""Videos and frames of cameras: decoding, detecting, tracking, and the best crops of each person who walks by."""
