"""Random programs as text: what the fuzzer makes, runs, makes smaller and prints.

A program is a function of a few tensors, line by line. Text is easy to cut lines out of, and what
is printed in the end is what ran.
"""

from __future__ import annotations

import ctypes
import inspect
import mmap
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import schuss
from schuss import nn, optim
from schuss.context import context
from schuss.functions.arguments import adopt
from schuss.graph import REGISTRY, apply

_NAME = re.compile(r"\b[a-z]\d+\b")
_MADE = re.compile(r"^(?:with [\w.]+\(\): )?([a-z]\d+(?:, [a-z]\d+)*) = ")


def names_in(text: str) -> set[str]:
    """The variables (a letter and a number) that a line mentions."""
    return set(_NAME.findall(text))


def made_by(line: str) -> tuple[str, ...]:
    """The variables that a line binds."""
    found = _MADE.match(line)
    return tuple(found[1].split(", ")) if found else ()


def op(name: str, *inputs: Any, **attributes: Any) -> Any:
    """A primitive by its name."""
    return apply(REGISTRY[name], *inputs, **attributes)


def gradient(y: Any, *xs: Any, again: bool = False) -> list[Any]:
    """What `sum(y * y).backward()` puts into `.grad` of the leaves `xs`; zeros where nothing."""
    for x in xs:
        x.grad = None
    (y * y).sum().backward(create_graph=again)
    found = [schuss.zeros_like(x) if x.grad is None else x.grad for x in xs]
    for x in xs:
        x.grad = None
    return found


def flattened(value: Any) -> list[Any]:
    """Tensors, arrays and numbers out of lists and dicts; None is nothing."""
    if isinstance(value, dict):
        return [each for part in value.values() for each in flattened(part)]
    if isinstance(value, (list, tuple)):
        return [each for part in value for each in flattened(part)]
    return [] if value is None else [value]


NAMES: dict[str, Any] = {
    "np": np, "schuss": schuss, "nn": nn, "optim": optim, "op": op, "gradient": gradient,
    "adopt": adopt,
}  # fmt: skip


_IMPORTS = """from typing import Any

import numpy as np

import schuss
from schuss import nn, optim
from schuss.execution.tiers import using
from schuss.functions.arguments import adopt
from schuss.graph import REGISTRY, apply"""


@dataclass(frozen=True)
class Program:
    """A function as text.

    Attributes:
        inputs: for each parameter the expression of its array, made from `rng(n)`.
        lines: the body, one statement each.
        outputs: the variables that it returns.
        together: all outputs in one evaluation, or each when it is looked at.
        tier: "compiled", or "auto", where the reference tier computes what is new.
        guarded: the arrays of inputs end where the memory of the process does.
    """

    inputs: dict[str, str]
    lines: tuple[str, ...]
    outputs: tuple[str, ...]
    together: bool = True
    guarded: bool = False
    tier: str = "compiled"

    def with_(self, **changes: Any) -> Program:
        return replace(self, **changes)

    def function_text(self) -> str:
        body = [*self.lines, f"return [{', '.join(self.outputs)}]"]
        head = f"def program({', '.join(self.inputs)}):"
        return "\n".join([head, *[f"    {line}" for line in body]])

    def function(self) -> Callable[..., list[Any]]:
        """The program, ready to call with tensors."""
        space = dict(NAMES)
        exec(compile(self.function_text(), "<program>", "exec"), space)
        return space["program"]

    def arrays(self, run: int) -> dict[str, np.ndarray]:
        """The inputs of a run: other numbers in each, in the same shapes and layouts."""
        made = {name: np.asarray(_value(text, run)) for name, text in self.inputs.items()}
        return {name: fenced(each) for name, each in made.items()} if self.guarded else made

    def script(self, runs: int = 2) -> str:
        """The program as a file of its own that prints what differs."""
        helpers = "\n\n".join(inspect.getsource(each) for each in (op, gradient, flattened))
        made = "\n".join(f"        {text}," for text in self.inputs.values())
        look = "schuss.evaluate(*[x for x in found if isinstance(x, schuss.Tensor)])"
        return f"""{_IMPORTS}

{helpers}

def arrays(run):
    rng = lambda n: np.random.default_rng((n, run))
    return [
{made}
    ]


{self.function_text()}


def values(tier, run):
    schuss.manual_seed(run)
    with using(tier):
        found = flattened(program(*[adopt(np.asarray(each)) for each in arrays(run)]))
        {look if self.together else "# each is computed when it is looked at"}
        return [x.numpy() if isinstance(x, schuss.Tensor) else np.asarray(x) for x in found]


for run in range({runs}):
    pairs = zip(values("reference", run), values("{self.tier}", run))
    for i, (reference, compiled) in enumerate(pairs):
        print(f"run {{run}}, result {{i}}", "reference", reference, "compiled", compiled, sep="\\n")
"""


def _value(text: str, run: int) -> Any:
    rng = lambda n: np.random.default_rng((n, run))
    return eval(text, {"rng": rng, "np": np, "schuss": schuss})


def fenced(array: np.ndarray) -> np.ndarray:
    """A copy whose last byte is the last one that may be read: a read behind it is a crash."""
    if not array.size or not array.flags.c_contiguous:
        return array
    page = mmap.PAGESIZE
    pages = -(-array.nbytes // page)
    memory = mmap.mmap(-1, (pages + 1) * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    protect = libc.mprotect
    protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    if protect(start + pages * page, page, 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    raw = np.frombuffer(memory, np.uint8, array.nbytes, pages * page - array.nbytes)
    copy = raw.view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@dataclass
class Outcome:
    """What a run of a program came to: arrays, or the error that it ended with."""

    values: list[np.ndarray] = field(default_factory=list)
    error: BaseException | None = None


def run(
    program: Program, function: Callable[..., list[Any]], number: int,
    arrays: dict[str, np.ndarray],
) -> Outcome:  # fmt: skip
    """Call a program with the input arrays of a run and look at its outputs.

    Raises AssertionError where an input array was written to.
    """
    before = {name: each.copy() for name, each in arrays.items()}
    schuss.manual_seed(number)
    context.pending, context.pending_bytes, context.pruned = [], 0, 0  # of programs that failed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a step without a gradient
            found = flattened(function(*[adopt(each) for each in arrays.values()]))
        if program.together:
            schuss.evaluate(*[each for each in found if isinstance(each, schuss.Tensor)])
        values = [
            each.numpy() if isinstance(each, schuss.Tensor) else np.asarray(each) for each in found
        ]
    except Exception as error:
        return Outcome(error=error)
    for name, each in arrays.items():
        assert each.tobytes() == before[name].tobytes(), f"input {name} was written to"
    return Outcome(values)
