"""A graph made runnable: waves of kernels and host steps over fixed places in memory."""

from __future__ import annotations

import sys
import time
import weakref
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from schuss.compiler.anchors import chain_of
from schuss.compiler.binding import address_of, binder
from schuss.compiler.borders import without_borders
from schuss.compiler.channels import channels_last
from schuss.compiler.constants import divided
from schuss.compiler.copies import without_copies
from schuss.compiler.cpu.alike import lower_all
from schuss.compiler.cpu.library import compile_kernels
from schuss.compiler.cpu.lower import Call, Calls, Place, blocks, packed_bytes
from schuss.compiler.cpu.runtime import FAILED, LOOK, Launch
from schuss.compiler.cpu.runtime import Loop as Rounds
from schuss.compiler.cpu.runtime import Sequence as Waves
from schuss.compiler.fuse import fuse
from schuss.compiler.groups import NotInTemplateError
from schuss.compiler.keep import keep
from schuss.compiler.layout import layout
from schuss.compiler.partial_sums import partial_sums
from schuss.compiler.plan import Plan, plan
from schuss.compiler.repeat import can_repeat, steps_of
from schuss.compiler.simplify import simplify
from schuss.compiler.units import Host, Unit
from schuss.compiler.values import VIEWS, Graph, Value
from schuss.errors import CheckFailedError
from schuss.graph import REGISTRY
from schuss.ops.loop import Loop, in_steps


@dataclass(slots=True)
class Compiled:
    """What the passes made of a graph, for people to look at and for a Program to run.

    Attributes:
        memories: the values whose memory outlives a run.
        once: what is made of constants alone, and runs when the Program is made.
    """

    recorded: Graph
    simplified: Graph
    units: list[Unit]
    calls: list[Calls | None]
    plan: Plan
    memories: list[Value]
    once: Compiled | None = None


def compile_graph(graph: Graph) -> Compiled:
    """All passes."""
    recorded = Graph(list(graph.values), graph.inputs, list(graph.outputs))
    constants = [value for value in graph.inputs if value.array is not None]
    simple, units = _fused(channels_last(without_borders(simplify(graph))))
    memories = set(_bases(simple, {value for unit in units for value in unit.writes()}))
    if not constants:
        return _planned(recorded, simple, without_copies(units, memories))
    first, units = divided(units, memories, packed_bytes)
    units = without_copies(units, memories)
    compiled = _planned(recorded, simple, units)
    if first:
        made = {value for unit in first for value in unit.writes()}
        read = dict.fromkeys(value for unit in units for value in unit.reads() if value in made)
        first = without_copies(first, set(read))
        compiled.once = _planned(recorded, Graph(simple.values, constants, list(read)), first)
    return compiled


def _fused(graph: Graph) -> tuple[Graph, list[Unit]]:
    """The units that compute a graph, and the graph that they compute."""
    excluded: set[int] = set()
    while True:
        made = layout(keep(partial_sums(graph, blocks, excluded)))
        try:
            return made, fuse(made)
        except NotInTemplateError as problem:
            excluded.add(problem.value.attributes["template"])


def _planned(recorded: Graph, simple: Graph, units: list[Unit]) -> Compiled:
    """Units with their launches, waves and places in memory."""
    calls = lower_all(units)
    measured = dict(zip(map(id, units), calls, strict=True))

    def measure(unit: Unit) -> tuple[int, int]:
        found = measured[id(unit)]
        return (1, 0) if found is None else (max(1, len(found.groups)), found.workspace)

    written = {value for unit in units for value in unit.writes()}
    memories = list(dict.fromkeys(_bases(simple, written)))
    made = plan(simple, units, memories, measure)
    return Compiled(recorded, simple, units, calls, made, memories)


def _bases(graph: Graph, written: set[Value]) -> list[Value]:
    found = []
    for value in [*graph.outputs, *graph.checks]:
        while value not in written and value.op in VIEWS:
            value = value.inputs[0]
        if value in written:
            found.append(value)
    return found


class _Arena:
    """The memory of values inside runs, which all programs share: one runs at a time."""

    def __init__(self) -> None:
        self.memory = np.empty(0, np.uint8)
        self.size = 0  # what is usable behind the aligned address
        self.address = 0
        self.version = 0

    def need(self, size: int) -> None:
        if size > self.size:
            self.memory = np.empty(0, np.uint8)  # give back before asking for more
            self.memory = np.empty(size + 64, np.uint8)
            self.size = size
            self.address = -(-self.memory.ctypes.data // 64) * 64
            self.version += 1

    def view(self, offset: int, value: Value) -> np.ndarray:
        start = self.address - self.memory.ctypes.data + offset
        raw = self.memory[start : start + value.room]
        flat = raw.view(value.dtype)
        if value.strides is None:
            return flat.reshape(value.shape)
        steps = [step * value.dtype.itemsize for step in value.strides]
        return np.lib.stride_tricks.as_strided(flat, value.shape, steps)


_arena = _Arena()


# The arrays in the pools of all programs, by their ids: what one has made another may take over.
_pooled: dict[int, weakref.ref[np.ndarray]] = {}


def _forget(number: int, ref: weakref.ref[np.ndarray]) -> None:
    """An array is gone, before another one can have its id."""
    if _pooled.get(number) is ref:
        del _pooled[number]


class Program:
    """A compiled graph, ready to run.

    Args:
        compiled: what the passes made.
        arena: its own, if it runs while another program does.

    Attributes:
        donors: the inputs whose memory an output may take over.
    """

    def __init__(self, compiled: Compiled, arena: _Arena = _arena) -> None:
        started = time.perf_counter()
        if compiled.once is not None:
            _settle(compiled.once)
        self.compiled = compiled
        self._arena = arena
        self._steps = {loop: _Steps(loop) for loop in _loops_on_host(compiled)}
        self._slots: dict[Any, int] = {}
        self._numbers: dict[int, int] = {}
        made = compiled.plan
        looks = self._looks()

        def at(wave: int) -> int:
            return wave + (wave > made.checked and looks != [])

        waves: list[list[Launch]] = [[] for _ in range(at(made.waves))]
        self._hosts: list[list[Host]] = [[] for _ in waves]
        loops: list[Rounds] = []
        addresses = _addresses(compiled.calls)
        for number, (step, calls) in enumerate(zip(made.steps, compiled.calls, strict=True)):
            if calls is None:
                self._hosts[at(step.start)].append(step.unit)  # type: ignore[arg-type]
                continue
            for i, group in enumerate(calls.groups):
                for call in group:
                    waves[at(step.waves[i])].append(self._launch(call, number, addresses))
            if calls.rounds:
                first, last = calls.inside
                loops.append(Rounds(at(step.waves[first]), at(step.waves[last - 1]), calls.rounds))
        if looks:
            waves[made.checked + 1] = looks
        self.waves = Waves(waves, 1 + len(self._slots), loops)
        self._bind()
        self.kinds = Counter(type(step.unit).__name__.lower() for step in made.steps)
        self.peak_bytes = made.arena + sum(value.nbytes for value in compiled.memories)
        self.peak_bytes += sum(each.program.peak_bytes for each in self._steps.values())
        _let_go(compiled)
        self.seconds = time.perf_counter() - started

    def _looks(self) -> list[Launch]:
        """Launches, of a wave of their own behind the checks, that end the run if one of those
        holds.
        """
        compiled = self.compiled
        memories = set(compiled.memories)
        bases = [chain_of(value, memories)[0] for value in compiled.simplified.checks]
        checks = [each for each in dict.fromkeys(bases) if each in memories]
        if not checks:
            return []
        assert compiled.plan.checked >= 0, "nobody makes the checks"
        address = compile_kernels([LOOK])["schuss_look"]
        return [
            Launch(address, (0, self._slot(Place(each), -1), self._slot(each.nbytes, -1)),
                   checked=True)
            for each in checks
        ]  # fmt: skip

    def _launch(self, call: Call, step: int, addresses: dict[str, int]) -> Launch:
        words = tuple(self._slot(word, step) for word in call.words)
        steps = tuple((w.even, w.odd) if isinstance(w, Place) else (0, 0) for w in call.words)
        moves = steps if any(each != (0, 0) for each in steps) else ()
        return Launch(addresses[call.name], words, call.parts, call.scratch, steps=moves)

    def _slot(self, word: Place | int, step: int) -> int:
        key: Any = word
        if isinstance(word, Place):
            key = Place(word.value, word.offset)
            if word.value is None:
                key = ("workspace", step, word.offset)
        return self._slots.setdefault(key, 1 + len(self._slots))

    # --- slots ---

    def _bind(self) -> None:
        """Sort the slots by where their addresses come from."""
        compiled, made = self.compiled, self.compiled.plan
        given = [value for value in compiled.simplified.inputs if value.array is None]
        inputs = {value: i for i, value in enumerate(given)}
        memories = {value: i for i, value in enumerate(compiled.memories)}
        # Slots with what is added to the address, for each input and each memory.
        self._of_inputs: list[list[tuple[int, int]]] = [[] for _ in given]
        self._of_memories: list[list[tuple[int, int]]] = [[] for _ in compiled.memories]
        self._of_arena: list[tuple[int, int]] = []
        constants: list[tuple[int, Value]] = []
        for key, slot in self._slots.items():
            if isinstance(key, int):
                self.waves.slots[slot] = key
            elif isinstance(key, tuple):
                offset = made.workspaces.get(key[1], 0) + key[2]
                self._of_arena.append((slot, offset))
            elif key.value.array is not None:
                self.waves.slots[slot] = address_of(key.value.array) + key.offset
            elif key.value in inputs:
                self._of_inputs[inputs[key.value]].append((slot, key.offset))
            elif key.value in memories:
                self._of_memories[memories[key.value]].append((slot, key.offset))
            elif key.value.op == "constant":
                constants.append((slot, key.value))
            else:
                self._of_arena.append((slot, made.offsets.get(key.value, 0) + key.offset))
        self._constants = []
        for slot, value in constants:
            array = np.full(value.shape, value.attributes["value"], value.dtype)
            self._constants.append(array)
            self.waves.slots[slot] = array.ctypes.data
        self._version = -1
        self._donors = [
            inputs.get(made.donations[value], -1) if value in made.donations else -1
            for value in compiled.memories
        ]
        self.donors = sorted({i for i in self._donors if i >= 0})
        self._inputs, self._memories = inputs, memories
        self._pools: list[list[tuple[np.ndarray, int]]] = [[] for _ in compiled.memories]
        self._results = [self._result(value) for value in compiled.simplified.outputs]
        self._segments = self._cut()
        idle = len(self._segments) == 1 and not self._segments[0][2]
        as_made = all(made and not views for _, made, views in self._results)
        self._straight = idle and as_made
        self._returned = [place for place, _, _ in self._results] if as_made else None
        shapes = [value.shape for value in given]
        reshaped = {
            i for i, (value, donor) in enumerate(zip(compiled.memories, self._donors, strict=True))
            if donor >= 0 and shapes[donor] != value.shape
        }  # fmt: skip
        self._bound = binder(
            self.waves.slots, self._of_inputs, self._of_memories, self._donors, self._pools,
            self._free, self._taken_over, self._returned if idle else None, reshaped,
        )  # fmt: skip

    def _result(self, value: Value) -> tuple[int, bool, list[Value]]:
        """Where an output comes from: a memory or an input, and the views that lead to it."""
        chain = chain_of(value, set(self._memories))
        while chain and chain[0] not in self._memories and chain[0] not in self._inputs:
            if _is_fixed(chain[0]):
                break
            chain = chain[1:]
        base = chain[0]
        if base in self._memories:
            return self._memories[base], True, chain[1:]
        if base in self._inputs:
            return self._inputs[base], False, chain[1:]
        return -1, False, chain

    def _cut(self) -> list[tuple[int, int, list[Host]]]:
        """Waves with nothing to do in between: (from, to, then host steps)."""
        found, start, count = [], 0, len(self._hosts)
        for wave, hosts in enumerate(self._hosts):
            if hosts or wave == count - 1:
                found.append((start, wave + 1, hosts))
                start = wave + 1
        return found

    # --- running ---

    def run(
        self, arrays: Sequence[np.ndarray], dying: Sequence[bool] | None = None
    ) -> list[np.ndarray]:
        """The outputs for these inputs.

        Args:
            arrays: the values of the inputs that are no constants, dense unless the graph says
                otherwise.
            dying: for each input whether its memory may be overwritten.

        Raises CheckFailedError before anything is overwritten where an index points outside.
        """
        if self._version != self._arena.version:
            self._enter_arena()
        memories = self._bound(arrays, dying)
        run = self.waves.run
        if self._straight:  # the common case: nothing between the waves, nothing after
            if run() == FAILED:
                raise CheckFailedError
            return memories
        for first, last, hosts in self._segments:
            if run(first, last) == FAILED:
                raise CheckFailedError
            for host in hosts:
                self._on_host(host, arrays, memories)
        if self._returned:
            return [memories[place] for place in self._returned]
        return [self._seen(each, arrays, memories) for each in self._results]

    def _enter_arena(self) -> None:
        """Fill in the slots of what lives only inside the run."""
        arena = self._arena
        arena.need(self.compiled.plan.arena)
        for slot, offset in self._of_arena:
            self.waves.slots[slot] = arena.address + offset
        self._version = arena.version

    def owns(self, array: np.ndarray) -> bool:
        """Whether a pool of a program holds the array, besides whoever uses it."""
        return id(array) in _pooled

    def give_back(self) -> None:
        """Let go of the arrays that nobody uses."""
        for pool in self._pools:  # an array has two references: the entry and the argument
            pool[:] = [entry for entry in pool if sys.getrefcount(entry[0]) > 2]

    def _taken_over(self, array: np.ndarray, i: int) -> np.ndarray:
        """An input's array as an output, which needs no other memory as long as this goes on."""
        for entry in self._pools[i]:
            del _pooled[id(entry[0])]
        self._pools[i].clear()
        shape = self.compiled.memories[i].shape
        return array if array.shape == shape else array.reshape(shape)

    def _free(self, i: int) -> tuple[np.ndarray, int]:
        """An array for an output that nobody holds any more, or a new one; and its address."""
        pool = self._pools[i]
        for entry in pool:
            if sys.getrefcount(entry[0]) == 2:  # the entry and the argument
                return entry
        value = self.compiled.memories[i]
        array = np.empty(value.shape, value.dtype)
        made = array, address_of(array)
        if len(pool) < 2:
            pool.append(made)
            number = id(array)
            _pooled[number] = weakref.ref(array, lambda ref: _forget(number, ref))
        return made

    def _seen(
        self, result: tuple[int, bool, list[Value]], arrays: Any, memories: Any
    ) -> np.ndarray:
        place, made, views = result
        if place < 0:
            return _through(_constant(views[0]), views[1:])
        found = memories[place] if made else arrays[place]
        return _through(found, views) if views else found

    def _on_host(self, host: Host, arrays: Any, memories: Any) -> None:
        value = host.value
        operands = [self._operand(chain, arrays, memories) for chain in host.operands]
        op = value.definition or REGISTRY[value.op]
        meaning = self._steps.get(value, op.reference)
        with np.errstate(all="ignore"):
            made = meaning(*operands, **value.attributes)
        self._array(value, arrays, memories)[...] = made

    def _operand(self, chain: list[Value], arrays: Any, memories: Any) -> np.ndarray:
        base = chain[0]
        return _through(self._array(base, arrays, memories), chain[1:])

    def _array(self, value: Value, arrays: Any, memories: Any) -> np.ndarray:
        if value in self._inputs:
            return arrays[self._inputs[value]]
        if value in self._memories:
            return memories[self._memories[value]]
        if _is_fixed(value):
            return _constant(value)
        return self._arena.view(self.compiled.plan.offsets.get(value, 0), value)


class _Steps:
    """A loop whose steps need the host: each step runs a program."""

    def __init__(self, loop: Value) -> None:
        made: Loop = loop.attributes["loop"]
        graph = steps_of(made, loop.inputs, [None] * len(loop.inputs))
        self.program = Program(compile_graph(graph), _Arena())
        wishes = [True] * len(made.carries) + list(made.ys)
        self._places = [i for i, wish in enumerate(wishes) if wish]
        self._count = len(wishes)

    def __call__(self, *operands: np.ndarray, loop: Loop) -> np.ndarray:
        return in_steps([np.asarray(each, order="C") for each in operands], loop, self._step)

    def _step(self, inputs: list[Any]) -> list[Any]:
        made: list[Any] = [None] * self._count
        results = self.program.run([np.asarray(each) for each in inputs])
        for i, result in zip(self._places, results, strict=True):
            made[i] = result
        return made


def _loops_on_host(compiled: Compiled) -> list[Value]:
    values = [unit.value for unit in compiled.units if isinstance(unit, Host)]
    loops = [value for value in values if value.op == "scan"]
    return [each for each in loops if can_repeat(each.attributes["loop"])]


def _settle(once: Compiled) -> None:
    """Compute what is made of constants alone, and keep it where vectors do not cross lines.

    All of it lies in one array, for which NumPy asks for large pages.
    """
    made = Program(once).run([])
    starts = np.cumsum([0, *[-(-array.nbytes // _LINE) * _LINE for array in made]])
    room = np.empty(int(starts[-1]) + _LINE, np.uint8)
    room = room[-room.ctypes.data % _LINE :]
    for value, array, start in zip(once.simplified.outputs, made, starts[:-1], strict=True):
        place = room[start : start + array.nbytes]
        value.array = place.view(array.dtype).reshape(array.shape)
        value.array[...] = array


_LINE = 64


def _let_go(compiled: Compiled) -> None:
    """Forget the constants that only those units read which do not run again."""
    if compiled.once is not None:
        read = {value for unit in compiled.units for value in unit.reads()}
        for value in compiled.once.simplified.inputs:
            if value not in read:
                value.array = np.empty(0, value.dtype)


def _is_fixed(value: Value) -> bool:
    return value.op == "constant" or value.array is not None


def _constant(value: Value) -> np.ndarray:
    if value.array is not None:
        return value.array
    return np.full(value.shape, value.attributes["value"], value.dtype)


def _through(array: np.ndarray, views: Sequence[Value]) -> np.ndarray:
    for view in views:
        array = np.asarray(REGISTRY[view.op].reference(array, **view.attributes))
    return array


def _addresses(calls: Sequence[Calls | None]) -> dict[str, int]:
    """Compile all kernels, and tell where they are."""
    sources = {}
    for each in calls:
        if each is None:
            continue
        for source in each.shared:
            sources[source.text] = source
        for group in each.groups:
            for call in group:
                sources[call.source.text] = call.source
    return compile_kernels(sources.values())
