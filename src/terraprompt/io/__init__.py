"""Files: atomic writes, restricted unpickling, run-length masks, progress."""
