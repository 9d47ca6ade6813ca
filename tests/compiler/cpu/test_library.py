from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading

import pytest

from schuss.compiler.cpu import cache, library, translate
from schuss.compiler.cpu.host import get_num_threads, host, set_num_threads
from schuss.compiler.cpu.library import Source, compile_kernels, disassemble

Unary = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.delenv("SCHUSS_CACHE", raising=False)
    monkeypatch.setenv("SCHUSS_CACHE_DIR", str(tmp_path / "kernels"))
    return tmp_path / "kernels"


@pytest.fixture
def forgetful(monkeypatch):
    """Forget what this process has loaded, so that the cache on disk is asked."""
    monkeypatch.setattr(library, "_loaded", {})
    return library._loaded


def scale(name: str, factor: float) -> str:
    return f"""
define double @{name}(double %x) {{
  %y = fmul double %x, {factor:e}
  ret double %y
}}
"""


def test_compile_and_call():
    sources = [Source(scale("twice", 2.0), ("twice",)), Source(scale("thrice", 3.0), ("thrice",))]
    found = compile_kernels(sources)
    assert set(found) == {"twice", "thrice"}
    assert Unary(found["twice"])(1.25) == 2.5
    assert Unary(found["thrice"])(1.25) == 3.75


def test_several_names_in_a_text():
    found = compile_kernels([Source(scale("a", 5.0) + scale("b", 7.0), ("a", "b"))])
    assert (Unary(found["a"])(1.0), Unary(found["b"])(1.0)) == (5.0, 7.0)


def test_the_same_text_is_compiled_once():
    source = Source(scale("once", 11.0), ("once",))
    first = compile_kernels([source])
    assert (
        compile_kernels([source, Source(scale("other", 12.0), ("other",))])["once"]
        == (first["once"])
    )


def test_separate_calls_may_use_the_same_name():
    found = [compile_kernels([Source(scale("f", float(i)), ("f",))])["f"] for i in (1, 2, 3)]
    assert [Unary(address)(10.0) for address in found] == [10.0, 20.0, 30.0]


def test_one_call_may_not():
    with pytest.raises(AssertionError, match="a name is defined twice"):
        compile_kernels([Source(scale("f", i), ("f",)) for i in (1.0, 2.0)])


def test_nothing_to_compile():
    assert compile_kernels([]) == {}


def test_functions_of_the_process():
    text = """
declare double @cbrt(double)
define double @root(double %x) {
  %y = call double @cbrt(double %x)
  ret double %y
}
"""
    assert Unary(compile_kernels([Source(text, ("root",))])["root"])(1.0) == 1.0


CALLER = """
declare double @shared_{name}(double)
define double @caller_{name}(double %x) {{
  %y = call double @shared_{name}(double %x)
  %z = fadd double %y, 1.0
  ret double %z
}}
"""


@pytest.mark.parametrize("together", [True, False])
def test_shared_functions(together):
    name = f"function_{together}".lower()
    shared = Source(scale(f"shared_{name}", 100.0), (f"shared_{name}",), shared=True)
    caller = Source(CALLER.format(name=name), (f"caller_{name}",))
    if not together:
        compile_kernels([shared])
    found = compile_kernels([caller, shared])
    assert Unary(found[f"caller_{name}"])(2.0) == 201.0


@pytest.mark.parametrize("serial", [True, False])
def test_mistakes_are_told_with_llvms_words(monkeypatch, serial):
    if serial:
        monkeypatch.setattr(translate, "_library", lambda: None)
    text = "\ndefine double @wrong(double %x) {\n  ret float %x\n}\n"
    with pytest.raises(RuntimeError, match=r"3:13: error: '%x' defined with type 'double'"):
        compile_kernels([Source(text, ("wrong",))])
    text = """
define i64 @wrong(i1 %c) {
  br i1 %c, label %a, label %b
a:
  %x = add i64 1, 2
  br label %b
b:
  ret i64 %x
}
"""
    with pytest.raises(RuntimeError, match="Instruction does not dominate all uses"):
        compile_kernels([Source(text, ("wrong",))])


def test_a_mistake_spoils_nothing():
    good = [Source(scale(f"good{i}", i), (f"good{i}",)) for i in range(5)]
    with pytest.raises(RuntimeError, match="error"):
        compile_kernels([*good, Source("define nonsense", ("bad",))])
    assert Unary(compile_kernels(good)["good3"])(1.0) == 3.0


def test_a_function_that_is_nowhere():
    text = "declare void @nowhere()\ndefine void @lost() {\n  call void @nowhere()\n  ret void\n}\n"
    with pytest.raises(RuntimeError, match="Failed to materialize symbols"):
        compile_kernels([Source(text, ("lost",))])


def test_shared_names_are_different_in_the_whole_process():
    compile_kernels([Source(scale("one_of_a_kind", 1.0), ("one_of_a_kind",), shared=True)])
    with pytest.raises(AssertionError, match="shared with another text: one_of_a_kind"):
        compile_kernels([Source(scale("one_of_a_kind", 2.0), ("one_of_a_kind",), shared=True)])


def test_the_same_text_with_other_names_or_shared_later():
    text = scale("left", 3.0) + scale("right", 4.0)
    assert set(compile_kernels([Source(text, ("left",))])) == {"left"}
    assert set(compile_kernels([Source(text, ("left", "right"))])) == {"left", "right"}
    compile_kernels([Source(text, ("right",))])
    compile_kernels([Source(text, ("right",), shared=True)])
    caller = CALLER.format(name="x").replace("shared_x", "right").replace("caller_x", "later")
    assert Unary(compile_kernels([Source(caller, ("later",))])["later"])(2.0) == 9.0


LOOP = """
define void @loop(ptr noalias %x, ptr noalias %y) {
entry:
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %j, %next ]
  %at = getelementptr float, ptr %x, i64 %i
  %value = load float, ptr %at
  %double = fadd float %value, %value
  %to = getelementptr float, ptr %y, i64 %i
  store float %double, ptr %to
  %j = add i64 %i, 1
  %more = icmp ult i64 %j, 1024
  br i1 %more, label %next, label %end
end:
  ret void
}
"""


@pytest.mark.skipif(not host().is_x86, reason="names of x86-64 registers")
@pytest.mark.parametrize(("cpu", "register"), [("portable", "xmm"), ("avx2", "ymm")])
def test_code_for_lesser_processors(monkeypatch, cpu, register, forgetful, folder):
    if host().vector_bits < 256 and cpu == "avx2":
        pytest.skip("this machine has no avx2")
    text = """
define void @twice(ptr %x) {
  %a = load <16 x float>, ptr %x, align 4
  %b = fadd <16 x float> %a, %a
  store <16 x float> %b, ptr %x, align 4
  ret void
}
"""
    compile_kernels([Source(text, ("twice",))])
    host.cache_clear()
    monkeypatch.setenv("SCHUSS_CPU", cpu)
    try:
        code = disassemble(text)
        compile_kernels([Source(text, ("twice",))])
    finally:
        monkeypatch.delenv("SCHUSS_CPU")
        host.cache_clear()
    assert [name for name in ("xmm", "ymm", "zmm") if name in code] == [register]
    assert len(list(folder.iterdir())) == 2  # another processor's code is another entry


def test_no_fast_math():
    text = """
define float @sum(float %a, float %b, float %c) {
  %ab = fmul float %a, %b
  %s = fadd float %ab, %c
  ret float %s
}
"""
    assert "fma" not in disassemble(text)


class TestDisk:
    """What the cache on disk has is not compiled again."""

    source = Source(scale("kept", 21.0), ("kept",))

    @pytest.fixture(autouse=True)
    def compiled(self, forgetful):
        compile_kernels([self.source])

    def test_a_second_process_compiles_nothing(self, folder, monkeypatch, forgetful):
        def translator():
            raise AssertionError("compiled again")

        monkeypatch.setattr(library, "Translator", translator)
        forgetful.clear()
        assert Unary(compile_kernels([self.source])["kept"])(2.0) == 42.0
        with pytest.raises(AssertionError, match="compiled again"):
            compile_kernels([Source(scale("kept", 22.0), ("kept",))])

    def test_a_damaged_entry_is_compiled_anew(self, folder, forgetful):
        [entry] = folder.iterdir()
        good = entry.read_bytes()
        entry.write_bytes(good[:-1] + bytes([good[-1] ^ 255]))
        forgetful.clear()
        assert Unary(compile_kernels([self.source])["kept"])(2.0) == 42.0
        assert entry.read_bytes() == good

    def test_what_else_the_object_depends_on(self, folder, monkeypatch, forgetful):
        compile_kernels([Source(self.source.text + "\n; again", ("kept",))])
        assert len(list(folder.iterdir())) == 2
        there = library._target()
        monkeypatch.setattr(library, "_target", lambda: there + " and something")
        compile_kernels([self.source])
        assert len(list(folder.iterdir())) == 3

    def test_without_a_cache(self, monkeypatch, folder, forgetful):
        monkeypatch.setenv("SCHUSS_CACHE", "0")
        cache.clear()
        source = Source(scale("unkept", 23.0), ("unkept",))
        assert Unary(compile_kernels([source])["unkept"])(2.0) == 46.0
        assert len(list(folder.iterdir())) == 1


def texts(count: int) -> list[str]:
    return [scale(f"f{i}", i) + LOOP.replace("1024", str(256 + i)) for i in range(count)]


def test_threads_emit_the_same_code_as_llvmlite():
    expected = [translate.translate(text) for text in texts(6)]
    wrong = []

    def work():
        translator = translate.Translator()
        for _ in range(3):
            for text, code in zip(texts(6), expected, strict=True):
                if translator(text) != code:
                    wrong.append(text)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not wrong


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("serial", [True, False])
def test_many_texts_at_once(monkeypatch, threads, serial, forgetful):
    if serial:
        monkeypatch.setattr(translate, "_library", lambda: None)
    before = get_num_threads()
    set_num_threads(threads)
    try:
        found = compile_kernels([Source(scale(f"g{i}", i), (f"g{i}",)) for i in range(12)])
    finally:
        set_num_threads(before)
    assert [Unary(found[f"g{i}"])(1.0) for i in range(12)] == [float(i) for i in range(12)]


def test_where_the_system_gives_no_threads(monkeypatch, forgetful):
    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    monkeypatch.setattr(library, "get_num_threads", lambda: 4)
    found = compile_kernels([Source(scale(f"g{i}", i), (f"g{i}",)) for i in range(5)])
    assert [Unary(found[f"g{i}"])(1.0) for i in range(5)] == [float(i) for i in range(5)]


def test_threads_of_the_user(forgetful):
    results = []

    def work(number):
        for i in range(10):
            found = compile_kernels([Source(scale("h", i), ("h",))])
            results.append((Unary(found["h"])(1.0), float(i)))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(results) == 40
    assert all(value == expected for value, expected in results)


PRELUDE = """
import ctypes, os, sys, threading
from schuss.compiler.cpu.library import Source, compile_kernels

def kernel(i):
    body = f"%y = fmul double %x, {i:e} ret double %y"
    return Source(f"define double @k(double %x) {{ {body} }}", ("k",))

def value(i):
    found = compile_kernels([kernel(i)])["k"]
    return ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(found)(1.0)

def compile_for_ever():
    started.set()
    i = 0
    while True:
        i += 1
        value(float(i))

started = threading.Event()
threading.Thread(target=compile_for_ever, daemon=True).start()
started.wait()
"""


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PRELUDE + code],
        capture_output=True,
        text=True,
        env={**os.environ, "SCHUSS_CACHE": "0"},
        check=False,
        timeout=60,
    )


def test_the_process_may_end_while_a_thread_compiles():
    done = run("value(0.5)\nprint('ended')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
def test_a_forked_process_compiles():
    code = """
for i in range(8):
    child = os.fork()
    if child == 0:
        os._exit(0 if value(1000.5 + i) == 1000.5 + i else 1)
    assert os.waitpid(child, 0)[1] == 0
print("all")
"""
    done = run(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "all\n", "")
