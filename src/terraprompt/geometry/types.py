"""Types of boxes, sizes and arrays, each named once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from terraprompt.prompt import Box

__all__ = ["Bools", "Box", "Ints", "Logits", "Mask", "Size"]

#: (height, width) in pixels.
Size = tuple[int, int]
#: uint8 (height, width): 1 target, 0 not; 255 nodata where there can be any.
Mask = NDArray[np.uint8]
#: float32 (height, width).
Logits = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
