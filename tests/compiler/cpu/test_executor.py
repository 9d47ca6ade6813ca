"""The executor's text on processors and systems that the tests do not run on."""

from __future__ import annotations

import dataclasses

import llvmlite.binding as llvm
import pytest

from schuss.compiler.cpu import executor, waiting
from schuss.compiler.cpu.host import host


@pytest.mark.parametrize("polling", [True, False])
@pytest.mark.parametrize(
    ("triple", "pause"),
    [
        ("x86_64-unknown-linux-gnu", "pause"),
        ("aarch64-unknown-linux-gnu", "yield"),
        ("arm64-apple-darwin23", "yield"),
        ("riscv64-unknown-linux-gnu", ""),
    ],
)
def test_it_compiles(monkeypatch, triple, pause, polling):
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    there = dataclasses.replace(host(), triple=triple)
    monkeypatch.setattr(waiting, "host", lambda: there)
    monkeypatch.setattr(waiting.sys, "platform", "darwin" if "apple" in triple else "linux")
    machine = llvm.Target.from_triple(triple).create_target_machine()
    text = executor.source(polling).text
    with (
        llvm.create_context() as context,
        llvm.parse_assembly(f'target triple = "{triple}"\n{text}', context) as module,
    ):
        module.verify()
        assembly = machine.emit_assembly(module)
    for name in executor.NAMES:
        assert name in assembly
    assert pause in assembly
    futex = "linux" in triple and "riscv" not in triple and not polling
    assert ("syscall" in assembly) == futex
    assert ("usleep" in assembly) == (not futex)
