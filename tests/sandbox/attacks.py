# ruff: noqa: E501 (programs as text)
"""Programs that try to break out. Each prints a line beginning BROKEN for whatever worked, and `held` at its end.

Run by test_attacks.py inside a sandbox, where `K15_HOST` (JSON) says what there is on the host to be found.
"""

PRELUDE = """
import ctypes, errno, json, os, signal, socket, sys, time
host = json.loads(os.environ["K15_HOST"])
libc = ctypes.CDLL(None, use_errno=True)
def works(what, attempt, *args):
    try:
        result = attempt(*args)
    except (OSError, ValueError):
        return
    print("BROKEN", what, repr(result)[:200], flush=True)
def write(path, text):
    with open(path, "w") as f: f.write(text)
def call(number, *args):
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(a) if isinstance(a, int) else a for a in args))
    if result == -1:
        raise OSError(ctypes.get_errno(), "")
    return result
"""

NETWORK = """
for family in range(46):
    if family == socket.AF_UNIX: continue
    for kind in (1, 2, 3, 5):
        works(f"socket family {family} type {kind}", lambda: call(41, family, kind, 0))
        works(f"socketpair family {family}", lambda: call(53, family, kind, 0, (ctypes.c_int * 2)()))
works("socket with high bits", lambda: call(41, (1 << 32) | 2, 1, 0))
unix = socket.socket(socket.AF_UNIX)
works("abstract socket of the host", lambda: unix.connect("\\0k15-" + host["secret"][::-1]))
works("socket file of the host", lambda: unix.connect(host["socket_file"]))
works("port of the host", lambda: socket.create_connection(("127.0.0.1", host["port"]), 1))
devices = [line.split(":")[0].strip() for line in open("/proc/self/net/dev").read().splitlines()[2:]]
if set(devices) - {"lo"}: print("BROKEN network devices", devices)
"""

HOST_FILES = """
for path in host["paths"]:
    works("host path " + path, os.stat, path)
for path in ("/proc/self/" + "root/../../" + host["paths"][0], *("/proc/1/" + link for link in ("root", "cwd", "fd", "map_files"))):
    works("listing " + path, os.listdir, path)
for path in ("/etc/shadow", "/sys/kernel", "/proc/kmsg", "/dev/mem", "/dev/kmsg", "/dev/vda", "/dev/sda", "/proc/1/mem"):
    works("reading " + path, lambda: open(path, "rb").read(1) or None)
if b"root" in open("/proc/keys", "rb").read(): print("BROKEN keys of the host")
writable = []
for folder, folders, files in os.walk("/"):
    if folder.startswith(("/proc", "/tmp", "/dev/shm", "/sys")):
        folders[:] = []
        continue
    try:
        open(folder + "/k15-written", "w").close()
        print("BROKEN wrote into", folder)
    except OSError:
        pass
    for name in files:
        path = os.path.join(folder, name)
        if not os.path.islink(path) and os.stat(path).st_mode & 0o6000: print("BROKEN setuid file", path)
for path in ("/usr/bin/python3", "/etc/passwd", "/dev/init", "/bin/sh"):
    works("overwriting " + path, lambda: open(path, "r+b"))
    works("unlinking " + path, os.unlink, path)
    works("chmod " + path, os.chmod, path, 0o777)
"""

ENVIRONMENT = """
extra = set(os.environ) - {"K15_HOST", "LC_CTYPE"}
if extra: print("BROKEN environment", extra)
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("environ", "auxv", "cmdline", "maps", "mem", "stack", "fd"):
        path = f"/proc/{pid}/{name}"
        try:
            data = b" ".join(os.fsencode(n) for n in os.listdir(path)) if name == "fd" else open(path, "rb").read(1 << 20)
        except OSError:
            continue
        if host["secret"][::-1].encode() in data: print("BROKEN secret in", path)
        if pid == "1" and name in ("environ", "mem", "fd") and data: print("BROKEN init shows its", name)
extra = [n for n in os.listdir("/proc/self/fd") if int(n) > 2 and os.path.exists(f"/proc/self/fd/{n}")]
if extra: print("BROKEN descriptors", [(n, os.readlink(f"/proc/self/fd/{n}")) for n in extra])
if open("/proc/self/oom_score_adj").read() != "1000\\n": print("BROKEN under pressure the kernel would spare the job")
if sum(name.isdigit() for name in os.listdir("/proc")) > 2: print("BROKEN sees processes", os.listdir("/proc"))
"""

KILL = """
child = os.fork()
if child == 0:
    for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGXCPU, signal.SIGCHLD, signal.SIGSEGV):
        for target in (1, 0, -1, *range(2, 50), host["pid"], host["parent"]):
            if target in (os.getpid(), os.getppid()) or target in (0, -1): continue
            try: os.kill(target, number)
            except OSError: pass
    os._exit(0)
os.waitpid(child, 0)
works("limits of init", lambda: call(302, 1, 0, (ctypes.c_ulong * 2)(1, 1), None))
works("processors of init", lambda: os.sched_setaffinity(1, {0}))
works("scheduler of init", lambda: os.sched_setscheduler(1, 5, os.sched_param(0)))
works("priority of init", lambda: os.setpriority(os.PRIO_PROCESS, 1, 19))
works("priority of all", lambda: os.setpriority(os.PRIO_USER, os.getuid(), 19))
works("better priority", lambda: os.nice(-1))
works("oom score of init", lambda: write("/proc/1/oom_score_adj", "1000"))
works("oom protection", lambda: write("/proc/self/oom_score_adj", "-1000"))
"""

SYSTEM_CALLS = """
import mmap
page = ctypes.create_string_buffer(8192)
NAMES = dict(ptrace=101, process_vm_readv=310, process_vm_writev=311, kcmp=312, pidfd_getfd=438, mount=165, umount2=166,
    pivot_root=155, chroot=161, setns=308, unshare=272, move_mount=429, open_tree=428, fsopen=430, fsmount=432, mount_setattr=442,
    keyctl=250, add_key=248, request_key=249, bpf=321, perf_event_open=298, userfaultfd=323, io_uring_setup=425, init_module=175,
    finit_module=313, delete_module=176, kexec_load=246, reboot=169, swapon=167, swapoff=168, settimeofday=164, clock_settime=227,
    adjtimex=159, sethostname=170, setdomainname=171, mknod=133, mknodat=259, iopl=172, ioperm=173, acct=163, quotactl=179,
    name_to_handle_at=303, open_by_handle_at=304, fanotify_init=300, lookup_dcookie=212, memfd_create=319, memfd_secret=447,
    shmget=29, shmat=30, msgget=68, semget=64, mq_open=240, syslog=103, vhangup=153, personality=135, setuid=105, setgid=106,
    setresuid=117, setgroups=116, capset=126, clone3=435, seccomp=317, landlock_create_ruleset=444, nfsservctl=180, uselib=134,
    modify_ldt=154, vmsplice=278, migrate_pages=256, move_pages=279, mbind=237, setfsuid=122)
for name, number in NAMES.items():
    for words in ([page] * 6, [0] * 6):
        try:
            print("BROKEN", name, call(number, *words))
        except OSError as e:
            if e.errno not in (errno.EPERM, errno.ENOSYS): print("BROKEN", name, "reaches the kernel:", e.errno)
for flag in (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
    works(f"unshare {flag:#x}", lambda: call(272, flag))
    if flag > 0x80:
        def clone():
            pid = call(56, flag | 17, 0, 0, 0, 0)
            if pid == 0: os._exit(0)
            return pid
        works(f"clone {flag:#x}", clone)
works("PTRACE_TRACEME", lambda: call(101, 0, 0, 0, 0))
works("PTRACE_ATTACH", lambda: call(101, 16, 1, 0, 0))
works("PTRACE_SEIZE", lambda: call(101, 0x4206, 1, 0, 0))
for option in (22, 35, 35 | 1 << 32, 0x59616d61):
    works(f"prctl {option:#x}", lambda: call(157, option, 1, 0, 0, 0))
works("capability", lambda: call(157, 47, 2, 21, 0, 0))
works("shared anonymous memory", lambda: mmap.mmap(-1, 1 << 20))
works("shared anonymous memory, validated", lambda: mmap.mmap(-1, 1 << 20, flags=0x23))
works("zero pages shared", lambda: mmap.mmap(os.open("/dev/zero", os.O_RDWR), 1 << 20)) if not os.path.exists("/dev/tty") else None
works("growing the input", lambda: os.ftruncate(os.open("/proc/self/fd/0", os.O_RDWR), 1 << 20))
works("root", os.setuid, 0)
works("mapping root", lambda: write("/proc/self/uid_map", "0 0 1"))
works("more processes", lambda: call(302, 0, 6, (ctypes.c_ulong * 2)(1 << 20, 1 << 20), None)) if host["nproc"] else None
works("more processor time", lambda: call(302, 0, 0, (ctypes.c_ulong * 2)(1 << 20, 1 << 20), None))
"""

OTHER_ABI = """
import mmap
code = {code}
memory = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=7)
memory.write(code)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
print("BROKEN other system-call table:", ctypes.CFUNCTYPE(ctypes.c_int)(address)())
"""
INT80 = b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"  # mov eax, 20 (getpid of i386); int 0x80; ret
X32 = b"\xb8\x27\x00\x00\x40\x0f\x05\xc3"  # mov eax, 0x40000027 (getpid of x32); syscall; ret

PROC_WRITES = """
for folder, _, files in os.walk("/proc/sys"):
    for name in files:
        path = os.path.join(folder, name)
        try: old = open(path).read()
        except (OSError, UnicodeDecodeError): old = "0"
        if os.access(path, os.W_OK): works("writing " + path, write, path, old)
for path in ("/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/vm/drop_caches",
             "/proc/1/attr/current", "/proc/1/timerslack_ns", "/proc/1/clear_refs", "/proc/1/coredump_filter", "/proc/1/comm",
             "/proc/1/uid_map", "/proc/1/setgroups"):
    works("writing " + path, write, path, "1")
works("debugfs", os.listdir, "/sys/kernel/debug")
works("cgroup files", os.listdir, "/sys/fs/cgroup")
"""

DAEMON = """
import subprocess
for number in range(3):
    if os.fork() == 0:
        os.setsid()
        for s in range(1, 65):
            try: signal.signal(s, signal.SIG_IGN)
            except (OSError, ValueError): pass
        if os.fork() == 0:
            os.execv("/usr/bin/python3", ["python3", "-c", "import time\\nwhile True:\\n    time.sleep(0.01)", host["mark"]])
        os._exit(0)
time.sleep(0.2)
"""

SOCKETS_LEFT = """
import array
held = []
for number in range(20):
    a, b = socket.socketpair()
    named = socket.socket(socket.AF_UNIX); named.bind("\\0k15-left-%d" % number); named.listen(9)
    c, d = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    c.send(b"word")
    for s, to in ((a, b), (b, a), (named, a), (c, b), (d, b)):  # each inside another that nobody reads, in circles
        to.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [s.fileno()]))])
"""
SOCKETS_FOUND = """
seen = open("/proc/net/unix").read().splitlines()[1:]
if seen: print("BROKEN sockets of another job", seen)
for number in range(20):
    works("socket of another job", lambda: socket.socket(socket.AF_UNIX).connect("\\0k15-left-%d" % number))
    works("datagram to another job", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", "\\0k15-left-%d" % number))
"""

LINKS = """
os.symlink("/etc/passwd", "out1"); os.symlink(host["paths"][0], "out2"); os.symlink("/proc/1/environ", "out3")
os.symlink("/etc", "dir"); os.symlink("../../..", "up")
os.mkdir("d"); os.symlink("/proc/self/fd/0", "d/fd"); os.symlink("/dev/random", "out5")
os.mkdir("out6"); open("good", "w").write("fine")
os.link("good", "out7")
s = socket.socket(socket.AF_UNIX); s.bind("out8")
"""
LINKS_KEEP = ["good", "out1", "out2", "out3", "dir/passwd", "up/etc/passwd", "d/fd", "out5", "out6", "out8"]

HIDDEN_TIME = """
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that nobody waits for the children, whose time the kernel then throws away
for _ in range(COUNT):
    if os.fork() == 0:
        while time.process_time() < SECONDS: pass
        os._exit(0)
    try: os.wait()
    except ChildProcessError: pass
"""

FORK_BOMB = """
print("held", flush=True)
n = 0
while True:
    try:
        if os.fork() == 0: n = 0
        n += 1
    except OSError:
        pass
"""

MEMORY = {
    "one process": "x = []\nwhile True: x.append(bytearray(os.urandom(1 << 20)))",
    "many processes": "for _ in range(8):\n  if os.fork() == 0: break\nx = [bytearray(os.urandom(1 << 20)) for _ in range(40)]\ntime.sleep(20)",
    "files and memory": "for i in range(7): open('%d' % i, 'wb').write(os.urandom(1 << 20))\nx = bytearray(os.urandom(1 << 20) * 124)\ntime.sleep(20)",
    "child while the parent goes on": "if os.fork() == 0:\n  x = []\n  while True: x.append(bytearray(os.urandom(1 << 20)))\nos.wait()\nprint('done')",
}
