"""Sets the wall clock of one running process forward or back, as a step of the machine's clock does: its monotonic clock
stays as it is, and no other process sees it.

A program reads the time by a function that the kernel puts into its memory (the vDSO), also when it is linked
statically. That function is replaced in the memory of the process. For x86-64 on Linux; needs root.
"""

import pathlib
import platform
import re
import signal
import struct
import subprocess
import tempfile
import time

from waiting import wait_for

FUNCTION = "__vdso_clock_gettime"
TRIES_MAX = 100
# Until a stopped process has stopped.
STOPPED_S_MAX = 10


def is_possible():
    return platform.machine() == "x86_64"


def machine_code(seconds):
    """A system call, and for CLOCK_REALTIME, which is 0, an addition to the seconds of its answer."""
    return (bytes.fromhex("b8 e4000000"        # mov eax, 228: clock_gettime
                          "0f05"               # syscall
                          "85ff"               # test edi, edi
                          "7507"               # jne to ret
                          "488106")            # add qword [rsi], seconds
            + struct.pack("<i", seconds) + b"\xc3")  # ret


def range_of(maps):
    """First and last address of the vDSO, by the text of /proc/PID/maps."""
    (line,) = [line for line in maps.splitlines() if line.endswith("[vdso]")]
    return tuple(int(address, 16) for address in line.split()[0].split("-"))


def offset_of(symbols):
    """Where the function begins, by the output of readelf."""
    (line,) = [line for line in symbols.splitlines() if re.search(rf"\b{FUNCTION}@", line)]
    return int(line.split()[1], 16)


def set_forward(process, seconds):
    """From now on the wall clock of the process (a Popen) is so many seconds ahead of the machine's; behind, if less
    than 0; 0 ends that."""
    here = pathlib.Path("/proc") / str(process.pid)
    begin, end = range_of((here / "maps").read_text())
    with open(here / "mem", "r+b", buffering=0) as memory, tempfile.NamedTemporaryFile() as image:
        memory.seek(begin)
        image.write(memory.read(end - begin))
        image.flush()
        symbols = subprocess.run(["readelf", "-W", "--dyn-syms", image.name], capture_output=True, text=True, check=True)
        at = begin + offset_of(symbols.stdout)
        for _ in range(TRIES_MAX):
            process.send_signal(signal.SIGSTOP)
            try:
                wait_for("all threads are stopped", STOPPED_S_MAX, lambda: None in next_instructions(here), every=0.005)
                if not any(begin <= address < end for address in next_instructions(here)):
                    memory.seek(at)
                    memory.write(machine_code(seconds))
                    return
            finally:
                process.send_signal(signal.SIGCONT)
            time.sleep(0.01)
    raise RuntimeError(f"some thread of process {process.pid} was reading the time at each of {TRIES_MAX} tries")


def next_instructions(here):
    """The address at which each thread goes on; None for one that runs."""
    return [address_of((thread / "syscall").read_text()) for thread in (here / "task").iterdir()]


def address_of(told):
    """By the text of /proc/PID/task/ID/syscall: the number of a system call or -1, its arguments, the address of the
    stack and that of the next instruction."""
    return None if told.startswith("running") else int(told.split()[-1], 16)
