"""LLVM IR text to object code or assembly text, on several threads at once.

llvmlite takes one lock for every call into LLVM, so that two threads never compile at the same
time. LLVM itself needs no such lock as long as each thread has its own context, module and target
machine. `Translator` therefore calls the same library's functions itself, with the types that
llvmlite declares for them; `translate` is the same thing through llvmlite's own calls, one at a
time, for where those functions are not found.
"""

from __future__ import annotations

import ctypes
from functools import cache
from types import SimpleNamespace
from typing import Any

from schuss.compiler.cpu.host import Host, host

_FUNCTIONS = [
    "ContextCreate",
    "ContextDispose",
    "ParseAssembly",
    "VerifyModule",
    "DisposeModule",
    "CreatePipelineTuningOptions",
    "DisposePipelineTuningOptions",
    "CreatePassBuilder",
    "DisposePassBuilder",
    "CreateNewModulePassManager",
    "RunNewModulePassManager",
    "DisposeNewModulePassManger",  # sic
    "TargetMachineEmitToMemory",
    "GetBufferStart",
    "GetBufferSize",
    "DisposeMemoryBuffer",
    "DisposeString",
]
# LLVM's passes, by llvmlite's name and its library's. Vectors, unrolled loops and what is hoisted
# out of them are in the text already, so that these make code as fast as -O2 does, in a third of
# its time.
_PASSES = {
    "always_inliner": "AlwaysInliner",
    "sroa": "SROA",
    "instruction_combine": "InstCombine",
    "simplify_cfg": "SimplifyCFG",
    "loop_simplify": "LoopSimplify",
    "loop_rotate": "LoopRotate",
}
_ORDER = (*_PASSES, "instruction_combine", "simplify_cfg")
_LEVEL = 2  # of code generation
_FUNCTIONS += [f"module_Add{name}Pass" for name in _PASSES.values()]


def complete(text: str) -> str:
    """The text, and before it, on its first line, what it is compiled for."""
    there = host()
    return f'target datalayout = "{there.layout}" target triple = "{there.triple}" {text}'


def target_machine() -> Any:
    """A new target machine for `host()`."""
    import llvmlite.binding as llvm

    there: Host = host()
    # Position-independent, so that calls may be to anywhere; what belongs to one module is loaded
    # as one piece, so that it can be near.
    return llvm.Target.from_triple(there.triple).create_target_machine(
        cpu=there.name, features=there.features, opt=_LEVEL, reloc="pic", codemodel="small"
    )


def translate(text: str, assembly: bool = False) -> bytes:
    """Compile a module to an object, or to assembly text.

    Raises RuntimeError with LLVM's words for what is not a module.
    """
    import llvmlite.binding as llvm

    with (
        llvm.create_context() as context,
        llvm.parse_assembly(complete(text), context) as module,  # closed before its context
    ):
        module.verify()
        machine = target_machine()
        builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options())
        passes = llvm.create_new_module_pass_manager()
        for name in _ORDER:
            getattr(passes, f"add_{name}_pass")()
        passes.run(module, builder)
        return machine.emit_assembly(module).encode() if assembly else machine.emit_object(module)


class Translator:
    """`translate` without llvmlite's lock. Each thread needs its own."""

    def __init__(self) -> None:
        found = _library()
        assert found is not None
        self.llvm = found
        self.machine = target_machine()

    def __call__(self, text: str) -> bytes:
        llvm = self.llvm
        context = llvm.ContextCreate()
        try:
            module = self._parse(text, context)
            try:
                self._optimise(module)
                return self._emit(module)
            finally:
                llvm.DisposeModule(module)
        finally:
            llvm.ContextDispose(context)

    def _parse(self, text: str, context: Any) -> Any:
        message = ctypes.c_char_p()
        module = self.llvm.ParseAssembly(context, complete(text).encode(), ctypes.byref(message))
        if not module:
            raise self._error("LLVM IR parsing error", message)
        message = ctypes.c_char_p()
        if self.llvm.VerifyModule(module, ctypes.byref(message)):
            self.llvm.DisposeModule(module)
            raise self._error("LLVM IR is not valid", message)
        return module

    def _optimise(self, module: Any) -> None:
        llvm = self.llvm
        options = llvm.CreatePipelineTuningOptions()
        builder = llvm.CreatePassBuilder(self.machine, options)
        passes = llvm.CreateNewModulePassManager()
        for name in _ORDER:
            getattr(llvm, f"module_Add{_PASSES[name]}Pass")(passes)
        llvm.RunNewModulePassManager(passes, module, builder)
        llvm.DisposeNewModulePassManger(passes)
        llvm.DisposePassBuilder(builder)
        llvm.DisposePipelineTuningOptions(options)

    def _emit(self, module: Any) -> bytes:
        llvm = self.llvm
        message = ctypes.c_char_p()
        buffer = llvm.TargetMachineEmitToMemory(self.machine, module, 1, ctypes.byref(message))
        if not buffer:
            raise self._error("LLVM cannot emit code", message)
        done = ctypes.string_at(llvm.GetBufferStart(buffer), llvm.GetBufferSize(buffer))
        llvm.DisposeMemoryBuffer(buffer)
        return done

    def _error(self, what: str, message: ctypes.c_char_p) -> RuntimeError:
        words = (message.value or b"").decode(errors="replace")
        self.llvm.DisposeString(message)
        return RuntimeError(f"{what}\n{words}")


def runs_in_parallel() -> bool:
    """Whether `Translator` can be used here."""
    return _library() is not None


@cache
def _library() -> SimpleNamespace | None:
    """The functions of LLVM that `Translator` calls, or None where llvmlite has changed."""
    from llvmlite.binding import ffi

    try:
        plain = ctypes.CDLL(ffi.lib._name)
        functions = {}
        for name in _FUNCTIONS:
            known = getattr(ffi.lib, f"LLVMPY_{name}")
            function = getattr(plain, f"LLVMPY_{name}")
            function.argtypes, function.restype = known.argtypes, known.restype
            functions[name] = function
    except (AttributeError, OSError):
        return None
    return SimpleNamespace(**functions)
