"""Pickles of public data sets and checkpoints, read without running anything.

A pickle is a program: it may name any callable of any installed module and call it. Here it may name what plain
containers and numpy arrays need, and even numpy is kept out: its own loading trusts the sizes and types that a file
claims. Arrays and their types are rebuilt by small stand-ins that check first. Everything else is refused before it is
imported. Protocol-2 pickles of Python 2 are understood (their byte strings become latin-1 text).
"""

from __future__ import annotations

import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terraprompt.errors import PickleRefusedError

__all__ = ["PickledArray", "load_pickle"]

_PLAIN = "biufSU"


class _Type:
    """Stands in for ``numpy.dtype``: plain numbers and text only."""

    __slots__ = ("dtype",)

    def __init__(self, code: str, *_: Any) -> None:
        self.dtype = np.dtype(str(code))
        if self.dtype.kind not in _PLAIN:
            raise pickle.UnpicklingError(f"an array of {code}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, subtype, names, fields, *_ = state
        if subtype is not None or names is not None or fields is not None:
            raise pickle.UnpicklingError("an array of records")
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class PickledArray:
    """An array of a pickle; ``numpy.asarray`` takes it."""

    __slots__ = ("_array",)

    def __init__(self) -> None:
        self._array: NDArray[Any] = np.zeros(0, np.int8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, data = state
        dtype, raw = _plain(kind), _bytes(data)
        if math.prod(shape) * dtype.itemsize != len(raw) or any(side < 0 for side in shape):
            raise pickle.UnpicklingError("an array whose bytes do not fill its shape")
        self._array = np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self._array, dtype)


class _ArrayClass:
    """Stands in for ``numpy.ndarray`` where a pickle names the class to rebuild."""

    __slots__ = ()


def _rebuild(kind: type, *_: Any) -> PickledArray:
    if kind is not _ArrayClass:
        raise pickle.UnpicklingError("an array that is not a plain one")
    return PickledArray()


def _scalar(kind: _Type, data: bytes | str) -> Any:
    dtype, raw = _plain(kind), _bytes(data)
    if len(raw) != dtype.itemsize:
        raise pickle.UnpicklingError("a scalar that does not fit its type")
    return np.frombuffer(raw, dtype)[0].item()


def _from_buffer(data: bytes, kind: _Type, shape: tuple[int, ...], order: str, *_: Any) -> PickledArray:
    """How protocol 5 writes arrays."""
    array = PickledArray()
    array.__setstate__((1, shape, kind, order == "F", data))
    return array


def _bytes(data: Any) -> bytes:
    """Python 2's byte strings come as latin-1 text."""
    if isinstance(data, str):
        return data.encode("latin1")
    if not isinstance(data, bytes | bytearray):
        raise pickle.UnpicklingError("an array of objects")
    return bytes(data)


def _plain(kind: Any) -> np.dtype[Any]:
    if not isinstance(kind, _Type):
        raise pickle.UnpicklingError("an array without a type")
    return kind.dtype


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How Python 3 writes bytes into protocol-2 pickles; other codecs are not needed and not looked up."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes coded as {encoding}")
    return text.encode("latin1")


_STAND_INS: Mapping[str, Any] = {
    "multiarray._reconstruct": _rebuild,
    "multiarray.scalar": _scalar,
    "numeric._frombuffer": _from_buffer,
}
_HARMLESS: Mapping[tuple[str, str], Any] = MappingProxyType(
    {
        **{
            (f"numpy.{core}.{name.partition('.')[0]}", name.partition(".")[2]): call
            for core in ("core", "_core")
            for name, call in _STAND_INS.items()
        },
        ("numpy", "ndarray"): _ArrayClass,
        ("numpy", "dtype"): _Type,
        ("_codecs", "encode"): _encode,
        ("collections", "OrderedDict"): OrderedDict,
        **{(module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in (set, frozenset)},
    }
)


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _HARMLESS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which plain data never needs") from None

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to something outside itself")


def load_pickle(path: Path) -> Any:
    """Containers, numbers and text of a pickle; arrays as :class:`PickledArray`.

    Raises:
        PickleRefusedError: missing, damaged, or it names anything else; nothing of it was run.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise PickleRefusedError("The file is missing.", received=path) from None
    except OSError as error:
        raise PickleRefusedError(f"The file cannot be read ({error}).", received=path) from None
    try:
        return _Restricted(io.BytesIO(data), encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise PickleRefusedError(f"The pickle is refused: {error}.", received=path) from None
    # What a damaged pickle raises is not a closed list: it builds objects from whatever bytes come.
    except (EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, MemoryError) as error:
        raise PickleRefusedError(f"The pickle is damaged ({error!r}).", received=path) from None
