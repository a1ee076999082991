#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The packages on Debian 12 and 13, without a boot: installed, looked at, used over ssh, and purged; DKMS builds the modules.

Each case has a root of the lab with a layer over it that is thrown away, in namespaces of its own. What is left in the layer
after a purge must be data. Results are in build/packages/.
"""

import argparse
import contextlib
import fnmatch
import os
import re
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path

import cache
import lab as lab_module
from cache import REPOSITORY, Failure
from judges import JudgeError, must

RESULTS, DEBS, RPMS = (REPOSITORY / "build" / name for name in ("packages", "deb", "rpm"))
CASES = {}
PORT = 2222
PASSWORD = "correct-horse 7"
# What differs after a purge: data of ours, and what dpkg and others keep of every package.
STAYS = [
    r"var/crash(/.*)?", r"var/lib/netdump(/.*)?",
    r"etc/(passwd|group|shadow|gshadow)-?", r"etc/\.pwd\.lock", r"var/(log|cache)/.*", r"var/lib/(dpkg|systemd|ucf|dkms)(/.*)?",
    r"usr/lib/modules/[^/]+/modules\..*",
]  # fmt: skip


def case(function):
    """Registers a test; its lines are what it has seen."""
    CASES[function.__name__.replace("_", "-")] = function
    return function


class Machine:
    """A root of the lab with the kernel's modules in it, and a layer over both. Use as a context manager."""

    def __init__(self, kernel, root: str, directory: Path):
        self.directory, self.release = directory, kernel.release
        self.lower = [kernel.home, cache.directory() / "roots" / root]
        self.layer, self.root = directory / "layer", directory / "root"
        self.log = open(directory / "commands.log", "w", encoding="utf-8")  # noqa: SIM115 # closed at exit

    def __enter__(self):
        work = self.directory / "work"
        for path in (self.layer, work, self.root):
            path.mkdir(parents=True)
        lower = ":".join(map(str, self.lower))
        mount("-t", "overlay", "overlay", "-o", f"lowerdir={lower},upperdir={self.layer},workdir={work}", self.root)
        for name in ("dev", "proc"):
            (self.root / name).mkdir(exist_ok=True)
            mount("--rbind", f"/{name}", self.root / name)
        for name in ("run", "tmp"):
            (self.root / name).mkdir(exist_ok=True)
            mount("-t", "tmpfs", "-o", "mode=1777" if name == "tmp" else "mode=755", "tmpfs", self.root / name)
        # No service is started by an installation.
        policy = self.root / "run/policy"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        self.run("ln -sf /run/policy /usr/sbin/policy-rc.d")
        return self

    def __exit__(self, *_):
        self.log.close()
        subprocess.run(["umount", "-R", "-l", self.root], check=False)
        for name in ("layer", "work"):
            shutil.rmtree(self.directory / name, ignore_errors=True)

    def run(self, script: str, check: bool = True, stdin: str = "") -> str:
        """A shell script as root in there; what it says on both its outputs."""
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive", "HOME": "/root"}
        done = subprocess.run(
            ["chroot", self.root, "/bin/sh", "-ec", script], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", env=environment, check=False,
        )  # fmt: skip
        self.log.write(f"$ {script}\n{done.stdout}(status {done.returncode})\n")
        self.log.flush()
        if check and done.returncode:
            raise JudgeError(f"{script}\nended with {done.returncode}:\n{done.stdout[-3000:]}")
        return done.stdout

    def status(self, script: str) -> int:
        """The exit status of a script."""
        return int(self.run(f"({script}) >/tmp/said 2>&1 && echo 0 || echo $?"))

    def install(self, packages: list[Path]) -> None:
        """Installs packages; what they depend on must be there."""
        for package in packages:
            shutil.copy(package, self.root / "tmp")
        self.run("dpkg -i " + " ".join(f"/tmp/{package.name}" for package in packages))
        said = self.run("dpkg --audit")
        must(not said.strip(), f"dpkg --audit: {said}")

    def netconsole(self) -> str:
        """Where modprobe finds netconsole.ko."""
        return self.run(f"modinfo -k {self.release} -n netconsole").strip()

    def leftovers(self) -> list[str]:
        """What is in the layer, is not as it was below, and is not data."""
        found = []
        for path in sorted(self.layer.rglob("*")):
            name = str(path.relative_to(self.layer))
            if any(re.fullmatch(pattern, name) for pattern in [*STAYS, "usr/sbin/policy-rc.d"]):
                continue
            before = next((base / name for base in self.lower if os.path.lexists(base / name)), None)
            if path.is_dir() and not path.is_symlink():
                if before is None:
                    found.append(name + "/")
            elif path.is_file() and before is not None:
                if before.read_bytes() != path.read_bytes():
                    found.append(name + " (changed)")
            elif before is not None or not path.is_char_device():
                # A character device says that the file below is gone.
                found.append(name + (" (removed)" if path.is_char_device() else ""))
        return found


def mount(*words) -> None:
    """mount, which says why when it does not."""
    done = subprocess.run(["mount", *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failure(f"mount {' '.join(map(str, words))}: {done.stderr.strip()}", "the tests of packages need root, or user namespaces with overlay")


def deb(pattern: str) -> Path:
    """One package of build/deb."""
    found = list(DEBS.glob(pattern + "_*.deb"))
    if len(found) != 1:
        raise Failure(f"{DEBS} has not one {pattern}, but {[path.name for path in found]}", "run `make deb` first")
    return found[0]


def look(machine: Machine) -> None:
    """Users, directories, units, settings."""
    said = machine.run("getent passwd netdump netdump-server")
    must(re.search(r"^netdump:.*:/var/lib/netdump:/usr/libexec/netdump/netdump-login$", said, re.M), said)
    must(re.search(r"^netdump-server:.*:/var/crash:/usr/sbin/nologin$", said, re.M), said)
    wanted = {
        "/var/crash": "700 netdump-server:netdump-server", "/var/crash/magic": "700 netdump-server:netdump-server",
        "/var/crash/scripts": "755 root:root", "/var/lib/netdump": "2750 netdump:netdump-server",
        "/var/lib/netdump/clients": "2750 netdump:netdump-server", "/var/lib/netdump/addresses": "2750 netdump:netdump-server",
        "/etc/netdump": "700 root:root", "/usr/libexec/netdump/netdump-login": "755 root:root",
    }  # fmt: skip
    said = machine.run("stat -c '%n=%a %U:%G' " + " ".join(wanted))
    must(dict(line.split("=") for line in said.splitlines()) == wanted, said)
    for unit in ("netdump.service", "netdump-renew.timer", "netdump-server.service"):
        said = machine.run(f"systemctl is-enabled {unit}", check=False).strip()
        must(said == "enabled", f"{unit} is {said}")
        # Both Debians know every setting in them.
        said = machine.run(f"systemd-analyze verify --man=no /usr/lib/systemd/system/{unit}", check=False)
        must("netdump" not in said, said)
    machine.run("setpriv --reuid=netdump-server --regid=netdump-server --clear-groups netdump-server --check-config")
    must(machine.netconsole() == f"/lib/modules/{machine.release}/updates/netconsole.ko", machine.netconsole())
    machine.run(f"/etc/init.d/netdump check-kernel {machine.release}")
    machine.run("/etc/init.d/netdump start")


@contextlib.contextmanager
def sshd(machine: Machine):
    """The root's sshd on the loopback device."""
    machine.run("mkdir -p /run/sshd && ssh-keygen -A && sshd -t")
    process = subprocess.Popen(
        ["chroot", machine.root, "/usr/sbin/sshd", "-D", "-p", str(PORT), "-o", "ListenAddress=127.0.0.1", "-E", "/tmp/sshd.log"]
    )
    try:
        # It is there when it can be asked for its host key.
        deadline = time.monotonic() + 60
        while machine.status(f"ssh-keyscan -p {PORT} -t ed25519 127.0.0.1 2>/dev/null | tee /tmp/known | grep .") != 0:
            must(time.monotonic() < deadline and process.poll() is None, "sshd does not answer: see sshd.log")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait()
        shutil.copy(machine.root / "tmp/sshd.log", machine.directory / "sshd.log")


def ssh(machine: Machine, user_options: str, command: str = "", stdin: str = "") -> str:
    """What comes back through ssh as user netdump."""
    options = f"-p {PORT} -o UserKnownHostsFile=/tmp/known -o StrictHostKeyChecking=yes {user_options}"
    return machine.run(f"timeout 100 ssh {options} netdump@127.0.0.1 {command}", check=False, stdin=stdin)


def use(machine: Machine) -> None:
    """Enrols with the password, registers with the key, and finds no other way in."""
    said = machine.run("getent shadow netdump netdump-server")
    must(len(re.findall(r"^[^:]+:![*]?:", said, re.M)) == 2, f"the users are not locked: {said}")
    machine.run("chpasswd", stdin=f"netdump:{PASSWORD}\n")
    machine.run(f"umask 077; printf '#!/bin/sh\\necho \"{PASSWORD}\"\\n' >/tmp/ask; chmod 700 /tmp/ask; ssh-keygen -q -t ed25519 -N '' -f /tmp/id")
    public = machine.run("cat /tmp/id.pub")
    by_password = "-o PubkeyAuthentication=no"
    by_key = "-i /tmp/id -o PasswordAuthentication=no -o BatchMode=yes"
    with sshd(machine):
        ask = "SSH_ASKPASS=/tmp/ask SSH_ASKPASS_REQUIRE=force "
        for words in ("id", "-t bash -i", "/bin/sh -c id"):
            said = machine.run(
                f"{ask}ssh -p {PORT} -o UserKnownHostsFile=/tmp/known {by_password} netdump@127.0.0.1 {words}", check=False, stdin="id\n"
            )
            must("uid=" not in said, f"the password opened a shell: {said}")
        said = machine.run(f"{ask}ssh -p {PORT} -o UserKnownHostsFile=/tmp/known {by_password} netdump@127.0.0.1", check=False, stdin=public)
        must(re.search(r"^enrolled c[0-9a-f]{16}$", said, re.M), said)
        client = re.search(r"^enrolled (\S+)$", said, re.M)[1]
        for words in ("id", "-t bash -i"):
            said = ssh(machine, by_key, words, "id\n")
            must("uid=" not in said, f"the key opened a shell: {said}")
        # The first packet of an sftp client, which a server answers.
        said = ssh(machine, f"{by_key} -s", "sftp", "\0\0\0\5\1\0\0\0\3")
        must("\2" not in said, f"sftp let the key in: {said!r}")
        # ssh ends with an error when the server refuses what it was asked to forward.
        for forward in ("-N -R 127.0.0.1:2300:127.0.0.1:2301 -o ExitOnForwardFailure=yes", "-W 127.0.0.1:2222"):
            said = ssh(machine, f"{by_key} {forward}", "</dev/null; echo status $?")
            must(not re.search(r"status (0|124)$|SSH-2\.0", said), f"forwarded: {said}")
        message = machine.run("/usr/libexec/netdump/netdump-key registration --server crashhost")
        said = ssh(machine, by_key, "", message)
        must(re.search(rf"^registered {client} [0-9a-f]{{32}}$", said, re.M), said)
        machine.run("/usr/libexec/netdump/netdump-key commit --server crashhost", stdin=said[said.index("registered") :])
        # The keys are nobody's but the two users'; the daemon reads them, and neither may write to the other's.
        said = machine.run("find /var/lib/netdump -type f ! -name lock -printf '%m %u:%g %P\\n'")
        must({line.rsplit(" ", 1)[0] for line in said.splitlines()} == {"640 netdump:netdump-server"}, said)
        as_server = "setpriv --reuid=netdump-server --regid=netdump-server --clear-groups"
        as_netdump = "setpriv --reuid=netdump --regid=netdump --clear-groups"
        machine.run(f"{as_server} cat /var/lib/netdump/clients/{client}.json")
        for script in (f"{as_server} touch /var/lib/netdump/clients/x", f"{as_netdump} ls /var/crash", f"{as_netdump} touch /var/crash/x"):
            must(machine.status(script) != 0, f"allowed: {script}")
    effective = machine.run("sshd -T -C user=root,host=x,addr=192.0.2.9")
    must("forcecommand none" in effective, "the drop-in counts for other users")


def purge(machine: Machine) -> str:
    """Puts data there, purges; says what is left."""
    machine.run("install -d -o netdump-server -g netdump-server -m 700 /var/crash/192.0.2.1-2026-11-27-06:00:00 && "
                "cp /bin/true /var/crash/192.0.2.1-2026-11-27-06:00:00/vmcore && echo 'NETDUMPADDR=' >>/etc/sysconfig/netdump")  # fmt: skip
    keys = machine.run("cd /var/lib/netdump && find . -type f | sort")
    names = f"netdump netdump-tools netdump-server netdump-modules-{machine.release}"
    machine.run(f"dpkg -r {names}")
    must(machine.netconsole().startswith(f"/lib/modules/{machine.release}/kernel/"), machine.netconsole())
    must(machine.status(f"modinfo -k {machine.release} netdump") != 0, "netdump.ko is still there")
    machine.run("test -s /etc/netdump.conf && grep -q ^NETDUMPADDR= /etc/sysconfig/netdump")
    machine.run(f"dpkg -P {names}")
    machine.run("rm -f /etc/ssh/ssh_host_*; test -s /var/crash/192.0.2.1-2026-11-27-06:00:00/vmcore")
    must(machine.run("cd /var/lib/netdump && find . -type f | sort") == keys and "clients/" in keys, "the keys did not stay")
    left = [name for name in machine.leftovers() if "ssh_host_" not in name]
    must(not left, "left behind: " + ", ".join(left))
    return f"purged: left are {len(keys.splitlines())} files of keys, the dumps and their users; netconsole.ko is the kernel's"


def on(kernel, root: str, directory: Path):
    """All of it on one Debian."""
    packages = [deb(name) for name in ("netdump", "netdump-tools", "netdump-server", f"netdump-modules-{kernel.release}")]
    with Machine(kernel, root, directory) as machine:
        machine.install(packages)
        look(machine)
        yield "installed: " + machine.run("dpkg-query -W 'netdump*'").replace("\t", " ").replace("\n", "; ")
        use(machine)
        yield "enrolled with the password, registered with the key; no shell, sftp or forwarding"
        machine.install(packages)
        look(machine)
        yield purge(machine)


@case
def debian_12(kernel, directory: Path):
    """Debian 12."""
    yield from on(kernel, "bookworm", directory)


@case
def debian_13(kernel, directory: Path):
    """Debian 13."""
    yield from on(kernel, "service", directory)


@case
def dkms(kernel, directory: Path):
    """netdump-dkms builds the modules from Debian's headers and source; it passes over kernels without Rust."""
    stock = "dummy"
    with Machine(kernel, "dkms", directory) as machine:
        major = ".".join(kernel.release.split("+")[0].split(".")[:2])
        source = f"/usr/src/linux-source-{major}.tar.xz"
        # An older kernel, as the next one to be installed: of no concern.
        other = "6.12.1-other"
        machine.run(f"mkdir -p /usr/lib/modules/{other}/kernel /usr/src/{other}/include && ln -s /usr/src/{other} /usr/lib/modules/{other}/build && "
                    f"echo '# CONFIG_RUST is not set' >/usr/src/{other}/.config && depmod {other}")  # fmt: skip
        # Without the source it says what is missing; with it the installation goes on.
        machine.run(f"mv {source} {source}.away")
        shutil.copy(deb("netdump-dkms"), machine.root / "tmp")
        must(machine.status("dpkg -i /tmp/netdump-dkms_*.deb") != 0, "it built the modules out of nothing")
        said = machine.run("cat /var/lib/dkms/netdump/*/build/make.log", check=False)
        must(f"apt install linux-source-{major}" in said, said)
        yield f"without the source: apt install linux-source-{major}"
        machine.run(f"mv {source}.away {source}")
        start = time.monotonic()
        said = machine.run("dpkg --configure -a")
        yield f"built in {time.monotonic() - start:.0f} s"
        must(re.search(rf"netdump/\S+, {re.escape(kernel.release)}, x86_64: installed", machine.run("dkms status")), said)
        magic = machine.run(f"modinfo -k {kernel.release} -F vermagic {stock}")
        for module in ("netdump", "netconsole"):
            must("/updates/dkms/" in machine.run(f"modinfo -k {kernel.release} -n {module}"), f"{module} is not found in updates/dkms")
            must(machine.run(f"modinfo -k {kernel.release} -F vermagic {module}") == magic, f"{module} is for another kernel")
        said = machine.run(f"dkms autoinstall -k {other}")
        must("netdump" not in machine.run(f"find /usr/lib/modules/{other} -name 'netdump*'"), f"built for a kernel without Rust: {said}")
        built = REPOSITORY / "build" / kernel.release / "dkms"
        shutil.rmtree(built, ignore_errors=True)
        built.mkdir(parents=True)
        machine.run(f"cp /usr/lib/modules/{kernel.release}/updates/dkms/net*.ko* /tmp/")
        for path in (machine.root / "tmp").glob("net*.ko*"):
            shutil.copy(path, built)
        machine.run("dpkg -P netdump-dkms")
        must("/kernel/" in machine.netconsole(), machine.netconsole())
        yield "purged: netconsole.ko is the kernel's"


@case
def rpms(_kernel, _directory: Path):
    """The RPMs have what the Debian packages have."""
    listed = {}
    for name in ("netdump", "netdump-tools", "netdump-server"):
        shown = subprocess.run(["dpkg-deb", "-c", deb(name)], capture_output=True, text=True, check=True).stdout
        ours = {line.split(" ./", 1)[1] for line in shown.splitlines() if line.startswith("-")}
        found = list(RPMS.glob(f"{name}-[0-9]*.rpm"))
        if len(found) != 1:
            raise Failure(f"{RPMS} has not one {name}, but {[path.name for path in found]}", "run `make rpm` first")
        shown = subprocess.run(lab_module.in_root("packages", "rpm", "-qlvp", found[0]), capture_output=True, text=True, check=True).stdout
        theirs = {line.split()[-1].lstrip("/") for line in shown.splitlines() if line.startswith("-")}
        # Policy of the one and of the other.
        ours = {path for path in ours if not re.search(r"^usr/share/doc/[^/]+/(copyright|changelog)|lintian", path)}
        theirs = {path.replace("etc/rc.d/", "etc/") for path in theirs if "/licenses/" not in path}
        must(ours - theirs - {"etc/init.d/netdump-server"} == set(), f"{name}: not in the RPM: {ours - theirs}")
        must(theirs - ours == set(), f"{name}: only in the RPM: {theirs - ours}")
        show = lab_module.in_root("packages", "rpm", "-qp", "--scripts", found[0])
        scripts = subprocess.run(show, capture_output=True, text=True, check=True).stdout
        body = re.sub(r"^\w+ (scriptlet|program).*$", "", scripts, flags=re.M)
        must(subprocess.run(["sh", "-n"], input=body, text=True, check=False).returncode == 0, f"{name}: scripts:\n{body}")
        listed[name] = len(theirs)
    yield ", ".join(f"{name}: {count} files" for name, count in listed.items())


def inside() -> None:
    """Starts this program again in namespaces of its own, with every user id that this user has."""
    if os.environ.get("NETDUMP_ISOLATED"):
        return
    words = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid() != 0:
        words += ["--user", "--map-root-user", "--map-auto"]
    os.environ["NETDUMP_ISOLATED"] = "1"
    os.execvp("unshare", ["unshare", *words, "--", sys.executable, *sys.argv])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="names, with * and ?")
    parser.add_argument("--list", action="store_true", help="print the names")
    arguments = parser.parse_args()
    chosen = {name: function for name, function in CASES.items() if fnmatch.fnmatch(name, arguments.only)}
    if arguments.list or not chosen:
        print("\n".join(CASES))
        return 0 if arguments.list else 1
    inside()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    kernel = lab_module.kernel_of("amd64")
    failed = []
    for name, function in chosen.items():
        directory = RESULTS / name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        start = time.monotonic()
        print(f"{name}: {function.__doc__.splitlines()[0]}", flush=True)
        try:
            for line in function(kernel, directory):
                print(f"    [{time.monotonic() - start:4.0f} s] {line}", flush=True)
            verdict = "passed"
        except Exception as error:
            (directory / "traceback").write_text(traceback.format_exc())
            print("    " + str(error).replace("\n", "\n    "), flush=True)
            verdict = "FAILED"
            failed.append(name)
        print(f"{name}: {verdict} in {time.monotonic() - start:.0f} s", flush=True)
    print(f"{len(chosen) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        print(f"packages FAILED: {failure}", file=sys.stderr)
        sys.exit(1)
