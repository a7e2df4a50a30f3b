"""Takes over another process of the same user by ptrace and makes it execute system calls. For x86-64."""

import ctypes
import os
import time

LOOT = "/var/lib/ladylinux/data/loot"

ATTACH, DETACH, GETREGS, SETREGS, SINGLESTEP, SETOPTIONS, GETEVENTMSG = 16, 17, 12, 13, 9, 0x4200, 0x4201
TRACEFORK = 2
NAMES = (
    "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base ds es fs gs"
)


class Registers(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in NAMES.split()]


libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


def ptrace(request, pid, address=None, data=None):
    if libc.ptrace(request, pid, address, data) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def note(*words):
    with open(LOOT, "a") as loot:
        loot.write(" ".join(str(word) for word in words) + "\n")


def read(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def own_processes():
    """Yields the pids of all other processes of this user."""
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                if os.stat(f"/proc/{name}").st_uid == os.getuid() or uid_of(name) == os.getuid():
                    yield int(name)
            except (OSError, IndexError, ValueError):
                pass


def uid_of(pid):
    """The directory in /proc of a process that may not be traced belongs to root."""
    lines = [line for line in read(f"/proc/{pid}/status").splitlines() if line.startswith(b"Uid:")]
    # A process that has just ended has no such line, which raises an IndexError.
    return int(lines[0].split()[2])


def command(pid):
    return read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode(errors="replace").strip()


class Taken:
    """A stopped process whose registers can be set."""

    def __init__(self, pid):
        self.pid = pid
        ptrace(ATTACH, pid)
        os.waitpid(pid, 0x40000000)
        self.begin()

    def begin(self):
        self.saved = self.registers()
        self.memory = os.open(f"/proc/{self.pid}/mem", os.O_RDWR)
        self.door = self.find_door()
        self.top = (self.saved.rsp - 8192) & ~15

    def registers(self):
        registers = Registers()
        ptrace(GETREGS, self.pid, None, ctypes.addressof(registers))
        return registers

    def find_door(self):
        if os.pread(self.memory, 2, self.saved.rip - 2) == b"\x0f\x05":
            return self.saved.rip - 2
        for line in read(f"/proc/{self.pid}/maps").decode().splitlines():
            span, mode = line.split()[:2]
            if "x" in mode and "vsyscall" not in line:
                first, last = (int(part, 16) for part in span.split("-"))
                found = os.pread(self.memory, last - first, first).find(b"\x0f\x05")
                if found >= 0:
                    return first + found
        raise OSError("no system call instruction")

    def put(self, data):
        """Writes bytes below the stack; returns their address."""
        self.top = (self.top - len(data) - 16) & ~15
        os.pwrite(self.memory, data, self.top)
        return self.top

    def call(self, number, *arguments):
        """Executes one system call; returns its result."""
        registers = Registers.from_buffer_copy(self.saved)
        registers.rip, registers.rax, registers.orig_rax = self.door, number, 2**64 - 1
        registers.rsp = self.top - 4096
        for name, value in zip(("rdi", "rsi", "rdx", "r10", "r8", "r9"), arguments):
            setattr(registers, name, value % 2**64)
        ptrace(SETREGS, self.pid, None, ctypes.addressof(registers))
        ptrace(SINGLESTEP, self.pid)
        _, status = os.waitpid(self.pid, 0x40000000)
        if not os.WIFSTOPPED(status):
            return None
        if status >> 16:
            # A stop for a fork in the middle of the call; one more step ends it.
            child = ctypes.c_ulong()
            ptrace(GETEVENTMSG, self.pid, None, ctypes.addressof(child))
            ptrace(SINGLESTEP, self.pid)
            os.waitpid(self.pid, 0x40000000)
            return child.value
        return ctypes.c_longlong(self.registers().rax).value

    def execute(self, *words):
        """Becomes another program."""
        pointers = [self.put(word.encode() + b"\0") for word in words]
        array = self.put(b"".join(pointer.to_bytes(8, "little") for pointer in [*pointers, 0]))
        return self.call(59, pointers[0], array, 0)

    def let_go(self):
        ptrace(SETREGS, self.pid, None, ctypes.addressof(self.saved))
        ptrace(DETACH, self.pid)


def for_seconds(seconds):
    """Yields as often as possible until the time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(0.0005)
