# SPDX-License-Identifier: GPL-2.0-or-later
"""What is shipped hangs together: settings and manual pages, units and limits, files and places."""

import re
import shutil
import subprocess
import unittest

from cache import REPOSITORY

PACKAGING, DOCS = REPOSITORY / "packaging", REPOSITORY / "docs"


class Shipped(unittest.TestCase):
    """Files that describe one another."""

    def test_every_key_of_the_server_is_in_its_manual_page_with_its_default(self):
        shipped = dict(re.findall(r"^#(\w+)=(.*)$", (PACKAGING / "netdump.conf").read_text(), re.M))
        told = dict(re.findall(r"^\*\*(\w+)\*\* \(default: (.*)\)$", (DOCS / "netdump.conf.5.md").read_text(), re.M))
        self.assertGreater(len(shipped), 20)
        self.assertEqual({key: value or "empty" for key, value in shipped.items()}, told)

    def test_every_setting_of_the_service_is_in_its_manual_page(self):
        settings = re.findall(r"^#([A-Z_]+)=", (REPOSITORY / "sysconfig/netdump").read_text(), re.M)
        page = (DOCS / "netdump.8.md").read_text()
        self.assertEqual([name for name in settings if f"**{name}**" not in page], [])

    def test_every_action_of_the_service_is_in_its_manual_page(self):
        usage = re.search(r"Usage: \$0 \{(.*)\}", (REPOSITORY / "init.d/netdump").read_text())[1]
        page = (DOCS / "netdump.8.md").read_text()
        self.assertEqual([word for word in re.findall(r"[a-z][a-z-]+", usage) if word != "batch" and f"**{word}" not in page], [])

    @unittest.skipUnless(shutil.which("systemd-analyze"), "this machine has no systemd-analyze")
    def test_the_server_is_confined(self):
        done = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", PACKAGING / "netdump-server.service"], capture_output=True, text=True, check=False
        )
        level = re.search(r"Overall exposure level for netdump-server.service: ([0-9.]+)", done.stdout)
        self.assertTrue(level, done.stdout + done.stderr)
        self.assertLessEqual(float(level[1]), 2.0)

    def test_install_puts_each_file_where_it_belongs(self):
        """Neither more nor less."""
        wanted = """etc/init.d/netdump etc/init.d/netdump-server etc/netdump.conf etc/ssh/sshd_config.d/netdump.conf
        etc/sysconfig/netdump etc/sysconfig/netdump-server usr/bin/netdumpctl usr/lib/sysctl.d/50-netdump-server.conf
        usr/lib/systemd/system/netdump.service usr/lib/systemd/system/netdump-renew.service usr/lib/systemd/system/netdump-renew.timer
        usr/lib/systemd/system/netdump-server.service usr/lib/sysusers.d/netdump-server.conf usr/lib/tmpfiles.d/netdump-server.conf
        usr/libexec/netdump/netdump-key usr/libexec/netdump/netdump-login usr/sbin/netdump-server
        usr/share/bash-completion/completions/netdumpctl""".split()
        wanted += [f"usr/share/man/man{page[-1]}/{page}.gz" for page in
                   ("netdump.8", "netconsole.8", "netdump-server.8", "netdump.conf.5", "netdumpctl.1")]  # fmt: skip
        wanted += [f"usr/share/doc/netdump-server/examples/{hook.name}" for hook in (PACKAGING / "scripts").iterdir()]
        plan = subprocess.run(
            ["make", "-n", "-C", REPOSITORY, "install", "DESTDIR=/D"], capture_output=True, text=True, check=True
        ).stdout
        put = set(re.findall(r"install -D -m \d+ \S+ /D/(\S+)", plan))
        hooks = re.search(r"for hook in (.*); do", plan)[1].split()
        put = {path for path in put if "$hook" not in path} | {f"usr/share/doc/netdump-server/examples/{hook}" for hook in hooks}
        self.assertEqual(sorted(put), sorted(wanted))

    def test_names_of_packages_and_version_are_one(self):
        version = re.search(r'^version = "(.*)"', (REPOSITORY / "userspace/Cargo.toml").read_text(), re.M)[1]
        self.assertIn(f"netdump ({version})", (PACKAGING / "debian/changelog").read_text().splitlines()[0])
        self.assertIn(f'PACKAGE_VERSION="{version}"', (PACKAGING / "debian/netdump-dkms.dkms").read_text())
        self.assertIn(f"usr/src/netdump-{version}/", (REPOSITORY / "Makefile").read_text())
        self.assertIn(f"Version: {version}\n", (PACKAGING / "netdump.spec").read_text())

    def test_what_is_installed_is_in_the_rpms(self):
        """What make install puts in place is listed in the spec, but for what it takes away itself."""
        spec = (PACKAGING / "netdump.spec").read_text()
        listed = spec[spec.index("%files") :].replace("%{unitdir}", "/usr/lib/systemd/system").replace("/etc/rc.d/init.d", "/etc/init.d")
        plan = subprocess.run(["make", "-n", "-C", REPOSITORY, "install", "DESTDIR=/D"], capture_output=True, text=True, check=True).stdout
        put = set(re.findall(r"install -D -m \d+ \S+ /D(/\S+)", plan)) - {"/etc/init.d/netdump-server"}
        self.assertGreater(len(put), 20)
        self.assertEqual([path for path in sorted(put) if "$hook" not in path and path not in listed.split()], [])
        self.assertIn("%doc /usr/share/doc/netdump-server/examples", listed)


if __name__ == "__main__":
    unittest.main()
