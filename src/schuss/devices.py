"""Where tensors live. For now there is one place: the processor."""

from __future__ import annotations

from dataclasses import dataclass

from schuss.errors import ArgumentError, fail


@dataclass(frozen=True)
class Device:
    """A place for tensors, such as `Device("cpu")`."""

    kind: str
    index: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"

    __repr__ = __str__


cpu = Device("cpu")
_KINDS = {"cpu", "cuda", "gpu", "mps", "xpu", "tpu"}


def is_device(value: object) -> bool:
    """Whether a user means a device by this, whether or not there is such a one."""
    if isinstance(value, str):
        return value.partition(":")[0] in _KINDS
    return isinstance(value, Device)


def as_device(value: Device | str | None) -> Device:
    """The device that a user means; None is the default one."""
    if value is None or value == cpu or value == "cpu":
        return cpu
    raise fail(ArgumentError, "device", f"{value!r} is not available", hint="available: 'cpu'")
