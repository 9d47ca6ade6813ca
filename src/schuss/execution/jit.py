"""`schuss.jit`: a function on tensors, recorded, and called again without its Python.

What a function reads is found at places (see `jit_places`) and read again on every call; Python
values found there are compared with what was recorded. A function is recorded until two runs agree,
so that nothing which changes in between is taken for a constant. Where that cannot be, the function
runs as it would without `jit`, and `jit(f).why` tells the reason.
"""

from __future__ import annotations

import functools
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from operator import is_
from types import MethodType
from typing import Any, NamedTuple

import numpy as np

from schuss.context import context
from schuss.errors import ArgumentTypeError, SchussError, fail
from schuss.execution import tiers
from schuss.execution.evaluate import (
    evaluate_pending,
    note_run,
    one_at_a_time,
    watchers,
)
from schuss.execution.jit_places import At, Walk, is_plain
from schuss.execution.jit_record import Recording, RefusedError, conclude
from schuss.execution.jit_replay import FAILED, MISS, Replay, settle
from schuss.execution.jit_trace import Trace
from schuss.execution.jit_watch import Watch
from schuss.graph import data
from schuss.tensor import Tensor

_SIGNATURES = 64  # of one function; the least recently used go first
_RECORDINGS = 8  # of one signature
_PATIENCE = 8  # recordings without a replay in between, before a signature is left alone
_FREE = 24  # recordings of a signature; every further one needs so many replays
_REPLAYS_EACH = 8
_PENDING = 100  # nodes outside that wait, before a replay computes them

_NOTHING = np.zeros(())
_STEERING = frozenset(("param_groups", "get_last_lr", "state_dict", "state"))


class _Signature:
    """What is known of calls with arguments of the same kinds."""

    def __init__(self, objects: list[Any]) -> None:
        self.objects = objects  # keeps alive what the key names by identity
        self.why = ""
        self.watch: Watch | None = None
        self.replays: list[Replay] = []
        self.recorded = 0
        self.in_vain = 0  # recordings since the last replay
        self.replayed = 0


class _Latest(NamedTuple):
    """The last replay of a call whose arguments were tensors and nothing else.

    Attributes:
        mode: how many there were, and the modes that the call was made in.
    """

    replay: Replay
    mode: tuple[int, bool, Any]
    signature: _Signature


class Jit:
    """A function that is recorded and replayed: see `jit`.

    Attributes:
        function: the function itself.
        why: why the last call was not a replay; empty where it was one.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function, updated=())
        self.function = function
        self.why = ""
        self._known: OrderedDict[Any, _Signature] = OrderedDict()
        self._latest: _Latest | None = None
        self._floating: set[Any] = set()
        self._containers: list[Any] = []  # keeps the containers of floating places alive
        self._busy = threading.Lock()
        self._warned = False

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __repr__(self) -> str:
        return f"jit({getattr(self.function, '__qualname__', self.function)!s})"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        here = context.__dict__  # of this thread: one look instead of many
        if here["recording"] is not None:  # part of another recording
            return self.function(*args, **kwargs)
        latest = self._latest  # most calls are like the one before: a replay compares the rest
        if latest is not None and not kwargs and not watchers:
            replay, mode, signature = latest
            if mode == (len(args), here["grad_enabled"], here["autocast"]):
                result = self._replay(replay, args)
                if result is not MISS:
                    return self._ended(signature, result, args, kwargs)
        return self._by_signature(args, kwargs)

    def _by_signature(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Replay a recording of calls with such arguments, or run the function."""
        found: dict[Tensor, int] = {}
        objects: list[Any] = []
        mode = len(args), context.grad_enabled, context.autocast
        key = (
            *mode, *[_describe(each, found, objects) for each in args], *kwargs,
            *[_describe(each, found, objects) for each in kwargs.values()],
        )  # fmt: skip
        signature = self._known.get(key)
        tensors = [*found]
        if signature is not None and not watchers:
            for replay in signature.replays:
                if replay.recording.verified:
                    result = self._replay(replay, tensors)
                    if result is not MISS:
                        alone = len(tensors) == len(args) and not kwargs
                        if alone and all(map(is_, tensors, args)):
                            self._latest = _Latest(replay, mode, signature)
                        return self._ended(signature, result, args, kwargs)
        return self._slowly(key, signature, args, kwargs, tensors, objects)

    def _ended(self, signature: _Signature, result: Any, args: Any, kwargs: Any) -> Any:
        """The result of a replay; where a value was wrong, the plain function says what."""
        if result is FAILED:
            self.why = "a value was outside of what is allowed"
            return self.function(*args, **kwargs)
        signature.replayed += 1
        signature.in_vain = 0
        return result

    def _replay(self, replay: Replay, tensors: Sequence[Tensor]) -> Any:
        started = time.perf_counter()
        with one_at_a_time:
            result = replay.call(tensors)
        if result is MISS or result is FAILED:
            return result
        self.why = ""
        program = replay.program
        if program is not None:
            note_run(program, "replayed by jit", time.perf_counter() - started)
        if replay.deferred and len(context.pending) > _PENDING:
            evaluate_pending()
        return result

    # --- calls that run the function ---

    def _slowly(
        self, key: Any, signature: _Signature | None, args: Any, kwargs: Any,
        tensors: list[Tensor], objects: list[Any],
    ) -> Any:  # fmt: skip
        """Run the function; watched or recorded, where that may lead to a replay."""
        self._latest = None
        self.why = self._forbidden()
        if self.why or not self._busy.acquire(blocking=False):
            return self.function(*args, **kwargs)
        try:
            if signature is None:
                signature = self._known[key] = _Signature(objects)
                if len(self._known) > _SIGNATURES:
                    self._known.popitem(last=False)
            if signature.why:
                self.why = signature.why
                return self.function(*args, **kwargs)
            if signature.watch is None:
                return self._watch(signature, args, kwargs)
            return self._record(signature, args, kwargs, tensors, objects)
        finally:
            self._busy.release()

    def _forbidden(self) -> str:
        if watchers:
            return "values are being watched (schuss.debug)"
        if tiers.reference_only():
            return "SCHUSS_EXECUTION=reference"
        return "SCHUSS_CHECK=1 compares the tiers" if tiers.checking() else ""

    def _watch(self, signature: _Signature, args: Any, kwargs: Any) -> Any:
        """The first run: as without us, to see what the function does."""
        watch, trace = Watch(), Trace(defer=False)
        with trace.running(), watch.watching():
            result = self.function(*args, **kwargs)
        signature.watch = watch
        self.why = "seen for the first time: recorded when it comes back"
        problem = watch.problem or trace.problem
        code = getattr(self.function, "__code__", None)
        if not problem and watch.missed(code):
            problem = "its run could not be observed"
        if problem:
            self._give_up(signature, problem)
        return result

    def _give_up(self, signature: _Signature, problem: str) -> None:
        signature.why = self.why = problem
        signature.replays.clear()
        if not self._warned:
            self._warned = True
            warnings.warn(f"{self!r} runs as without jit: {problem}", UserWarning, stacklevel=5)

    def _record(
        self, signature: _Signature, args: Any, kwargs: Any,
        tensors: list[Tensor], objects: list[Any],
    ) -> Any:  # fmt: skip
        known = signature.watch
        assert known is not None
        unverified = [
            each for each in signature.replays
            if not each.recording.verified and each.fits(tensors) is True
        ]  # fmt: skip
        self._learn(signature, unverified)
        walk = Walk(known, [self.function, *objects], tensors)
        if walk.problem:
            self._give_up(signature, walk.problem)
            return self.function(*args, **kwargs)
        try:
            for tensor in walk.handles:
                settle(tensor._node)
        except SchussError:  # the function may not look at that one
            return self.function(*args, **kwargs)
        names = {name for code in known.codes for name in code.co_names}
        watch, trace = Watch(), Trace(defer=True, live=not names & _STEERING)
        first = data(_NOTHING).number
        try:
            with trace.running(), watch.watching():
                result = self.function(*args, **kwargs)
            recording = self._concluded(watch, known, trace, walk, len(tensors), first, result)
        except RefusedError as refusal:
            self._refused(signature, refusal)
            if trace.deferred:
                with suppress(SchussError):
                    evaluate_pending()
                    return result
                _undo(walk, first)
                return self.function(*args, **kwargs)
            return result
        except BaseException as problem:  # without us it happens in the right order
            _undo(walk, first)
            if not isinstance(problem, Exception):
                raise
            self._count(signature, f"{type(problem).__name__} while recording")
        else:
            self._keep(signature, Replay(recording), unverified)
            return result
        return self.function(*args, **kwargs)

    def _concluded(
        self, watch: Watch, known: Watch, trace: Trace, walk: Walk, arguments: int, first: float,
        result: Any,
    ) -> Recording:  # fmt: skip
        """The recording of a run. Raises RefusedError where it cannot be replayed."""
        new = watch.codes.keys() - known.codes.keys()
        known.codes.update(watch.codes)
        problem = watch.problem or trace.problem
        if problem:
            raise RefusedError(problem)
        if new:
            raise RefusedError("it ran other code than before", passing=True)
        return conclude(trace, walk, arguments, self._floating, first, result)

    def _refused(self, signature: _Signature, refusal: RefusedError) -> None:
        if refusal.passing:
            self._count(signature, str(refusal))
        else:
            self._give_up(signature, str(refusal))

    def _keep(self, signature: _Signature, replay: Replay, unverified: list[Replay]) -> None:
        """Compare with earlier recordings; two that agree can be replayed."""
        recording = replay.recording
        for before in unverified:  # nothing that we know of has changed since
            problem = recording.agrees(before.recording)
            if problem:
                self._give_up(signature, problem)
                return
        problem = "recorded: replayed when a second run agrees"
        for before in list(signature.replays):
            problem = recording.agrees(before.recording)
            if not problem:
                recording.verified = True
                recording.live = before.recording.live | recording.changed(before.recording)
                signature.replays.remove(before)
        if recording.verified:
            replay = Replay(recording)
        signature.replays.insert(0, replay)
        del signature.replays[_RECORDINGS:]
        self.why = problem or "recorded"
        self._count(signature, problem)

    def _count(self, signature: _Signature, problem: str) -> None:
        """Leave a function alone that has to be recorded again and again."""
        signature.recorded += 1
        signature.in_vain += 1
        allowed = _FREE + signature.replayed // _REPLAYS_EACH
        if signature.in_vain > _PATIENCE or signature.recorded > allowed:
            self._give_up(signature, f"it would be recorded again and again: {problem}")

    def _learn(self, signature: _Signature, fitting: list[Replay]) -> None:
        """Places where another tensor is found than before are read anew from now on."""
        if fitting or not signature.replays:
            return
        recording = signature.replays[0].recording
        for place, value in recording.places:
            if not isinstance(value, At) or isinstance(place.container, At):
                continue
            before, found = recording.tensors[value.number].fixed, place.read()
            if before is not None and isinstance(found, Tensor) and found is not before:
                self._floating.add(place.identity)
                self._containers.append(place.container)


def _undo(walk: Walk, first: float) -> None:
    """As if the run had not been: what it left pending is nobody's."""
    walk.restore()
    context.pending = [
        ref for ref in context.pending if (node := ref()) is not None and node.number < first
    ]


def _describe(value: Any, tensors: dict[Tensor, int], objects: list[Any]) -> Any:
    """What calls must have in common in this argument, to share recordings."""
    if isinstance(value, Tensor):
        node, number = value._node, len(tensors)
        return node.kind.type, node.requires_grad, tensors.setdefault(value, number)
    kind = type(value)
    if kind is tuple or kind is list:
        return kind, *[_describe(each, tensors, objects) for each in value]
    if kind is dict:
        return (
            dict, tuple(value), *[_describe(each, tensors, objects) for each in value.values()]
        )  # fmt: skip
    if kind is float:
        return kind, value.hex()
    if is_plain(value):
        return kind, value
    objects.append(value)
    return "object", id(value)


def jit(function: Callable[..., Any]) -> Jit:
    """The same function, whose later calls skip its Python: recorded, compiled and replayed.

        @schuss.jit
        def step(x, y):
            optimizer.zero_grad()
            loss = loss_function(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

    The result is always that of the plain function. What it reads (arguments, variables around it,
    layers, optimizers, generators) is read again on every call, and everything that it changes is
    changed. It is recorded once for each combination of shapes, dtypes and Python values that it
    depends on; a run before and one after that make sure that nothing else steers it. Where the
    function looks at values of tensors in Python, prints, or does other things that cannot be
    repeated, it runs as without `jit`: `.why` tells the reason, and one warning.

    Raises ArgumentTypeError for what is not callable.
    """
    if not callable(function):
        raise fail(ArgumentTypeError, "jit", f"needs a function, got {type(function).__name__}",
                   hint="schuss.jit(f)(x), not schuss.jit(f(x))")  # fmt: skip
    return Jit(function)
