"""Kernels for the tests of what runs kernels, and launches of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from schuss.compiler.cpu.runtime import FAIL, OK, Launch, Sequence

KERNELS = (
    FAIL
    + """
; x[part] = 3 x[part] + a
define void @affine(ptr noalias %args, i64 %part, ptr noalias %scratch) {
  %x = load ptr, ptr %args
  %a_at = getelementptr i64, ptr %args, i64 1
  %a = load i64, ptr %a_at
  %at = getelementptr i64, ptr %x, i64 %part
  %old = load i64, ptr %at
  %three = mul i64 %old, 3
  %new = add i64 %three, %a
  store i64 %new, ptr %at
  ret void
}

; Come together with all the other parts: true in y[part] where that worked.
; args: the counter, y, how many parts, how often to look
define void @meet(ptr noalias %args, i64 %part, ptr noalias %scratch) {
entry:
  %counter = load ptr, ptr %args
  %y_at = getelementptr i64, ptr %args, i64 1
  %y = load ptr, ptr %y_at
  %parts_at = getelementptr i64, ptr %args, i64 2
  %parts = load i64, ptr %parts_at
  %patience_at = getelementptr i64, ptr %args, i64 3
  %patience = load i64, ptr %patience_at
  %old = atomicrmw add ptr %counter, i64 1 seq_cst
  br label %look
look:
  %i = phi i64 [ 0, %entry ], [ %j, %again ]
  %there = load atomic i64, ptr %counter seq_cst, align 8
  %met = icmp uge i64 %there, %parts
  br i1 %met, label %end, label %again
again:
  %j = add i64 %i, 1
  %on = icmp ult i64 %j, %patience
  br i1 %on, label %look, label %end
end:
  %answer = zext i1 %met to i64
  %at = getelementptr i64, ptr %y, i64 %part
  store i64 %answer, ptr %at
  ret void
}

; Fill n words of scratch with part, and y[part] = their sum, or -1 where they are not aligned.
define void @fill(ptr noalias %args, i64 %part, ptr noalias %scratch) {
entry:
  %y = load ptr, ptr %args
  %n_at = getelementptr i64, ptr %args, i64 1
  %n = load i64, ptr %n_at
  br label %write
write:
  %i = phi i64 [ 0, %entry ], [ %i1, %write ]
  %to = getelementptr i64, ptr %scratch, i64 %i
  store i64 %part, ptr %to
  %i1 = add i64 %i, 1
  %more = icmp ult i64 %i1, %n
  br i1 %more, label %write, label %read
read:
  %j = phi i64 [ 0, %write ], [ %j1, %read ]
  %sum = phi i64 [ 0, %write ], [ %sum1, %read ]
  %from = getelementptr i64, ptr %scratch, i64 %j
  %word = load i64, ptr %from
  %sum1 = add i64 %sum, %word
  %j1 = add i64 %j, 1
  %rest = icmp ult i64 %j1, %n
  br i1 %rest, label %read, label %end
end:
  %address = ptrtoint ptr %scratch to i64
  %low = and i64 %address, 63
  %aligned = icmp eq i64 %low, 0
  %answer = select i1 %aligned, i64 %sum1, i64 -1
  %at = getelementptr i64, ptr %y, i64 %part
  store i64 %answer, ptr %at
  ret void
}

; Report x[part] where it is negative. args: the status, x, the tag
define void @check(ptr noalias %args, i64 %part, ptr noalias %scratch) {
entry:
  %status = load ptr, ptr %args
  %x_at = getelementptr i64, ptr %args, i64 1
  %x = load ptr, ptr %x_at
  %tag_at = getelementptr i64, ptr %args, i64 2
  %tag = load i64, ptr %tag_at
  %at = getelementptr i64, ptr %x, i64 %part
  %value = load i64, ptr %at
  %bad = icmp slt i64 %value, 0
  br i1 %bad, label %report, label %end
report:
  call void @schuss_fail(ptr %status, i64 %tag, i64 %part, i64 %value)
  br label %end
end:
  ret void
}

; Count to n. args: n
define void @count(ptr noalias %args, i64 %part, ptr noalias %scratch) {
entry:
  %n = load i64, ptr %args
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %j, %next ]
  %old = load volatile i64, ptr %args
  %j = add i64 %i, 1
  %more = icmp ult i64 %j, %n
  br i1 %more, label %next, label %end
end:
  ret void
}
"""
)
NAMES = ("affine", "meet", "fill", "check", "count")
PATIENCE = 2**32  # looks: several seconds


def meeting(kernels: dict[str, int], parts: int) -> Callable[[], bool]:
    """All parts of a launch at the same time, each on a thread of its own."""
    counter, y = np.zeros(1, np.int64), np.zeros(parts, np.int64)
    sequence = Sequence([[Launch(kernels["meet"], (1, 2, 3, 4), parts)]], 5)
    sequence.slots[1], sequence.slots[2] = counter.ctypes.data, y.ctypes.data
    sequence.slots[3], sequence.slots[4] = parts, PATIENCE

    def meet() -> bool:
        counter[:], y[:] = 0, 0
        assert sequence.run() == OK
        return bool(y.all())

    return meet
