"""How entries of the table are made."""

from __future__ import annotations

from typing import Any

import schuss as s
from schuss.graph import Handle


class Unsupported(Exception):
    """This sample asks for something that is not offered here, on purpose."""


def no(reason: str) -> Any:
    raise Unsupported(reason)


def plain(f: Any) -> Any:
    """dim, keepdim, input, other as they are called here; `out` is not offered."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if kwargs.pop("out", None) is not None:
            no("out=")
        for theirs, ours in (("dim", "axis"), ("keepdim", "keepdims"), ("dims", "axis")):
            if theirs in kwargs:
                kwargs[ours] = kwargs.pop(theirs)
        kwargs.pop("generator", None)
        for name in ("layout", "pin_memory", "memory_format", "non_blocking"):
            kwargs.pop(name, None)
        if kwargs.get("device") is not None:
            kwargs["device"] = str(kwargs["device"])
        return f(*args, **kwargs)

    return call


TABLE: dict[str, Any] = {}


def entry(*names: str) -> Any:
    def register(f: Any) -> Any:
        for name in names:
            TABLE[name] = f
        return f

    return register


def tensor(x: Any) -> Any:
    return x if isinstance(x, Handle) else s.asarray(x)


def needs_axes(x: Any) -> None:
    if x.ndim == 0:
        no("an axis of a scalar")
