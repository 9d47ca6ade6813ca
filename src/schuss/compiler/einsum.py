"""Sums of products whose factors vary along different axes, as the contractions that they are.

    sum over b of x[b, i] * d[b, o]             the matrix product x^T d
    sum over i, o of (x[b, i] * d[b, o]) ** 2   (sum over i of x ** 2) * (sum over o of d ** 2)

What is summed has as many elements as all axes together: `vmap` of a gradient makes such outer
products for every weight. Factors are multiplied first with those that vary along the same axes,
axes of one factor alone are summed there, and what is left of two factors is a product of
matrices. This changes the order of multiplications, so it is not done in half precisions, whose
range is narrow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from schuss import dtypes
from schuss.compiler.values import Value

Builder = Any
Letters = tuple[int, ...]  # axes that are summed or kept, by number

_SMALLEST = 1 << 13  # elements under the sum, from which on it is worth the trouble
_LEAST_GAIN = 4  # elements under the sum for each element of the factors
_NARROWEST = 4  # rows or columns of a matrix product
_MOST_FACTORS = 8
_MOST_LOOKED_AT = 64  # values: products of products double at every step


@dataclass(eq=False, slots=True)
class _Factor:
    """A value whose axis k runs over the letters `dims[k]`: none where its size is 1."""

    value: Value
    dims: tuple[Letters, ...]
    divides: bool = False

    @property
    def letters(self) -> Letters:
        return tuple([each for dim in self.dims for each in dim])


def contraction(b: Builder, x: Value, axes: tuple[int, ...]) -> Value | None:
    """The sum of x over axes, without the axes, with less work.

    None where it is no sum of products, or where little would be gained. `b` is what values are
    added to.
    """
    if x.dtype not in (dtypes.float32, dtypes.float64) or x.size < _SMALLEST:
        return None
    space = _Space(x)
    if not space.gains():
        return None
    summed = {each for axis in axes for each in space.top.dims[axis]}
    kept = tuple([each for each in space.top.letters if each not in summed])
    work = _Work(b, space.sizes, summed)
    made = work.joined(space.factors, kept)
    return None if made is None else work.arranged(made, kept)


class _Space:
    """The factors of a product, found through views.

    Attributes:
        sizes: how far each letter runs.
        top: the product itself.
        factors: those found, of which none runs over all letters; or the product alone.
    """

    def __init__(self, x: Value) -> None:
        self.sizes: list[int] = []
        self.known: list[_Factor] = []  # whose letters may still be split
        self.top = self._factor(x, tuple([self._letters(n) for n in x.shape]))
        self.factors = self._factors(self.top)

    def gains(self) -> bool:
        """Whether the factors are much smaller than their product, and leave no letter out."""
        found = {each for factor in self.factors for each in factor.letters}
        if len(self.factors) < 2 or len(found) < len(self.top.letters):
            return False
        parts = sum(factor.value.size for factor in self.factors)
        return self.top.value.size >= _LEAST_GAIN * parts

    def _letters(self, n: int) -> Letters:
        if n == 1:
            return ()
        self.sizes.append(n)
        return (len(self.sizes) - 1,)

    def _factor(self, x: Value, dims: tuple[Letters, ...], divides: bool = False) -> _Factor:
        self.known.append(_Factor(x, dims, divides))
        return self.known[-1]

    def _operand(self, x: Value, dims: tuple[Letters, ...], divides: bool = False) -> _Factor:
        """An operand that broadcasts to `dims`."""
        own = dims[len(dims) - len(x.shape) :]
        fitting = [() if n == 1 else dim for n, dim in zip(x.shape, own, strict=True)]
        return self._factor(x, tuple(fitting), divides)

    def _factors(self, product: _Factor) -> list[_Factor]:
        """The factors of a product; itself where one of them runs over all of its letters."""
        parts = self._parts(product) if len(self.known) < _MOST_LOOKED_AT else []
        found: list[_Factor] = []
        for part in parts:
            found += [part] if part.divides else self._factors(part)
        everywhere = any(len(each.letters) == len(product.letters) for each in found)
        if not found or everywhere or len(found) > _MOST_FACTORS:
            return [product]
        return found

    def _parts(self, product: _Factor) -> list[_Factor]:
        x, dims = product.value, product.dims
        if x.op in ("multiply", "divide"):
            first, second = x.inputs
            return [self._operand(first, dims), self._operand(second, dims, x.op == "divide")]
        if x.op == "permute":
            axes = x.attributes["axes"]
            return [
                self._factor(x.inputs[0], tuple([dims[axes.index(i)] for i in range(len(axes))]))
            ]
        if x.op == "broadcast_to":
            return [self._operand(x.inputs[0], dims)]
        return self._through_reshape(product) if x.op == "reshape" else []

    def _through_reshape(self, product: _Factor) -> list[_Factor]:
        """What was reshaped runs over the same letters in the same order."""
        source = product.value.inputs[0]
        left = list(product.letters)
        dims: list[Letters] = []
        for n in source.shape:
            held: Letters = ()
            while n > 1:
                letter = left.pop(0)
                size = self.sizes[letter]
                if math.gcd(size, n) != min(size, n):
                    return []
                if size > n:
                    left.insert(0, self._split(letter, n))
                held, n = (*held, letter), n // self.sizes[letter]
            dims.append(held)
        return [self._factor(source, tuple(dims))]

    def _split(self, letter: int, n: int) -> int:
        """Two letters in place of one, of which the first runs to n; the second one."""
        (new,) = self._letters(self.sizes[letter] // n)
        self.sizes[letter] = n
        pair = letter, new
        for factor in self.known:
            factor.dims = tuple(
                [tuple([i for each in dim for i in (pair if each == letter else (each,))])
                 for dim in factor.dims]
            )  # fmt: skip
        return new


class _Work:
    """Puts factors together again, in another order.

    Args:
        b: where values are added.
        sizes: how far each letter runs.
        summed: the letters that are summed over.
    """

    def __init__(self, b: Builder, sizes: list[int], summed: set[int]) -> None:
        self.b, self.sizes, self.summed = b, sizes, summed

    def joined(self, factors: list[_Factor], kept: Letters) -> _Factor | None:
        """The sum of the product of all factors; None where that takes more than one product."""
        before = None
        while before != factors:
            before = factors = self._gathered(factors)
            if any(each.divides for each in factors):
                return None
            factors = [self._summed_alone(each, factors) for each in factors]
        if len(factors) == 1:
            return factors[0]
        return self._product(factors[0], factors[1], kept) if len(factors) == 2 else None

    def arranged(self, factor: _Factor, letters: Letters) -> Value:
        """The factor with one axis for each of the letters, of size 1 where it does not vary."""
        own = factor.letters
        fine = self.b.reshape(factor.value, self._shape(own))
        axes = tuple([own.index(each) for each in letters if each in own])
        turned = self.b.add(
            "permute", (fine,), {"axes": axes}, tuple([fine.shape[i] for i in axes]), fine.dtype
        )
        shape = tuple([self.sizes[each] if each in own else 1 for each in letters])
        return self.b.reshape(turned, shape)

    def _shape(self, letters: Letters) -> tuple[int, ...]:
        return tuple([self.sizes[each] for each in letters])

    def _gathered(self, factors: list[_Factor]) -> list[_Factor]:
        """Factors multiplied into those that vary wherever they do."""
        left = sorted(factors, key=lambda each: each.value.size, reverse=True)
        found: list[_Factor] = []
        for factor in left:
            for place, other in enumerate(found):
                if set(factor.letters) <= set(other.letters):
                    found[place] = self._multiplied(other, factor)
                    break
            else:
                found.append(factor)
        return found

    def _multiplied(self, x: _Factor, y: _Factor) -> _Factor:
        letters = x.letters
        a, b = self.arranged(x, letters), self.arranged(y, letters)
        if x.divides and not y.divides:
            a, b = b, a
        made = self.b.map("multiply" if x.divides == y.divides else "divide", a, b)
        return _Factor(made, tuple([(each,) for each in letters]), x.divides and y.divides)

    def _summed_alone(self, factor: _Factor, factors: list[_Factor]) -> _Factor:
        """The factor summed over the letters that no other one has."""
        others = {i for each in factors if each is not factor for i in each.letters}
        letters = factor.letters
        alone = tuple([i for i, each in enumerate(letters)
                       if each in self.summed and each not in others])  # fmt: skip
        if not alone:
            return factor
        left = tuple([each for i, each in enumerate(letters) if i not in alone])
        x = self.arranged(factor, letters)
        made = self.b.add("sum", (x,), {"axes": alone}, self._shape(left), x.dtype)
        return _Factor(made, tuple([(each,) for each in left]))

    def _product(self, x: _Factor, y: _Factor, kept: Letters) -> _Factor | None:
        """Of two factors, as matrices; None where these would be narrow."""
        shared = set(x.letters) & set(y.letters)
        inner = tuple([each for each in x.letters if each in shared and each in self.summed])
        stack = tuple([each for each in kept if each in shared])
        rows, columns = [
            tuple([each for each in kept if each in factor.letters and each not in shared])
            for factor in (x, y)
        ]
        if kept.index(columns[0]) < kept.index(rows[0]):
            x, y, rows, columns = y, x, columns, rows
        b, m, n, k = [math.prod(self._shape(each)) for each in (stack, rows, columns, inner)]
        if min(m, n) < _NARROWEST:
            return None
        if not inner:
            made = self.b.map("multiply", self.arranged(x, kept), self.arranged(y, kept))
            return _Factor(made, tuple([(each,) for each in kept]))
        lead = (b,) if stack else ()
        left = self.b.reshape(self.arranged(x, stack + rows + inner), (*lead, m, k))
        right = self.b.reshape(self.arranged(y, stack + inner + columns), (*lead, k, n))
        made = self.b.add("matmul", (left, right), {}, (*lead, m, n), left.dtype)
        return _Factor(made, (*([stack] if stack else []), rows, columns))
