"""The code that runs kernels, as LLVM IR: the executor of sequences and the pool of threads.

The calling thread executes a sequence wave by wave. Where a wave has more than one part, it
publishes the wave, takes parts like every worker, and waits until all parts are finished.

`@ticket` holds all that is needed for taking a part: in its upper half a number that changes with
every wave, in its lower half how many parts nobody has taken yet. Whoever lowers that by one with a
compare-and-swap has taken a part; as the upper half must still be the same, a worker that slept
through a wave can never take a part of the next one by mistake, and the caller need not wait for
workers that have taken nothing. What describes a wave can be read once a part of it is taken, for
the wave cannot end before.

Which part it is, two more counters say: the caller and every second worker take parts from the
front, the others from the end. So when waves are repeated, as in a training step or in a loop, each
thread comes back to much the same parts, whose data its own cache still has.

Nobody waits actively for long. Who has nothing to do spins, after POLITE nanoseconds offers the
processor to others between its looks, and then sleeps: a worker after SPIN nanoseconds, on the
upper half of `@ticket`; the caller after PATIENCE, on `@left`. Both follow the same order so that
no wake-up is lost: who goes to sleep first says so and then looks again (the kernel does, in one
step with falling asleep); who has news first changes the word and then looks whether somebody
sleeps. All of these are sequentially consistent.

Waves may be run several times over, as the body of a loop. What changes from one time to the next
are addresses: after the last wave of a loop, to each word of its launches is added what the table
of steps says, one number after even rounds and one after odd rounds, so that buffers can take
turns. So a loop is a few numbers, however long it runs.
"""

from __future__ import annotations

from schuss.compiler.cpu.library import Source
from schuss.compiler.cpu.waiting import waiting

# Nanoseconds of waiting. A training loop spends about 100 microseconds in Python between runs.
POLITE = 10_000
SPIN = 200_000
PATIENCE = 50_000

# Sizes of the structures below, in words of 8 bytes. `runtime` fills them in.
LAUNCH_WORDS = 6
WAVE_WORDS = 7
SEQUENCE_WORDS = 6
LOOP_WORDS = 6

OK, FAILED, EXHAUSTED = 0, 1, 2  # what @schuss_run returns

_TYPES = """
%Launch = type { ptr, ptr, i64, i64, i64, ptr }
;   kernel, args, parts, parts of the wave up to here, bytes of scratch, wave
%Wave = type { ptr, i64, i64, i64, i64, i64, ptr }
;   launches, how many, parts of all, whether to look at the status, first word, out of memory, the
;   loop that ends here
%Loop = type { ptr, i64, i64, i64, ptr, i64 }
;   first wave, rounds, first word, the word behind the last, steps (two for each word), this round
%Sequence = type { ptr, ptr, ptr, ptr, %Scratch }
;   slots, words, args, waves, scratch for a run without the pool
%Scratch = type { ptr, i64 }
;   address, bytes
"""

_STATE = """
@ticket = hidden global i64 0, align 64         ; number of the wave << 32 | parts not taken
@left = hidden global i32 0, align 64           ; parts of the wave that are not finished
@asleep = hidden global i32 0, align 64         ; a worker may be asleep
@caller_asleep = hidden global i32 0, align 64  ; the caller may be asleep
@busy = hidden global i32 0, align 64           ; a run has the pool
@workers = hidden global i32 0                  ; workers with this number and above leave
@launches = hidden global ptr null, align 64    ; of the wave
@parts = hidden global i64 0                    ; of the wave
@front = hidden global i64 0, align 64          ; parts taken from the front of the wave
@back = hidden global i64 0, align 64           ; and from its end
@scratch = hidden global %Scratch zeroinitializer  ; of the caller
"""

_WORK = """
declare ptr @aligned_alloc(i64, i64)
declare void @free(ptr)

; Make scratch memory large enough. What was in it is lost. False: there is no memory.
; The stores are volatile so that a process forked at any point never sees freed memory.
define internal i1 @reserve(ptr %scratch, i64 %bytes) {
entry:
  %size_at = getelementptr %Scratch, ptr %scratch, i64 0, i32 1
  %size = load i64, ptr %size_at
  %fits = icmp uge i64 %size, %bytes
  br i1 %fits, label %enough, label %grow
enough:
  ret i1 true
grow:
  %old = load ptr, ptr %scratch
  store volatile i64 0, ptr %size_at
  store volatile ptr null, ptr %scratch
  call void @free(ptr %old)
  %more = add i64 %bytes, 4095
  %pages = and i64 %more, -4096
  %new = call ptr @aligned_alloc(i64 64, i64 %pages)
  %there = icmp ne ptr %new, null
  br i1 %there, label %keep, label %none
keep:
  store volatile ptr %new, ptr %scratch
  store volatile i64 %pages, ptr %size_at
  ret i1 true
none:
  ret i1 false
}

define void @schuss_release(ptr %scratch) {
  %old = load ptr, ptr %scratch
  store %Scratch zeroinitializer, ptr %scratch
  call void @free(ptr %old)
  ret void
}

; One part of one launch.
define internal void @work(ptr %launch, i64 %part, ptr %scratch) {
entry:
  %kernel = load ptr, ptr %launch
  %args_at = getelementptr %Launch, ptr %launch, i64 0, i32 1
  %args = load ptr, ptr %args_at
  %bytes_at = getelementptr %Launch, ptr %launch, i64 0, i32 4
  %bytes = load i64, ptr %bytes_at
  %plain = icmp eq i64 %bytes, 0
  br i1 %plain, label %run, label %reserve
reserve:
  %there = call i1 @reserve(ptr %scratch, i64 %bytes)
  br i1 %there, label %run, label %none
run:
  %memory = load ptr, ptr %scratch
  call void %kernel(ptr %args, i64 %part, ptr %memory)
  ret void
none:
  %wave_at = getelementptr %Launch, ptr %launch, i64 0, i32 5
  %wave = load ptr, ptr %wave_at
  %exhausted_at = getelementptr %Wave, ptr %wave, i64 0, i32 5
  store atomic i64 1, ptr %exhausted_at monotonic, align 8
  ret void
}

; Take parts of the published wave until none is left: from the front, or from the end.
define internal void @take_parts(ptr %scratch, i1 %from_end) {
entry:
  br label %look
look:
  %launch = phi ptr [ null, %entry ], [ %launch, %take ], [ %mine, %done ]
  %count = phi i32 [ 0, %entry ], [ %count, %take ], [ %more, %done ]
  %ticket = load atomic i64, ptr @ticket acquire, align 8
  %remaining = and i64 %ticket, 4294967295
  %none = icmp eq i64 %remaining, 0
  br i1 %none, label %end, label %take
take:
  %lower = sub i64 %ticket, 1
  %pair = cmpxchg ptr @ticket, i64 %ticket, i64 %lower acq_rel acquire, align 8
  %taken = extractvalue { i64, i1 } %pair, 1
  br i1 %taken, label %mine_now, label %look
mine_now:
  %first = load ptr, ptr @launches
  br i1 %from_end, label %take_last, label %take_first
take_first:
  %ahead = atomicrmw add ptr @front, i64 1 monotonic, align 8
  %unset = icmp eq ptr %launch, null
  %from = select i1 %unset, ptr %first, ptr %launch
  br label %find
take_last:
  %parts = load i64, ptr @parts
  %behind = atomicrmw add ptr @back, i64 1 monotonic, align 8
  %up_to = sub i64 %parts, %behind
  %last_one = sub i64 %up_to, 1
  br label %find
find:
  %number = phi i64 [ %ahead, %take_first ], [ %last_one, %take_last ], [ %number, %next ]
  %mine = phi ptr [ %from, %take_first ], [ %first, %take_last ], [ %after, %next ]
  %end_at = getelementptr %Launch, ptr %mine, i64 0, i32 3
  %end_part = load i64, ptr %end_at
  %here = icmp ult i64 %number, %end_part
  br i1 %here, label %found, label %next
next:
  %after = getelementptr %Launch, ptr %mine, i64 1
  br label %find
found:
  %size_at = getelementptr %Launch, ptr %mine, i64 0, i32 2
  %size = load i64, ptr %size_at
  %start = sub i64 %end_part, %size
  %part = sub i64 %number, %start
  call void @work(ptr %mine, i64 %part, ptr %scratch)
  br label %done
done:
  %more = add i32 %count, 1
  br label %look
end:
  %idle = icmp eq i32 %count, 0
  br i1 %idle, label %out, label %finish
finish:
  %before = atomicrmw sub ptr @left, i32 %count seq_cst, align 4
  %last = icmp eq i32 %before, %count
  br i1 %last, label %report, label %out
report:
  %waits = load atomic i32, ptr @caller_asleep seq_cst, align 4
  %asleep = icmp ne i32 %waits, 0
  br i1 %asleep, label %wake, label %out
wake:
  call i64 @wake(ptr @left, i32 1)
  br label %out
out:
  ret void
}
"""

# What follows a look (at label %round, the %i-th in a row) that found nothing: another look after a
# moment, or, once it has taken longer than this many nanoseconds since %start, label %sleep.
_WAIT = """
pause:
  call void @pause()
  %j = add i32 %i, 1
  %on = icmp ult i32 %j, 32
  br i1 %on, label %round, label %clock
clock:
  %time = call i64 @now()
  %spun = sub i64 %time, %start
  %enough = icmp ugt i64 %spun, LIMIT
  br i1 %enough, label %sleep, label %again
again:
  %late = icmp ugt i64 %spun, POLITE
  br i1 %late, label %yield, label %round
yield:
  call i32 @sched_yield()
  br label %round
"""

_WORKER = """
; Wake workers for so many parts, if any are asleep: four at most, who each wake four more as long
; as there are more parts than that (whatever @asleep says, which may be about to change).
define internal void @call_workers(i32 %parts) {
entry:
  %asleep = load atomic i32, ptr @asleep seq_cst, align 4
  %some = icmp ne i32 %asleep, 0
  br i1 %some, label %wake, label %out
wake:
  %said = atomicrmw xchg ptr @asleep, i32 0 seq_cst, align 4
  %wave_at = getelementptr i8, ptr @ticket, i64 4
  %few = icmp ult i32 %parts, 4
  %count = select i1 %few, i32 %parts, i32 4
  %woken = call i64 @wake(ptr %wave_at, i32 %count)
  %woken32 = trunc i64 %woken to i32
  %all_came = icmp uge i32 %woken32, %count
  %workers = load atomic i32, ptr @workers monotonic, align 4
  %not_all = icmp ult i32 %count, %workers
  %perhaps = and i1 %all_came, %not_all
  br i1 %perhaps, label %note, label %out
note:
  ; As many as were called have come: more may be asleep.
  %again = atomicrmw xchg ptr @asleep, i32 1 seq_cst, align 4
  br label %out
out:
  ret void
}

; What each worker runs, from its start until its number is no longer below @workers.
define void @schuss_worker(i32 %number) {
entry:
  %scratch = alloca %Scratch
  store %Scratch zeroinitializer, ptr %scratch
  %even = and i32 %number, 1
  %from_end = icmp eq i32 %even, 0
  br label %fresh
fresh:
  %start = call i64 @now()
  br label %round
round:
  %i = phi i32 [ 0, %fresh ], [ 0, %again ], [ 0, %yield ], [ %j, %pause ]
  %ticket = load atomic i64, ptr @ticket acquire, align 8
  %remaining = and i64 %ticket, 4294967295
  %work = icmp ne i64 %remaining, 0
  br i1 %work, label %take, label %pause
take:
  call void @take_parts(ptr %scratch, i1 %from_end)
  br label %fresh
WAIT(SPIN)
sleep:
  %said = atomicrmw xchg ptr @asleep, i32 1 seq_cst, align 4
  %seen = load atomic i64, ptr @ticket seq_cst, align 8
  %rest = and i64 %seen, 4294967295
  %new = icmp ne i64 %rest, 0
  br i1 %new, label %fresh, label %leave
leave:
  %workers = load atomic i32, ptr @workers seq_cst, align 4
  %stay = icmp ult i32 %number, %workers
  br i1 %stay, label %doze, label %out
doze:
  %high = lshr i64 %seen, 32
  %wave = trunc i64 %high to i32
  %wave_at = getelementptr i8, ptr @ticket, i64 4
  call void @sleep(ptr %wave_at, i32 %wave, i32 1000)
  %latest = load atomic i64, ptr @ticket seq_cst, align 8
  %open = trunc i64 %latest to i32
  %many = icmp ugt i32 %open, 4
  br i1 %many, label %pass_on, label %fresh
pass_on:
  %passed = call i64 @wake(ptr %wave_at, i32 4)
  br label %take
out:
  call void @schuss_release(ptr %scratch)
  ret void
}

; Let workers with numbers from `workers` on leave.
define void @schuss_set_workers(i32 %workers) {
  store atomic i32 %workers, ptr @workers seq_cst, align 4
  %old = atomicrmw add ptr @ticket, i64 4294967296 seq_cst, align 8
  %wave_at = getelementptr i8, ptr @ticket, i64 4
  call i64 @wake(ptr %wave_at, i32 2147483647)
  ret void
}

; For the child after a fork, which has no other threads.
define void @schuss_reset() {
  store atomic i64 0, ptr @ticket seq_cst, align 8
  store atomic i32 0, ptr @left seq_cst, align 4
  store atomic i32 0, ptr @asleep seq_cst, align 4
  store atomic i32 0, ptr @caller_asleep seq_cst, align 4
  store atomic i32 0, ptr @workers seq_cst, align 4
  store atomic i32 0, ptr @busy seq_cst, align 4
  ret void
}
"""

_RUN = """
; All parts of a wave, one after the other.
define internal void @run_alone(ptr %first, i64 %count, ptr %scratch) {
entry:
  %end = getelementptr %Launch, ptr %first, i64 %count
  br label %launch
launch:
  %one = phi ptr [ %first, %entry ], [ %next, %done ]
  %over = icmp eq ptr %one, %end
  br i1 %over, label %out, label %enter
enter:
  %parts_at = getelementptr %Launch, ptr %one, i64 0, i32 2
  %parts = load i64, ptr %parts_at
  br label %part
part:
  %i = phi i64 [ 0, %enter ], [ %j, %run ]
  %more = icmp ult i64 %i, %parts
  br i1 %more, label %run, label %done
run:
  call void @work(ptr %one, i64 %i, ptr %scratch)
  %j = add i64 %i, 1
  br label %part
done:
  %next = getelementptr %Launch, ptr %one, i64 1
  br label %launch
out:
  ret void
}

; All parts of a wave, together with the workers.
define internal void @run_together(ptr %first, i64 %parts) {
entry:
  store ptr %first, ptr @launches
  store i64 %parts, ptr @parts
  store atomic i64 0, ptr @front monotonic, align 8
  store atomic i64 0, ptr @back monotonic, align 8
  %parts32 = trunc i64 %parts to i32
  store atomic i32 %parts32, ptr @left monotonic, align 4
  %step = add i64 %parts, 4294967296
  %old = atomicrmw add ptr @ticket, i64 %step seq_cst, align 8
  %others = sub i32 %parts32, 1
  call void @call_workers(i32 %others)
  br label %mine
mine:
  call void @take_parts(ptr @scratch, i1 false)
  %start = call i64 @now()
  br label %round
round:
  %i = phi i32 [ 0, %mine ], [ 0, %again ], [ 0, %yield ], [ %j, %pause ]
  %left = load atomic i32, ptr @left acquire, align 4
  %over = icmp eq i32 %left, 0
  br i1 %over, label %out, label %pause
WAIT(PATIENCE)
sleep:
  %told = atomicrmw xchg ptr @caller_asleep, i32 1 seq_cst, align 4
  %still = load atomic i32, ptr @left seq_cst, align 4
  %finished = icmp eq i32 %still, 0
  br i1 %finished, label %awake, label %doze
doze:
  call void @sleep(ptr @left, i32 %still, i32 50)
  br label %sleep
awake:
  store atomic i32 0, ptr @caller_asleep seq_cst, align 4
  br label %out
out:
  ret void
}

; Waves first to last - 1 of a sequence.
define i64 @schuss_run(ptr %sequence, i64 %first, i64 %last) {
entry:
  %slots = load ptr, ptr %sequence
  %words_at = getelementptr %Sequence, ptr %sequence, i64 0, i32 1
  %words = load ptr, ptr %words_at
  %args_at = getelementptr %Sequence, ptr %sequence, i64 0, i32 2
  %args = load ptr, ptr %args_at
  %waves_at = getelementptr %Sequence, ptr %sequence, i64 0, i32 3
  %waves = load ptr, ptr %waves_at
  %own = getelementptr %Sequence, ptr %sequence, i64 0, i32 4
  %status = load ptr, ptr %slots
  store atomic i64 0, ptr %status monotonic, align 8
  %first_wave = getelementptr %Wave, ptr %waves, i64 %first
  %last_wave = getelementptr %Wave, ptr %waves, i64 %last
  %first_word_at = getelementptr %Wave, ptr %first_wave, i64 0, i32 4
  %first_word = load i64, ptr %first_word_at
  %last_word_at = getelementptr %Wave, ptr %last_wave, i64 0, i32 4
  %last_word = load i64, ptr %last_word_at
  %pair = cmpxchg ptr @busy, i32 0, i32 1 acquire monotonic, align 4
  %owner = extractvalue { i32, i1 } %pair, 1
  %scratch = select i1 %owner, ptr @scratch, ptr %own
  %workers = load atomic i32, ptr @workers monotonic, align 4
  %company = icmp ne i32 %workers, 0
  %pooled = and i1 %owner, %company
  br label %gather
gather:
  %w = phi i64 [ %first_word, %entry ], [ %w1, %copy ]
  %more_words = icmp ult i64 %w, %last_word
  br i1 %more_words, label %copy, label %wave
copy:
  %word_at = getelementptr i64, ptr %words, i64 %w
  %slot = load i64, ptr %word_at
  %slot_at = getelementptr i64, ptr %slots, i64 %slot
  %value = load i64, ptr %slot_at
  %arg_at = getelementptr i64, ptr %args, i64 %w
  store i64 %value, ptr %arg_at
  %w1 = add i64 %w, 1
  br label %gather
wave:
  %one = phi ptr [ %first_wave, %gather ], [ %next, %onward ], [ %back, %step ]
  %over = icmp eq ptr %one, %last_wave
  br i1 %over, label %end, label %enter
enter:
  %launches = load ptr, ptr %one
  %parts_at = getelementptr %Wave, ptr %one, i64 0, i32 2
  %parts = load i64, ptr %parts_at
  %several = icmp ugt i64 %parts, 1
  %share = and i1 %several, %pooled
  br i1 %share, label %together, label %alone
together:
  call void @run_together(ptr %launches, i64 %parts)
  br label %look
alone:
  %count_at = getelementptr %Wave, ptr %one, i64 0, i32 1
  %count = load i64, ptr %count_at
  call void @run_alone(ptr %launches, i64 %count, ptr %scratch)
  br label %look
look:
  %exhausted_at = getelementptr %Wave, ptr %one, i64 0, i32 5
  %exhausted = load atomic i64, ptr %exhausted_at monotonic, align 8
  %memory = icmp eq i64 %exhausted, 0
  br i1 %memory, label %looked, label %no_memory
no_memory:
  store atomic i64 0, ptr %exhausted_at monotonic, align 8
  br label %end
looked:
  %checked_at = getelementptr %Wave, ptr %one, i64 0, i32 3
  %checked = load i64, ptr %checked_at
  %check = icmp ne i64 %checked, 0
  br i1 %check, label %status_now, label %fine
status_now:
  %failed = load atomic i64, ptr %status monotonic, align 8
  %good = icmp eq i64 %failed, 0
  br i1 %good, label %fine, label %end
fine:
  %loop_at = getelementptr %Wave, ptr %one, i64 0, i32 6
  %loop = load ptr, ptr %loop_at
  %ends = icmp ne ptr %loop, null
  br i1 %ends, label %round, label %onward
onward:
  %next = getelementptr %Wave, ptr %one, i64 1
  br label %wave
round:
  %round_at = getelementptr %Loop, ptr %loop, i64 0, i32 5
  %this = load i64, ptr %round_at
  %after = add i64 %this, 1
  %rounds_at = getelementptr %Loop, ptr %loop, i64 0, i32 1
  %rounds = load i64, ptr %rounds_at
  %last_round = icmp eq i64 %after, %rounds
  br i1 %last_round, label %done, label %again
done:
  store i64 0, ptr %round_at
  br label %onward
again:
  store i64 %after, ptr %round_at
  %odd = and i64 %this, 1
  %back = load ptr, ptr %loop
  %from_at = getelementptr %Loop, ptr %loop, i64 0, i32 2
  %from = load i64, ptr %from_at
  %to_at = getelementptr %Loop, ptr %loop, i64 0, i32 3
  %to = load i64, ptr %to_at
  %steps_at = getelementptr %Loop, ptr %loop, i64 0, i32 4
  %steps = load ptr, ptr %steps_at
  br label %step
step:
  %i = phi i64 [ %from, %again ], [ %i1, %move ]
  %j = phi i64 [ %odd, %again ], [ %j1, %move ]
  %on = icmp ult i64 %i, %to
  br i1 %on, label %move, label %wave
move:
  %by_at = getelementptr i64, ptr %steps, i64 %j
  %by = load i64, ptr %by_at
  %word_here = getelementptr i64, ptr %args, i64 %i
  %address = load i64, ptr %word_here
  %moved = add i64 %address, %by
  store i64 %moved, ptr %word_here
  %i1 = add i64 %i, 1
  %j1 = add i64 %j, 2
  br label %step
end:
  %code = phi i64 [ 0, %wave ], [ 2, %no_memory ], [ 1, %status_now ]
  br i1 %owner, label %give_back, label %out
give_back:
  store atomic i32 0, ptr @busy release, align 4
  br label %out
out:
  ret i64 %code
}
"""

NAMES = ("schuss_run", "schuss_worker", "schuss_set_workers", "schuss_reset", "schuss_release")


def source(polling: bool = False) -> Source:
    """The executor for this system. Its state is part of the code: there is one pool.

    Args:
        polling: do without futexes, as on systems that have none. This has a pool of its own.
    """
    text = _TYPES + _STATE + _WORK + _WORKER + _RUN + waiting(polling)
    for name, limit in {"SPIN": SPIN, "PATIENCE": PATIENCE}.items():
        wait = _WAIT.strip().replace("LIMIT", str(limit)).replace("POLITE", str(POLITE))
        text = text.replace(f"WAIT({name})", wait)
    return Source(text, NAMES)
