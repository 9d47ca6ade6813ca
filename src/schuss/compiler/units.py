"""Units of work: what one step of a program does, and which values it reads and writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from schuss.compiler.index import Affine
from schuss.compiler.kernel import Kernel
from schuss.compiler.values import Graph, Value


@dataclass(eq=False, slots=True)
class Loops:
    """One kernel of loops."""

    kernel: Kernel

    def reads(self) -> list[Value]:
        return self.kernel.read()

    def writes(self) -> list[Value]:
        return self.kernel.written() or list(self.kernel.buffers)

    def __str__(self) -> str:
        return str(self.kernel)


@dataclass(eq=False, slots=True)
class Product:
    """A batched matrix product, whose results go through the lines of `kernel`.

    `left` and `right` are memories and the positions there over (batch ..., m, n, k). With
    `packed`, a `Pack` has brought the right operand into the order in which it is read.
    """

    value: Value
    kernel: Kernel
    left: tuple[Value, Affine]
    right: tuple[Value, Affine]
    packed: Value | None = None

    def reads(self) -> list[Value]:
        return [self.left[0], self.packed or self.right[0], *self.kernel.read()]

    def writes(self) -> list[Value]:
        return self.kernel.written()

    def __str__(self) -> str:
        m, n, k = *self.value.shape[-2:], self.value.inputs[0].shape[-1]
        batch = list(self.value.shape[:-2])
        head = f"product {m} x {n} x {k}" + (f", batch {batch}" if batch else "")
        operands = f"{self.left[0].name}, {self.right[0].name}"
        return f"{head} of {operands}, then\n{self.kernel}"


@dataclass(eq=False, slots=True)
class Pack:
    """The right operand of a product, copied into the order in which it is read: `value`."""

    value: Value
    product: Product

    def reads(self) -> list[Value]:
        return [self.product.right[0]]

    def writes(self) -> list[Value]:
        return [self.value]

    def __str__(self) -> str:
        return f"pack {self.product.right[0].name} into {self.value.name}"


@dataclass(eq=False, slots=True)
class Convolution:
    """A convolution or the gradient of one for its weights, with an epilogue as for a product.

    `value` is a `convolution` or `convolution_weight`; `operands` are memories and the positions
    there over the axes (N, sizes, channels), for panels of weights those of their own. An operand
    that is computed as it is read has a kernel in `prologues`, of which that is what it stores.
    """

    value: Value
    kernel: Kernel
    operands: tuple[tuple[Value, Affine], tuple[Value, Affine]]
    prologues: tuple[Kernel | None, Kernel | None] = (None, None)

    def reads(self) -> list[Value]:
        return [*self.operands_read(), *self.kernel.read()]

    def operands_read(self) -> list[Value]:
        """The memories that the template reads, in whichever order it likes."""
        found = []
        for (memory, _), prologue in zip(self.operands, self.prologues, strict=True):
            found += [memory] if prologue is None else prologue.read()
        return found

    def writes(self) -> list[Value]:
        return self.kernel.written()

    def __str__(self) -> str:
        names = ", ".join(memory.name for memory, _ in self.operands)
        return f"{self.value.op} {list(self.value.shape)} of {names}, then\n{self.kernel}"


@dataclass(eq=False, slots=True)
class Panels:
    """Weights (groups, outputs, channels, taps) brought into panels, see convolution.py."""

    value: Value
    source: tuple[Value, Affine]

    def reads(self) -> list[Value]:
        return [self.source[0]]

    def writes(self) -> list[Value]:
        return [self.value]

    def __str__(self) -> str:
        return f"panels of {self.source[0].name}: {self.value!r}"


@dataclass(eq=False, slots=True)
class Assemble:
    """Kernels that fill the memory of one value; the inner lists run one after the other."""

    value: Value
    kernels: list[list[Kernel]]

    def reads(self) -> list[Value]:
        return [each for group in self.kernels for kernel in group for each in kernel.read()]

    def writes(self) -> list[Value]:
        return [self.value]

    def __str__(self) -> str:
        kernels = [str(kernel) for group in self.kernels for kernel in group]
        return "\n".join([f"assemble {self.value.name}:", *kernels])


@dataclass(eq=False, slots=True)
class ScatterAdd:
    """Rows of `part` added to rows of what `fill` wrote, at the places in `index`.

    Both are memories and the elements there with which they begin.
    """

    value: Value
    fill: Kernel
    part: tuple[Value, int]
    index: tuple[Value, int]

    def reads(self) -> list[Value]:
        return [*self.fill.read(), self.part[0], self.index[0]]

    def writes(self) -> list[Value]:
        return [self.value]

    def __str__(self) -> str:
        names = f"{self.part[0].name} at {self.index[0].name}"
        return f"{self.fill}\nadd rows {names} to {self.value.name}"


@dataclass(eq=False, slots=True)
class Attention:
    """Attention or its gradient: the memory of each operand and the position there.

    With `into`, dq, dk and dv are written to these positions in another memory than the value's.
    """

    value: Value
    operands: list[tuple[Value, Affine]]
    into: tuple[Value, tuple[Affine, ...]] | None = None

    def reads(self) -> list[Value]:
        return [memory for memory, _ in self.operands]

    def writes(self) -> list[Value]:
        return [self.value if self.into is None else self.into[0]]

    def __str__(self) -> str:
        return f"template: {self.value!r}"


@dataclass(eq=False, slots=True)
class Host:
    """An op that no target lowers: its NumPy meaning, on views of the memories."""

    value: Value
    operands: list[list[Value]]  # each a memory and the views that lead to the operand

    def reads(self) -> list[Value]:
        return [chain[0] for chain in self.operands if chain[0].op != "constant"]

    def writes(self) -> list[Value]:
        return [self.value]

    def __str__(self) -> str:
        return f"on the host: {self.value!r}"


class Moving(NamedTuple):
    """The memory of a value in a loop: another piece of a larger one in each round.

    Attributes:
        memory: the larger one.
        offset: of the first round, in bytes.
        even, odd: how far it moves after even and after odd rounds, in bytes.
    """

    memory: Value
    offset: int
    even: int = 0
    odd: int = 0


@dataclass(eq=False, slots=True)
class Repeat:
    """The steps of a loop, whose values are others than those of the graph around it.

    Attributes:
        value: the results of the loop.
        rounds: how many steps there are.
        steps: the graph of a step.
        units: the units of a step.
        places: the memory of what comes into a step and of what goes out.
        before, behind: kernels that copy carries into and out of the memories of the loop.
        others: what it writes besides: buffers that carries take turns in, and checks.
    """

    value: Value
    rounds: int
    steps: Graph
    units: list[Unit]
    places: dict[Value, Moving]
    before: list[Kernel]
    behind: list[Kernel]
    others: list[Value]

    def reads(self) -> list[Value]:
        inside = {each for unit in self.units for each in unit.reads()}
        found = [place.memory for value, place in self.places.items() if value in inside]
        found += [each for kernel in self.before for each in kernel.read()]
        own = set(self.writes())
        return [each for each in dict.fromkeys(found) if each not in own]

    def writes(self) -> list[Value]:
        return [self.value, *self.others]

    def is_fixed(self, value: Value) -> bool:
        """Whether a memory of a step is the same in all rounds, and only read."""
        place = self.places.get(value)
        return place is not None and value.op == "input" and not (place.even or place.odd)

    def __str__(self) -> str:
        lines = [f"repeat for {self.rounds} rounds:"]
        for value, place in self.places.items():
            moves = f" + {place.even} each" if place.even == place.odd != 0 else ""
            moves = f" + {place.even}, {place.odd} in turns" if place.even != place.odd else moves
            lines.append(f"{value.name} is {place.memory.name} at {place.offset}{moves}")
        lines += [str(unit) for unit in self.units]
        inner = "\n".join(lines[1:]).replace("\n", "\n  ")
        return f"{lines[0]}\n  {inner}"


Unit = (
    Loops
    | Product
    | Pack
    | Convolution
    | Panels
    | Assemble
    | ScatterAdd
    | Attention
    | Repeat
    | Host
)
