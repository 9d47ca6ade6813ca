"""Refusing what does not fit into memory before the system kills the process for it."""

from __future__ import annotations

import os
from pathlib import Path

from schuss.errors import AllocationError, describe_location, fail
from schuss.graph import Node

_CGROUP = Path("/sys/fs/cgroup")
_ASK_FROM = 2**30  # smaller results are not worth a look at the system's counters


def available_bytes() -> int | None:
    """Bytes that the system and the control group still have to give; None where neither tells."""
    known = [each for each in (_meminfo(), _cgroup()) if each is not None]
    if known:
        return min(known)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _meminfo() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _cgroup() -> int | None:
    """What the limit of the control group leaves; cached files make room, so they count."""
    try:
        limit = int(_CGROUP.joinpath("memory.max").read_text("ascii"))  # "max" where there is none
        used = int(_CGROUP.joinpath("memory.current").read_text("ascii"))
        lines = _CGROUP.joinpath("memory.stat").read_text("ascii").splitlines()
        held = dict(line.split() for line in lines)
        return limit - used + int(held["active_file"]) + int(held["inactive_file"])
    except (OSError, ValueError, KeyError):
        return None


def check_allocation(node: Node) -> None:
    """Raise AllocationError where the result of `node` alone exceeds what is left."""
    if node.size < _ASK_FROM // 16 or node.nbytes < _ASK_FROM or (node.op and node.op.view):
        return
    available = available_bytes()
    if available is not None and node.nbytes > available:
        raise _refusal(node, f"and {_human(available)} are left")


def out_of_memory(node: Node, others: list[Node]) -> AllocationError:
    """The error for an allocation that failed, naming the largest values of the same evaluation."""
    held = sorted((n for n in others if n.value is not None), key=lambda n: -n.nbytes)[:3]
    named = "; ".join(
        f"{n.name} {n.shape} {n.dtype} at {describe_location(n.location)}" for n in held
    )
    return _refusal(
        node, "which the system refused" + (f"; largest held: {named}" if named else "")
    )


def _refusal(node: Node, why: str) -> AllocationError:
    error = fail(
        AllocationError,
        node.name,
        f"the result needs {_human(node.nbytes)}, {why}",
        result=node,
        location=node.location,
        scope=node.scope.path() if node.scope else None,
        hint="use a smaller batch, a smaller dtype, or reduce before expanding",
    )
    assert isinstance(error, AllocationError)
    return error


def _human(nbytes: int) -> str:
    return f"{nbytes / 2**30:.1f} GiB" if nbytes >= 2**30 else f"{nbytes / 2**20:.1f} MiB"
