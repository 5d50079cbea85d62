"""Pickles of numpy arrays, as detectron2 writes weights and proposals, read without running code."""

from __future__ import annotations

import io
import pickle
import re
from typing import Any, ClassVar

import numpy as np

_NUMBERS = re.compile("[fiubc][0-9]{1,2}")  # codes of numpy's types


def load_arrays(content: bytes) -> Any:
    """The arrays and plain values of a pickle, in dicts and lists.

    Raises:
        Exception: of any kind, as damaged content leads to; pickle.UnpicklingError for what is something else.
    """
    return _with_arrays(_ArraysOnly(io.BytesIO(content), encoding="latin1").load())


def _refuse_bytearrays(unpickler: pickle._Unpickler) -> None:
    raise pickle.UnpicklingError("a bytearray is in it, whose size may be any")


class _Kind:
    """Stands for a numpy.dtype while a pickle is read: numpy's own crashes on states that it did not write."""

    def __init__(self, code: str, *_: Any) -> None:
        if not _NUMBERS.fullmatch(str(code)):
            raise pickle.UnpicklingError(f"an array of {code!r} is in it, not of numbers")
        self.code, self.order = str(code), "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1] if state[1] in ("<", ">", "|") else "="

    def array(self, content: Any, shape: Any, in_fortran_order: bool = False) -> np.ndarray:
        flat = np.frombuffer(content, np.dtype(self.order + self.code)).copy()  # writable
        return flat.reshape(shape, order="F" if in_fortran_order else "C")


class _Array:
    """Stands for an array likewise; `value` is the array."""

    def __init__(self, *_: Any) -> None:
        self.value = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, in_fortran_order, content = state
        self.value = kind.array(content, shape, in_fortran_order)


def _with_arrays(content: Any) -> Any:
    """The values that were read, with the arrays for what stands for them."""
    if isinstance(content, dict):
        return {key: _with_arrays(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(map(_with_arrays, content))
    return content.value if isinstance(content, _Array) else content


class _ArraysOnly(pickle._Unpickler):
    """Reads dicts and lists of numpy arrays and plain values, and refuses everything else.

    Python's own unpickler: the C one takes memory by numbers in the file, such as 6 GB for nine bytes.
    """

    dispatch: ClassVar = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: _refuse_bytearrays}

    ALLOWED = {
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("collections", "OrderedDict"),
        ("_codecs", "encode"),
        ("detectron2.structures.boxes", "BoxMode"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not an array")
        own = {
            "_reconstruct": _Array,
            "ndarray": _Array,
            "dtype": _Kind,
            "scalar": lambda kind, raw: kind.array(raw, ()),
            "BoxMode": int,
        }
        return own[name] if name in own else super().find_class(module, name)
