"""What runs inside the sandbox: shuts every door behind itself, then runs the code that it is given.

`running.py` starts this file as a program of its own (`python -I -S -B`), as the first process of new namespaces. It
opens the standard library alone. Order matters: what the kernel holds comes first, Python's own audit hook last.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import struct
import sys
import threading
from typing import Any

READ_ONLY, RECURSIVE, HERE = 1, 0x8000, -100  # of mount_setattr(2)
PRIVATE, EVERY, NO_SUID, NO_DEVICES = 1 << 18, 1 << 14, 2, 4  # of mount(2)
ENDED = 77  # the exit code after something forbidden
FAILED = 1
FOLDER_BYTES = 32 * 2**20  # what the code may write in all

# By machine: its number for seccomp, and the numbers of the calls that end the process.
CALLS: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (
        0xC000003E,
        {"socket": 41, "fork": 57, "vfork": 58, "execve": 59, "execveat": 322, "ptrace": 101, "mount": 165,
         "umount2": 166, "mount_setattr": 442, "unshare": 272, "setns": 308, "process_vm_writev": 311, "bpf": 321,
         "io_uring_setup": 425, "keyctl": 250, "add_key": 248, "open_by_handle_at": 304, "clone": 56},
    ),
    "aarch64": (
        0xC00000B7,
        {"socket": 198, "execve": 221, "execveat": 281, "ptrace": 117, "mount": 40, "umount2": 39, "mount_setattr": 442,
         "unshare": 97, "setns": 268, "process_vm_writev": 271, "bpf": 280, "io_uring_setup": 425, "keyctl": 219,
         "add_key": 217, "open_by_handle_at": 265, "clone": 220},
    ),
}  # fmt: skip
CLONE3 = 435
CLONE_THREAD = 0x10000
KILL, ALLOW, NOT_THERE = 0x80000000, 0x7FFF0000, 0x00050026  # what the filter answers; the last is ENOSYS

NEVER = ("socket.", "os.fork", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "subprocess.", "pty.", "ctypes.",
         "os.kill", "signal.pthread_kill", "os.setxattr", "os.removexattr", "syslog.", "fcntl.ioctl")  # fmt: skip
PATHS = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
         "os.chown", "os.lchown", "os.utime", "os.chflags", "os.mkfifo", "os.mknod", "shutil.")  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def main() -> None:
    """Reads the job, shuts the doors, runs the code, and writes the job's secret word if it ran to its end."""
    job: dict[str, Any] = json.loads(sys.stdin.buffer.read())
    folder, secret, answer = os.path.realpath(job["folder"]), str(job["secret"]).encode(), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2) if not job["explain"] else (0, 1):
        os.dup2(nothing, stream)
    if job["isolated"]:
        shut_files(folder)
    os.chdir(folder)
    os.environ.clear()
    os.environ["TMPDIR"] = folder
    limit(job["seconds"], job["megabytes"])
    if sys.platform == "linux":
        drop_rights()
        shut_calls(required=job["isolated"])
    del job["secret"]
    watchdog = threading.Timer(2 * job["seconds"], os._exit, (ENDED,))  # also where nobody is left to end it
    watchdog.daemon = True
    watchdog.start()
    if run(job["code"], folder):
        os.write(answer, secret)
        os._exit(0)
    os._exit(FAILED)


def run(code: str, folder: str) -> bool:
    """Whether the code runs to its end without an error."""
    space = {"__name__": "__main__", "__builtins__": __builtins__}
    try:
        compiled = compile(code, "generated", "exec")
        sys.addaudithook(watching(folder))
        exec(compiled, space)
    except BaseException:  # also SystemExit and MemoryError
        return False
    return True


# --- what the kernel holds -----------------------------------------------------------------------


def libc() -> Any:
    """The C library, which sets `ctypes.get_errno()`."""
    return ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> None:
    """Ends the process where a door could not be shut."""
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def shut_files(folder: str) -> None:
    """Makes everything read-only for this mount namespace but the folder, which lies in memory."""
    c = libc()
    checked(c.mount(b"none", b"/", None, EVERY | PRIVATE, None), "private mounts")
    kept = struct.pack("QQQQ", READ_ONLY, 0, 0, 0)  # struct mount_attr: what to set, and nothing else
    checked(c.syscall(442, HERE, b"/", RECURSIVE, kept, len(kept)), "read-only mounts")
    size = f"size={FOLDER_BYTES},nr_inodes=4096".encode()
    checked(c.mount(b"none", folder.encode(), b"tmpfs", NO_SUID | NO_DEVICES, size), "a folder in memory")


def limit(seconds: int, megabytes: int) -> None:
    """Bounds processor time, memory, files and processes."""
    import resource

    bounds = {resource.RLIMIT_CPU: seconds, resource.RLIMIT_FSIZE: FOLDER_BYTES, resource.RLIMIT_CORE: 0}
    bounds |= {resource.RLIMIT_NOFILE: 64, resource.RLIMIT_STACK: 64 * 2**20}
    if sys.platform == "linux":  # macOS bounds no memory, and counts the user's other processes
        bounds |= {resource.RLIMIT_AS: megabytes * 2**20}
        bounds |= {resource.RLIMIT_NPROC: 64}  # threads; processes are the filter's concern
    for what, most in bounds.items():
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def drop_rights() -> None:
    """Gives up every capability, and the means to get one back."""
    c = libc()
    checked(c.prctl(38, 1, 0, 0, 0), "no new privileges")  # PR_SET_NO_NEW_PRIVS
    checked(c.capset(struct.pack("Ii", 0x20080522, 0), bytes(24)), "no capabilities")


def shut_calls(required: bool) -> None:
    """Has the kernel end the process that opens a socket, makes another process or undoes what was shut.

    Args:
        required: Whether to stop where this machine's calls are not known; without, what is not known stays open.
    """
    if platform.machine() not in CALLS:
        if required:
            raise OSError(f"the calls of {platform.machine()} are not known")
        return
    machine, numbers = CALLS[platform.machine()]
    number, architecture, first = 0, 4, 16  # offsets in struct seccomp_data
    load, equal, both, answer = 0x20, 0x15, 0x45, 0x06  # BPF: load a word, compare, test bits, return
    program = [
        (load, 0, 0, architecture), (equal, 1, 0, machine), (answer, 0, 0, KILL),
        (load, 0, 0, number), (0x35, 0, 1, 0x40000000), (answer, 0, 0, KILL),  # no second set of calls (x32)
        (equal, 0, 1, CLONE3), (answer, 0, 0, NOT_THERE),  # its flags cannot be seen; the C library then takes clone
    ]  # fmt: skip
    for name, call in numbers.items():
        if name != "clone":
            program += [(equal, 0, 1, call), (answer, 0, 0, KILL)]
    program += [(equal, 0, 3, numbers["clone"]), (load, 0, 0, first), (both, 1, 0, CLONE_THREAD), (answer, 0, 0, KILL)]
    program += [(answer, 0, 0, ALLOW)]
    steps = b"".join(struct.pack("HBBI", *step) for step in program)
    buffer = ctypes.create_string_buffer(steps)
    whole = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    checked(libc().prctl(22, 2, whole, 0, 0), "a filter of calls")  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


# --- what Python sees ----------------------------------------------------------------------------


def watching(folder: str) -> Any:
    """An audit hook that ends the process at what is forbidden, so that code cannot catch an error and go on."""
    end, real, inside = os._exit, os.path.realpath, folder + os.sep
    devnull, kinds = os.devnull, (str, bytes)

    def outside(path: Any) -> bool:
        if not isinstance(path, kinds):
            return False
        text = path.decode("utf-8", "surrogateescape") if isinstance(path, bytes) else path
        return text != devnull and not (real(text) + os.sep).startswith(inside)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & WRITING and outside(path):
                end(ENDED)
        elif event.startswith(NEVER) or (event.startswith(PATHS) and any(map(outside, arguments[:2]))):
            end(ENDED)

    return watch


if __name__ == "__main__":
    main()
