"""The system-call filter of every job, whatever the backend, so that a program gets the same answer on each of them.

A list of what is allowed; all else fails with EPERM (clone3: ENOSYS, so that the C library uses clone, whose flags can be
looked at). Not on it, on purpose: namespaces, mounts, ptrace and its like, keys, BPF, perf, io_uring, userfaultfd, modules,
handles, clocks, and every way to hold memory that the watchdog of an unprivileged sandbox cannot see (memfd, SysV shared
memory and semaphores, anonymous shared mappings). Sockets: only AF_UNIX, inside the sandbox's own network namespace.
"""

import errno
import os
import socket
import tempfile
from functools import cache

from k15.errors import SandboxError

_NAMES = """
 accept accept4 access alarm arch_prctl bind brk capget chdir chmod chown clock_getres clock_gettime clock_nanosleep close
 close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait
 epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64
 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork fstat fstatfs
 fsync ftruncate futex futex_waitv futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid
 geteuid getgid getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid
 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getxattr inotify_add_watch inotify_init
 inotify_init1 inotify_rm_watch ioctl kill lchown lgetxattr link linkat listen listxattr llistxattr lseek lstat madvise
 membarrier mincore mkdir mkdirat mlock mlock2 mlockall mprotect mremap msync munlock munlockall munmap nanosleep newfstatat
 open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl
 pread64 preadv preadv2 process_mrelease pselect6 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv
 recvfrom recvmmsg recvmsg rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask
 rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min
 sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_yield select send sendfile
 sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setitimer setpgid setrlimit setsid setsockopt
 shutdown sigaltstack splice stat statfs statx symlink symlinkat sync_file_range sysinfo tee tgkill time timer_create
 timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill
 truncate umask uname unlink unlinkat utime utimensat utimes vfork wait4 waitid waitpid write writev
"""
ALLOWED = tuple(_NAMES.split())
_OWN_ONLY = ("sched_setaffinity", "sched_setparam", "sched_setscheduler", "sched_setattr", "prlimit64")  # first word: a pid
_NAMESPACES = 0x7E020080  # every CLONE_NEW* that clone takes: TIME, NS, CGROUP, UTS, IPC, USER, PID, NET
_SHARED_ANONYMOUS = 0x20 | 0x01
# prctl: names, parent-death signal, dumpable, capability bounding set (read), timer slack, child subreaper,
# no_new_privs, huge pages, names of anonymous memory. Not: PR_SET_MM, PR_SET_PTRACER, PR_SET_SECCOMP, ...
_PRCTL = (1, 2, 3, 4, 15, 16, 23, 29, 30, 36, 37, 38, 39, 41, 42, 0x53564D41)
_TRACING = (
    "ptrace", "seccomp", "process_vm_readv", "memfd_create", "landlock_create_ruleset", "landlock_add_rule",
    "landlock_restrict_self",
)  # fmt: skip
_TRACING_PRCTL = (22,)  # a filter of its own
_NEEDED = ("mmap", "socket", "clone", "execve", "prlimit64", "prctl")


@cache
def program(tracing: bool = False) -> bytes:
    """The filter as classic BPF for this machine. SandboxError where libseccomp is missing.

    `tracing`: a job may also trace its own children, put a filter of its own on them, and hold files in memory, which only a
    cgroup counts. Process 1 cannot be traced all the same: it is not dumpable.
    """
    try:
        import pyseccomp as s
    except (ImportError, RuntimeError, OSError) as e:
        raise SandboxError(f"the sandbox's system-call filter needs pyseccomp and libseccomp2: {e}") from e
    rules = s.SyscallFilter(s.ERRNO(errno.EPERM))
    for name in (*ALLOWED, *(_TRACING if tracing else ())):
        _allow(s, rules, name)
    for name in _OWN_ONLY:
        _allow(s, rules, name, s.Arg(0, s.EQ, 0))
    # The ordinary policy, for any thread: ZeroMQ aborts and Mono complains where a thread may not be given what it has.
    _allow(s, rules, "sched_setscheduler", s.Arg(1, s.EQ, os.SCHED_OTHER))
    _allow(s, rules, "clone", s.Arg(0, s.MASKED_EQ, _NAMESPACES, 0))
    _allow(s, rules, "socket", s.Arg(0, s.EQ, socket.AF_UNIX))
    _allow(s, rules, "socketpair", s.Arg(0, s.EQ, socket.AF_UNIX))
    for bits in (0x00, 0x01, 0x20):  # private named, shared named, private anonymous; not shared anonymous
        _allow(s, rules, "mmap", s.Arg(3, s.MASKED_EQ, _SHARED_ANONYMOUS, bits))
    for option in (*_PRCTL, *(_TRACING_PRCTL if tracing else ())):
        _allow(s, rules, "prctl", s.Arg(0, s.EQ, option))
    for name in ("clone3",) if tracing else ("clone3", "memfd_create"):
        _rule(s, rules, s.ERRNO(errno.ENOSYS), name)
    for name in ("socket", "socketpair"):
        _rule(s, rules, s.ERRNO(errno.EAFNOSUPPORT), name, s.Arg(0, s.NE, socket.AF_UNIX))
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.flush()
        return os.pread(file.fileno(), 1 << 20, 0)


def _allow(s, rules, name: str, *args) -> None:
    _rule(s, rules, s.ALLOW, name, *args)


def _rule(s, rules, action, name: str, *args) -> None:
    """Add a rule for a call that this machine's libseccomp knows; one it does not know stays denied."""
    try:
        rules.add_rule(action, name, *args)
    except (ValueError, RuntimeError, OSError) as e:
        if name in _NEEDED:
            raise SandboxError(f"this machine's libseccomp refuses the rule for {name}: {e}") from e
