"""How a thread waits on this system, as LLVM IR: pause, look at the clock, sleep, be woken.

    @pause()                   a moment, without giving the processor away
    @now() -> i64              nanoseconds of a clock that only goes forward
    @sleep(ptr word, i32 value, i32 microseconds)
    @wake(ptr word, i32 count) -> i64
                               wake so many that sleep on the word; how many there were

A thread that sleeps does so while the word has the value, until @wake is called on it, or for no
reason. On Linux that is the futex system call. Other POSIX systems poll: @sleep lasts so many
microseconds and @wake does nothing, which is slower to begin with and as right. Windows has none of
the C functions that are called here.
"""

from __future__ import annotations

import sys

from schuss.compiler.cpu.host import host

_CLOCK = """
declare i32 @sched_yield()
declare i32 @clock_gettime(i32, ptr)

define internal i64 @now() {
  %time = alloca { i64, i64 }
  %code = call i32 @clock_gettime(i32 CLOCK, ptr %time)
  %seconds = load i64, ptr %time
  %rest_at = getelementptr { i64, i64 }, ptr %time, i64 0, i32 1
  %rest = load i64, ptr %rest_at
  %whole = mul i64 %seconds, 1000000000
  %sum = add i64 %whole, %rest
  ret i64 %sum
}
"""

_FUTEX = """
declare i64 @syscall(i64, ...)

define internal void @sleep(ptr %word, i32 %value, i32 %microseconds) {
  %code = call i64 (i64, ...) @syscall(i64 FUTEX, ptr %word, i32 128, i32 %value, ptr null,
                                       ptr null, i32 0)
  ret void
}

define internal i64 @wake(ptr %word, i32 %count) {
  %code = call i64 (i64, ...) @syscall(i64 FUTEX, ptr %word, i32 129, i32 %count, ptr null,
                                       ptr null, i32 0)
  ret i64 %code
}
"""

_POLLING = """
declare i32 @usleep(i32)

define internal void @sleep(ptr %word, i32 %value, i32 %microseconds) {
  %code = call i32 @usleep(i32 %microseconds)
  ret void
}

define internal i64 @wake(ptr %word, i32 %count) {
  ret i64 0
}
"""

_PAUSE = {
    "x86_64": "declare void @llvm.x86.sse2.pause()\n"
    "define internal void @pause() {\n  call void @llvm.x86.sse2.pause()\n  ret void\n}\n",
    "aarch64": "declare void @llvm.aarch64.hint(i32)\n"
    "define internal void @pause() {\n  call void @llvm.aarch64.hint(i32 1)\n  ret void\n}\n",
    "other": "define internal void @pause() {\n  ret void\n}\n",
}
_FUTEX_NUMBER = {"x86_64": "202", "aarch64": "98"}  # of the system call, on Linux


def waiting(polling: bool = False) -> str:
    """The text for the processor and the system that code is compiled for.

    Args:
        polling: do without futexes in any case.
    """
    processor = host().triple.partition("-")[0].replace("arm64", "aarch64")
    number = _FUTEX_NUMBER.get(processor) if sys.platform == "linux" else None
    futex = number is not None and not polling
    sleeping = _FUTEX.replace("FUTEX", str(number)) if futex else _POLLING
    clock = "6" if sys.platform == "darwin" else "1"  # CLOCK_MONOTONIC
    return _CLOCK.replace("CLOCK", clock) + _PAUSE.get(processor, _PAUSE["other"]) + sleeping
