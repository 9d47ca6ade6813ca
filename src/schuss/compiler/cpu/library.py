"""LLVM IR in, native addresses out: compiled once, kept on disk, loaded for ever.

    Source(text, names, shared=False)
    compile_kernels(sources) -> {name: address}
    disassemble(text) -> str

A text is LLVM IR without `target triple` and `target datalayout`, which are added here. Functions
that are not in `names` should be `internal`. Within one call all names are different; separate
calls may use the same names for different texts. Functions of the process, such as C's `expf`, need
only a `declare`.

A function that several texts call is compiled once, in a `shared` source: any text that is compiled
in the same call or later may `declare` it and call it. Names of shared functions are different in
the whole process; as texts are cached under their own content, a shared function whose meaning
changes needs a new name.

Texts are explicit vector code: LLVM's passes (`translate.py`) neither vectorise nor unroll loops.
There are no fast-math flags but those in the text.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Any

from schuss.compiler.cpu import cache as disk
from schuss.compiler.cpu import half
from schuss.compiler.cpu.host import get_num_threads, host, llvm_lock
from schuss.compiler.cpu.translate import Translator, runs_in_parallel, target_machine, translate

_FORMAT = 2  # changes with what is done to a text beyond what `_target` says


@dataclass(frozen=True, slots=True)
class Source:
    """A module of LLVM IR.

    Attributes:
        text: the module.
        names: the functions whose addresses are wanted.
        shared: texts compiled in the same call or later may call these functions.
    """

    text: str
    names: tuple[str, ...]
    shared: bool = False


_loaded: dict[str, dict[str, int]] = {}  # by the key of a source
_shared: dict[str, int] = {}


def compile_kernels(sources: Iterable[Source]) -> dict[str, int]:
    """Compile and load modules, several at a time, and return the addresses of their functions.

    What this process or the cache on disk has already is not compiled again. Code stays loaded as
    long as the process lives.

    Raises RuntimeError with LLVM's words for a text that is not LLVM IR: a mistake of ours, not of
    a user.
    """
    with llvm_lock:
        keys = {_key(each): each for each in sources}
        _check_names(keys.values())
        new = {key: each for key, each in keys.items() if key not in _loaded}
        if new:
            _load(new, _objects(new))
        for key, each in keys.items():
            if each.shared:
                _share(_loaded[key])
        return {name: address for key in keys for name, address in _loaded[key].items()}


def disassemble(text: str) -> str:
    """The machine code of a module as assembly text, for people to read."""
    with llvm_lock:
        return translate(text, assembly=True).decode()


def _check_names(sources: Iterable[Source]) -> None:
    names = [name for each in sources for name in each.names]
    assert len(names) == len(set(names)), f"a name is defined twice: {sorted(names)}"


def _key(source: Source) -> str:
    text = "\n".join([_target(), *source.names, source.text])
    return sha256(text.encode()).hexdigest()


def _target() -> str:
    """All that an object depends on besides its source."""
    import llvmlite
    import llvmlite.binding as llvm

    there = host()
    version = (_FORMAT, llvmlite.__version__, llvm.llvm_version_info)
    return "\n".join([str(version), there.triple, there.layout, there.name, there.features])


def _objects(sources: dict[str, Source]) -> dict[str, bytes]:
    """The object code of each source: from the disk, or else compiled."""
    found = {key: disk.load(key) for key in sources}
    objects = {key: each for key, each in found.items() if each is not None}
    missing = {key: each for key, each in sources.items() if key not in objects}
    for key, each in _compile(missing).items():
        disk.store(key, each)
        objects[key] = each
    return objects


def _compile(sources: dict[str, Source]) -> dict[str, bytes]:
    """Compile on as many threads as compute."""
    if not sources:
        return {}
    if not runs_in_parallel():
        return {key: translate(each.text) for key, each in sources.items()}
    # The longest texts first, so that the threads finish together.
    waiting = deque(sorted(sources.items(), key=lambda item: -len(item[1].text)))
    objects: dict[str, bytes] = {}
    problems: list[Exception] = []

    def work() -> None:
        try:
            translator = Translator()
            while True:
                try:
                    key, each = waiting.popleft()
                except IndexError:
                    return
                objects[key] = translator(each.text)
        except Exception as problem:
            problems.append(problem)
            waiting.clear()

    helpers: list[threading.Thread] = []
    try:
        with suppress(RuntimeError):  # where the system gives no more threads
            for _ in range(min(len(waiting), get_num_threads()) - 1):
                helper = threading.Thread(target=work, daemon=True)
                helper.start()
                helpers.append(helper)
        work()
    finally:  # the helpers too stop at an interrupt
        waiting.clear()
        for helper in helpers:
            helper.join()
    if problems:
        raise problems[0]
    return objects


_numbers = itertools.count()
_kept: list[Any] = []  # what unloads code when it is collected: never


def _load(sources: dict[str, Source], objects: dict[str, bytes]) -> None:
    """Link objects into the process, as one library: they may call each other."""
    import llvmlite.binding as llvm

    builder = llvm.JITLibraryBuilder()
    builder.add_current_process()
    for key, source in sources.items():
        builder.add_object_img(objects[key])
        for name in source.names:
            builder.export_symbol(name)
    halves = half.object_for(host())
    if halves is not None:
        builder.add_object_img(halves)
    own = {name for source in sources.values() for name in source.names}
    for name, address in _shared.items():
        if name not in own and any(f"@{name}" in each.text for each in sources.values()):
            builder.import_symbol(name, address)
    library = builder.link(_engine(), f"kernels{next(_numbers)}")
    _kept.append(library)
    for key, source in sources.items():
        _loaded[key] = {name: library[name] for name in source.names}


def _share(addresses: dict[str, int]) -> None:
    for name, address in addresses.items():
        assert _shared.setdefault(name, address) == address, f"shared with another text: {name}"


@cache
def _engine() -> Any:
    import llvmlite.binding as llvm

    # JITLink puts all parts of an object into one piece of memory, which the small code model
    # needs; the other linker may put them gigabytes apart.
    return llvm.create_lljit_compiler(target_machine(), use_jit_link=True)
