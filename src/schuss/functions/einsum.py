"""Einstein's notation, contracted pair by pair in the order that costs least."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from schuss.errors import ArgumentError, ShapeError, fail
from schuss.functions.arguments import ArrayLike, as_tensor, operands
from schuss.functions.manipulation import moveaxis, permute_dims, reshape
from schuss.functions.precision import for_products
from schuss.functions.reduction import sum as sum_over
from schuss.graph import apply
from schuss.ops import contraction
from schuss.ops.indexing import data_range

if TYPE_CHECKING:
    from schuss.tensor import Tensor

__all__ = ["einsum"]

_BEST_UP_TO = 8  # operands; the search tries 3**n splits
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

Pair = tuple[int, int]


def einsum(equation: str, /, *arrays: ArrayLike) -> Tensor:
    """Products and sums in Einstein's notation, such as `einsum("bij,bjk->bik", x, y)`.

    Letters name axes; letters that the result lacks are added up. `...` stands for any axes, which
    broadcast. Without `->` the result has the axes of `...` and then the letters that occur once,
    in alphabetical order. Of several operands, those are multiplied first that make the whole
    cheapest.

    Raises ArgumentError for an equation that cannot be read, ShapeError where it does not fit.
    """
    given = [as_tensor(each, "einsum") for each in arrays]
    terms, output = _read(equation, [each.ndim for each in given])
    tensors = operands("einsum", *given)
    sizes = _sizes(terms, tensors)
    pairs = [_diagonals(term, each) for term, each in zip(terms, tensors, strict=True)]
    pairs = [_unit_axes_dropped(term, each, sizes) for term, each in pairs]
    for i, j in _order([term for term, _ in pairs], output, sizes):
        (b, y), (a, x) = pairs.pop(j), pairs.pop(i)
        needed = set(output).union(*[term for term, _ in pairs])
        pairs.append(_contract(*_added_up(a, x, needed | set(b)), *_added_up(b, y, needed | set(a)),
                               needed))  # fmt: skip
    term, result = _added_up(*pairs[0], set(output))
    missing = "".join(letter for letter in output if letter not in term)  # of size 1
    result = reshape(result, result.shape + (1,) * len(missing))
    term += missing
    return permute_dims(result, tuple(term.index(letter) for letter in output))


def _read(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """The letters of each operand and of the result; `...` becomes letters too."""
    text = equation.replace(" ", "")
    inputs, arrow, output = text.partition("->")
    terms = inputs.split(",")
    plain = text.replace("->", "").replace(",", "").replace("...", "")
    readable = all(letter in _LETTERS for letter in plain) and text.count("->") <= 1
    if len(terms) != len(ranks) or not readable or any(t.count("...") > 1 for t in terms):
        raise fail(ArgumentError, "einsum", f"cannot read {equation!r} for {len(ranks)} operands")
    free = [letter for letter in _LETTERS if letter not in plain]
    longest = 0
    for i, (term, rank) in enumerate(zip(terms, ranks, strict=True)):
        if "..." in term:
            count = rank - len(term) + 3
            if count < 0:
                raise fail(
                    ShapeError, "einsum", f"{term!r} names {len(term) - 3} axes, there are {rank}"
                )
            longest = max(longest, count)
            terms[i] = term.replace("...", "".join(free[:count][::-1]))
    broadcast = "".join(free[:longest][::-1])  # the last axes of all operands have one letter
    if not arrow:
        letters = "".join(terms)
        once = sorted(each for each in set(letters) if letters.count(each) == 1)
        output = broadcast + "".join(each for each in once if each not in broadcast)
    elif "..." in output:
        output = output.replace("...", broadcast)
    elif broadcast:
        raise fail(ArgumentError, "einsum", f"the result of {equation!r} lacks the axes of '...'")
    if not set(output) <= set("".join(terms)):
        raise fail(ArgumentError, "einsum", f"cannot read {equation!r} for {len(ranks)} operands")
    if len(set(output)) != len(output):
        raise fail(ArgumentError, "einsum", f"the result of {equation!r} names an axis twice")
    return terms, output


def _sizes(terms: list[str], tensors: Sequence[Tensor]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for term, each in zip(terms, tensors, strict=True):
        if len(term) != each.ndim:
            raise fail(ShapeError, "einsum", f"{term!r} names {len(term)} axes", x=each)
        for letter, n in zip(term, each.shape, strict=True):
            held = sizes.setdefault(letter, n)
            if held != n and 1 not in (held, n):
                raise fail(ShapeError, "einsum", f"axis {letter!r} is {held} and {n} long", x=each)
            sizes[letter] = n if held == 1 else held
    return sizes


def _diagonals(term: str, x: Tensor) -> tuple[str, Tensor]:
    """Repeated letters in one operand mean its diagonal."""
    while len(set(term)) != len(term):
        letter = next(each for each in term if term.count(each) > 1)
        first, second = [i for i, each in enumerate(term) if each == letter][:2]
        if x.shape[first] != x.shape[second]:
            raise fail(ShapeError, "einsum", f"axis {letter!r} of one operand has two sizes", x=x)
        places = data_range((x.shape[first],))
        x = moveaxis(x, (first, second), (0, 1))[places, places]
        term = letter + "".join(each for i, each in enumerate(term) if i not in (first, second))
    return term, x


def _unit_axes_dropped(term: str, x: Tensor, sizes: dict[str, int]) -> tuple[str, Tensor]:
    """Axes of size 1 that broadcast against longer ones are no part of the contraction."""
    kept = [i for i, each in enumerate(term) if x.shape[i] == sizes[each] and x.shape[i] != 1]
    if len(kept) < len(term):
        x = reshape(x, tuple(x.shape[i] for i in kept))
    return "".join(term[i] for i in kept), x


def _order(terms: list[str], output: str, sizes: dict[str, int]) -> list[Pair]:
    """Which two of the remaining operands to contract at each step; the product goes to the end."""
    if len(terms) <= 2:
        return [(0, 1)] * (len(terms) - 1)
    if len(terms) > _BEST_UP_TO:
        return _greedy(terms, output, sizes)
    return _as_steps(_best_tree(terms, output, sizes), len(terms))


def _letters_left(group: frozenset[int], terms: list[str], output: str) -> frozenset[str]:
    """The letters that the product of some operands still needs."""
    inside = set().union(*[terms[i] for i in group])
    outside = set(output).union(*[term for i, term in enumerate(terms) if i not in group])
    return frozenset(inside & outside)


def _cost(letters: frozenset[str], sizes: dict[str, int]) -> int:
    return math.prod(sizes[each] for each in letters)


def _best_tree(
    terms: list[str], output: str, sizes: dict[str, int]
) -> dict[frozenset[int], tuple[frozenset[int], frozenset[int]]]:
    """Dynamic programming over sets of operands: how to split each to multiply least."""
    everything = range(len(terms))
    left = {
        frozenset(group): _letters_left(frozenset(group), terms, output)
        for count in range(1, len(terms) + 1)
        for group in itertools.combinations(everything, count)
    }
    cost = {frozenset([i]): 0 for i in everything}
    split: dict[frozenset[int], tuple[frozenset[int], frozenset[int]]] = {}
    for group in left:  # small ones first
        if len(group) == 1:
            continue
        first = min(group)
        options = []
        others = sorted(group - {first})
        for count in range(len(others)):
            for more in itertools.combinations(others, count):
                a = frozenset([first, *more])
                b = group - a
                options.append((cost[a] + cost[b] + _cost(left[a] | left[b], sizes), len(more), a))
        total, _, a = min(options, key=lambda option: option[:2])
        cost[group], split[group] = total, (a, group - a)
    return split


def _as_steps(
    split: dict[frozenset[int], tuple[frozenset[int], frozenset[int]]], count: int
) -> list[Pair]:
    """A tree as positions in the list of what remains."""
    remaining = [frozenset([i]) for i in range(count)]
    wanted, chosen = [frozenset(range(count))], []
    while wanted:
        group = wanted.pop()
        if group in split:
            chosen.append(group)
            wanted += split[group]
    steps = []
    for group in sorted(chosen, key=len):
        i, j = sorted(remaining.index(each) for each in split[group])
        steps.append((i, j))
        del remaining[j], remaining[i]
        remaining.append(group)
    return steps


def _greedy(terms: list[str], output: str, sizes: dict[str, int]) -> list[Pair]:
    """Always the pair whose product is cheapest, of those that make memory grow least."""
    terms = list(terms)
    steps = []
    while len(terms) > 1:

        def growth(pair: Pair, terms: list[str] = terms) -> tuple[int, int]:
            a, b = (frozenset(terms[i]) for i in pair)
            others = set(output).union(*[t for i, t in enumerate(terms) if i not in pair])
            after = _cost((a | b) & frozenset(others), sizes)
            return after - _cost(a, sizes) - _cost(b, sizes), _cost(a | b, sizes)

        i, j = min(itertools.combinations(range(len(terms)), 2), key=growth)
        steps.append((i, j))
        b, a = terms.pop(j), terms.pop(i)
        needed = set(output).union(*terms)
        terms.append("".join(each for each in dict.fromkeys(a + b) if each in needed))
    return steps


def _added_up(term: str, x: Tensor, needed: set[str]) -> tuple[str, Tensor]:
    """Without the axes that nothing needs any more."""
    gone = tuple(i for i, letter in enumerate(term) if letter not in needed)
    if not gone:
        return term, x
    kept = "".join(letter for letter in term if letter in needed)
    return kept, sum_over(x, axis=gone, dtype=x.dtype)


def _contract(a: str, x: Tensor, b: str, y: Tensor, needed: set[str]) -> tuple[str, Tensor]:
    """One pair of operands as a batched matrix product."""
    shared = [each for each in a if each in b]
    batch = "".join(each for each in shared if each in needed)
    inner = "".join(each for each in shared if each not in needed)
    rows = "".join(each for each in a if each not in shared)
    columns = "".join(each for each in b if each not in shared)
    sizes = dict(zip(a + b, x.shape + y.shape, strict=True))

    def arranged(term: str, t: Tensor, *groups: str) -> Tensor:
        order = tuple(term.index(each) for group in groups for each in group)
        shape = tuple(math.prod(sizes[each] for each in group) for group in groups)
        return reshape(permute_dims(t, order), shape)

    if inner:
        left, right = arranged(a, x, batch, rows, inner), arranged(b, y, batch, inner, columns)
        product = apply(contraction.matmul, *for_products(left, right))
    else:
        left, right = arranged(a, x, batch, rows, ""), arranged(b, y, batch, "", columns)
        product = left * right
    term = batch + rows + columns
    return term, reshape(product, tuple(sizes[each] for each in term))
