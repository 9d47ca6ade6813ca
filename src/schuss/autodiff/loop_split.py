"""What need not be in a loop: before it, and behind it, one op does for all steps at once.

    for t:  h = tanh(x[t] @ W + h @ U);  y[t] = h @ V

becomes  `xw = x @ W`,  a loop of `h = tanh(xw[t] + h @ U)`,  and `y = hs @ V`: products that no
carry goes into move in front of the loop, those from which none comes out move behind it, and what
depends on invariants alone is computed once. Whole batches of rows are multiplied then instead of
one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from schuss.autodiff.batching import batch
from schuss.autodiff.loop_residuals import with_residuals
from schuss.context import context, grad_mode
from schuss.graph import Node, apply
from schuss.ops.body import Body, Type, body_of, derive_once, stand_in, types_of
from schuss.ops.broadcast import broadcast_to
from schuss.ops.loop import HISTORY, LAST, NOTHING, Loop, apply_loop, at_end, incoming, outgoing

if TYPE_CHECKING:
    from schuss.tensor import Tensor

_BEFORE = {  # worth a place in front of the loop; random numbers are drawn for all steps there
    "matmul", "convolve", "convolve_input", "convolve_weight", "attention", "gather", "random_bits",
}  # fmt: skip
_BEHIND = {"matmul", "convolve", "convolve_input", "convolve_weight", "attention"}


class Source(NamedTuple):
    """Where the stack of a value comes from.

    `kind` is "x", "before" (of what is computed in front), "in" or "out" (what goes into the steps
    or comes out of them as a carry), "y" (stacked by the loop), "behind", or "invariant" (`number`
    counts the values of "once").
    """

    kind: str
    number: int


@dataclass(frozen=True)
class Split:
    """A loop in pieces.

    Attributes:
        before: of invariants and whole xs; gives what is computed once, then stacks.
        once: how many results of `before` are no stacks.
        core: the body that remains: of invariants, steps of xs, carries.
        invariants, xs: what goes into the core: places among the invariants and what is computed
            once, and among xs and the stacks.
        stacked: how many ys the core has.
        behind: of the invariants and `atoms`; gives the ys that are computed behind the loop.
        atoms: stacks that `behind` needs.
        ys: where each y comes from.
    """

    before: Body
    once: int
    core: Body
    invariants: tuple[int, ...]
    xs: tuple[int, ...]
    stacked: int
    behind: Body
    atoms: tuple[Source, ...]
    ys: tuple[Source, ...]


class _Splitter:
    """Sorts the values of a body; they are called by their numbers in it."""

    def __init__(
        self, body: Body, types: tuple[Type, ...], invariants: int, xs: int, length: int
    ) -> None:
        self.body, self.length = body, length
        self.carries = range(invariants + xs, body.inputs)
        self.count = len(self.carries)
        self.first_x = invariants
        self.wholes = [stand_in(each) for each in types[: invariants + xs]]
        clock = stand_in(Type((length,), types[-1].dtype))
        tick = stand_in(Type((), types[-1].dtype))  # always there: what can be batched starts here
        steps = [stand_in(Type(each.shape[1:], each.dtype)) for each in types[invariants:][:xs]]
        carries = [stand_in(each) for each in types[invariants + xs :]]
        self.values = body.record([*self.wholes[:invariants], *steps, *carries])
        self.nodes = [each._node for each in self.values]
        self.examples: dict[Node, Tensor] = {tick._node: clock}
        for step, whole in zip(steps, self.wholes[invariants:], strict=True):
            self.examples[step._node] = whole
        self._sort()

    def _sort(self) -> None:
        body, n = self.body, len(self.values)
        first = n - len(body.steps)
        self.by_carry = [i in self.carries for i in range(n)]
        self.by_step = [self.first_x <= i < self.carries.start for i in range(n)]
        self.by_invariant = [i < self.first_x for i in range(n)]
        self.early, self.late = [False] * n, [False] * n
        for i, (op, places, _) in enumerate(body.steps, first):
            self.by_carry[i] = any(self.by_carry[p] for p in places)
            self.by_step[i] = op.name == "random_bits" or any(self.by_step[p] for p in places)
            self.by_invariant[i] = any(self.by_invariant[p] for p in places)
            if not self.by_carry[i] and self.by_step[i]:
                self.early[i] = op.name in _BEFORE or any(self.early[p] for p in places)
        needed = self._needed(body.outputs[: self.count], first)
        for i, (op, places, _) in enumerate(body.steps, first):
            if self.by_carry[i] and i not in needed:
                self.late[i] = op.name in _BEHIND or any(self.late[p] for p in places)

    def _needed(self, ends: Sequence[int], first: int) -> set[int]:
        found, stack = set(), list(ends)
        while stack:
            i = stack.pop()
            if i not in found:
                found.add(i)
                stack += self.body.steps[i - first].places if i >= first else ()
        return found

    def is_once(self, i: int) -> bool:
        """Whether a value is the same in all steps, and more than a literal."""
        return self.by_invariant[i] and not self.by_carry[i] and not self.by_step[i]

    def is_fixed(self, i: int) -> bool:
        return not self.by_carry[i] and not self.by_step[i]

    def split(self) -> Split:
        body, first = self.body, len(self.values) - len(self.body.steps)
        outputs = body.outputs[self.count :]
        late_steps = [i for i in range(first, len(self.values)) if self.late[i]]
        atoms = [p for i in late_steps for p in body.steps[i - first].places if not self.late[p]]
        atoms = list(dict.fromkeys(p for p in atoms if not self.is_fixed(p)))
        wanted = [i for i in outputs if not self.late[i]] + atoms
        core_ends = [*body.outputs[: self.count], *self._stacked(wanted)]
        entering = self._entering(core_ends, first)
        once = [i for i in entering if self.is_once(i) and i >= first]
        once += [i for i in outputs if self.is_fixed(i) and i not in once]
        early = [i for i in entering if self.early[i]]
        early += [i for i in dict.fromkeys(wanted) if self.early[i] and i not in early]
        invariants = [i for i in entering if self.is_once(i)]
        xs = [i for i in entering if i in range(self.first_x, self.carries.start) or self.early[i]]
        core = body_of(
            [self.nodes[i] for i in core_ends],
            [self.nodes[i] for i in (*invariants, *xs, *self.carries)],
        )
        known = batch([self.nodes[i] for i in early], self.examples, self.length)
        ends = [self.nodes[i] for i in once] + [known[self.nodes[i]]._node for i in early]
        stacked = core_ends[self.count :]

        def source(i: int) -> Source:
            if self.late[i]:
                return Source("behind", late_ends.index(i))
            if self.is_fixed(i):
                return Source("invariant", once.index(i))
            if self.early[i]:
                return Source("before", early.index(i))
            if self.first_x <= i < self.carries.start:
                return Source("x", i - self.first_x)
            if i in self.carries:
                return Source("in", i - self.carries.start)
            if i in body.outputs[: self.count]:
                return Source("out", body.outputs.index(i))
            return Source("y", stacked.index(i))

        late_ends = list(dict.fromkeys(i for i in outputs if self.late[i]))
        n = self.first_x
        return Split(
            before=body_of(ends, [each._node for each in self.wholes]),
            once=len(once),
            core=core,
            invariants=tuple(i if i < n else n + once.index(i) for i in invariants),
            xs=tuple(
                i - n if i < self.carries.start else len(self.wholes) - n + early.index(i)
                for i in xs
            ),
            stacked=len(stacked),
            behind=self._behind(late_ends, atoms),
            atoms=tuple(source(i) for i in atoms),
            ys=tuple(source(i) for i in outputs),
        )

    def _stacked(self, wanted: Sequence[int]) -> list[int]:
        """What the core has to stack: what is no x, and no carry before or after a step."""
        others = {*self.carries, *self.body.outputs[: self.count]}
        others |= set(range(self.first_x, self.carries.start))
        found = dict.fromkeys(wanted)
        return [i for i in found if i not in others and not self.early[i] and not self.is_fixed(i)]

    def _entering(self, ends: Sequence[int], first: int) -> list[int]:
        """What the core uses that is not computed in it, carries apart."""
        found, seen, stack = set(), set(), list(ends)
        while stack:
            i = stack.pop()
            if i in seen or i in self.carries:
                continue
            seen.add(i)
            if self.early[i] or self.is_once(i) or i < self.carries.start:
                found.add(i)
            elif i >= first:
                stack += self.body.steps[i - first].places
        return sorted(found)

    def _behind(self, ends: Sequence[int], atoms: Sequence[int]) -> Body:
        stacks = {i: stand_in(Type((self.length, *self.nodes[i].shape), self.nodes[i].dtype))
                  for i in atoms}  # fmt: skip
        examples = {next(iter(self.examples)): next(iter(self.examples.values()))}
        examples |= {self.nodes[i]: stack for i, stack in stacks.items()}
        found = batch([self.nodes[i] for i in ends], examples, self.length)
        inputs = [*self.wholes[: self.first_x], *stacks.values()]
        return body_of([found[self.nodes[i]]._node for i in ends], [x._node for x in inputs])


def _split(body: Body, types: tuple[Type, ...], invariants: int, xs: int, length: int) -> Split:
    with grad_mode(False):
        return _Splitter(body, types, invariants, xs, length).split()


split: Callable[..., Split] = derive_once(_split)


def run_loop(
    body: Body, invariants: Sequence[Tensor], xs: Sequence[Tensor], carries: Sequence[Tensor],
    length: int, reverse: bool, last: Sequence[bool],
) -> tuple[list[Tensor | None], list[Tensor]]:  # fmt: skip
    """Record a loop as well as it can be computed.

    Args:
        body: of invariants, xs of one step, and carries; gives carries and ys.
        last: for each carry whether its value after all steps is wanted.

    Returns the last carries and the stacked ys.
    """
    made = split(body, types_of([*invariants, *xs, *carries]), len(invariants), len(xs), length)
    computed = made.before([*invariants, *xs])
    known = [*invariants, *computed[: made.once]]
    stacks = [*xs, *computed[made.once :]]
    sources = {*made.atoms, *made.ys}
    histories = {each.number for each in sources if each.kind in ("in", "out")}
    wishes = [HISTORY if k in histories else LAST if want else NOTHING
              for k, want in enumerate(last)]  # fmt: skip
    inner = [known[i] for i in made.invariants], [stacks[i] for i in made.xs], list(carries)
    ys = (True,) * made.stacked
    loop = Loop(made.core, len(inner[0]), len(inner[1]), tuple(wishes), ys, length, reverse)
    results: dict[int, Tensor] = {}
    if made.stacked or any(wishes):
        if context.grad_enabled:
            loop = with_residuals(loop, [*inner[0], *inner[1], *inner[2]])
        results = apply_loop(loop, *inner)

    def stack_of(source: Source) -> Tensor:
        kind, i = source
        if kind == "x":
            return xs[i]
        if kind == "before":
            return computed[made.once + i]
        if kind == "in":
            return incoming(results[i], loop)
        if kind == "out":
            return outgoing(results[i], loop)
        if kind == "y":
            return results[len(carries) + i]
        if kind == "behind":
            return behind[i]
        once = computed[i]
        return apply(broadcast_to, once, shape=(length, *once.shape))

    behind = made.behind([*invariants, *[stack_of(each) for each in made.atoms]])
    ends: list[Any] = [
        None if not want else results[k] if loop.carries[k] == LAST else at_end(results[k], loop)
        for k, want in enumerate(last)
    ]
    return ends, [stack_of(each) for each in made.ys]
