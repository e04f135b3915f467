"""Sessions over a scene: windows, encode, predict, stitch."""
