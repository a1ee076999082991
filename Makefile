# SPDX-License-Identifier: GPL-2.0-or-later
#
# netdump: crash dumps over the network. `make help` lists what there is; build/ holds all that is made, and the lab's
# downloads and build roots are in a cache outside the tree (NETDUMP_CACHE).

FLAVOUR ?= cloud-amd64
CARGO ?= cargo
export CARGO_TARGET_DIR ?= $(CURDIR)/build/cargo

tests := tests-qemu
lab := $(tests)/lab.py --flavour $(FLAVOUR)
guest := $(tests)/isolated $(tests)
as_root := $(if $(filter 0,$(shell id -u)),,../$(tests)/isolated)
scripts := .ci/run $(wildcard userspace/fuzz/run) $(tests)/in-root $(tests)/isolated $(tests)/need-cargo $(wildcard packaging/scripts/*) packaging/build-deb packaging/build-rpm packaging/signing packaging/sign-modules packaging/dkms/prepare $(filter-out %.control,$(wildcard packaging/debian/*.post*)) init.d/netdump init.d/netdump-server

.DEFAULT_GOAL := help
.PHONY: help lab modules server man install install-tools install-client install-server install-modules install-source deb rpm packages-root demo test script-test host-test guest-test test-full test-selftests test-service test-packages test-debug fuzz bench lint lint-modules clean

help: ## this list
	@echo 'netdump: crash dumps over the network'
	@echo
	@sed -n 's/^\([a-z-]*\):.* ## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name text; do \
		printf '  make %-14s %s\n' "$$name" "$$text"; done
	@echo
	@echo 'FLAVOUR=amd64 takes the stock kernel with all drivers instead of the cloud one.'
	@echo 'KVER=<release> (or KBUILD=<build tree>) builds the modules for a kernel of your own, with the compilers on PATH.'

lab: ## fetch and build what the tests need, and print where it is (KEY=path)
	@$(lab)

# With KVER= or KBUILD= the modules are for that tree and made with what is on PATH; otherwise for the lab's stock kernel, in the
# build root that has its compilers.
ifdef KVER
KBUILD ?= /lib/modules/$(KVER)/build
endif
modules: ## build/<kernel release>/netdump.ko and netconsole.ko
ifdef KBUILD
	@$(tests)/build-modules --kbuild $(KBUILD)
else
	@$(tests)/build-modules --flavour $(FLAVOUR)
endif

server: need-cargo ## build/bin/netdump-server and the tools beside it
	cd userspace && $(CARGO) build --release --workspace --bins
	@mkdir -p build/bin
	@find $(CARGO_TARGET_DIR)/release -maxdepth 1 -type f -executable -name 'netdump*' -exec install -t build/bin {} +
	@ls build/bin | sed 's|^|build/bin/|'

# What goes where, for packages and for machines without them. Only files are put in place: users, directories of their own
# and the start are the packages' business (packaging/debian).
DESTDIR ?=
put = install -D -m
man: ## build/man/: the manual pages
	@mkdir -p build/man
	@for page in $(basename $(notdir $(wildcard docs/*.[158].md))); do \
		$(tests)/in-root packages pandoc -s -f markdown-smart -t man docs/$$page.md -o build/man/$$page && gzip -9nf build/man/$$page; done

install: install-tools install-client install-server ## put all but the modules into DESTDIR (after: make server man)

install-tools:
	$(put) 755 build/bin/netdumpctl $(DESTDIR)/usr/bin/netdumpctl
	$(put) 755 build/bin/netdump-key $(DESTDIR)/usr/libexec/netdump/netdump-key
	$(put) 755 build/bin/netdump-login $(DESTDIR)/usr/libexec/netdump/netdump-login
	$(put) 644 build/man/netdumpctl.1.gz $(DESTDIR)/usr/share/man/man1/netdumpctl.1.gz
	build/bin/netdumpctl completion bash | $(put) 644 /dev/stdin $(DESTDIR)/usr/share/bash-completion/completions/netdumpctl

install-client:
	$(put) 755 init.d/netdump $(DESTDIR)/etc/init.d/netdump
	$(put) 644 sysconfig/netdump $(DESTDIR)/etc/sysconfig/netdump
	install -d $(DESTDIR)/etc/sysconfig/netdump.d
	$(put) 644 packaging/netdump.service $(DESTDIR)/usr/lib/systemd/system/netdump.service
	$(put) 644 packaging/netdump-renew.service $(DESTDIR)/usr/lib/systemd/system/netdump-renew.service
	$(put) 644 packaging/netdump-renew.timer $(DESTDIR)/usr/lib/systemd/system/netdump-renew.timer
	$(put) 644 build/man/netdump.8.gz $(DESTDIR)/usr/share/man/man8/netdump.8.gz
	$(put) 644 build/man/netconsole.8.gz $(DESTDIR)/usr/share/man/man8/netconsole.8.gz

install-server:
	$(put) 755 build/bin/netdump-server $(DESTDIR)/usr/sbin/netdump-server
	$(put) 755 init.d/netdump-server $(DESTDIR)/etc/init.d/netdump-server
	$(put) 644 sysconfig/netdump-server $(DESTDIR)/etc/sysconfig/netdump-server
	$(put) 644 packaging/netdump.conf $(DESTDIR)/etc/netdump.conf
	$(put) 644 packaging/sshd.conf $(DESTDIR)/etc/ssh/sshd_config.d/netdump.conf
	$(put) 644 packaging/netdump-server.service $(DESTDIR)/usr/lib/systemd/system/netdump-server.service
	$(put) 644 packaging/sysusers.conf $(DESTDIR)/usr/lib/sysusers.d/netdump-server.conf
	$(put) 644 packaging/tmpfiles.conf $(DESTDIR)/usr/lib/tmpfiles.d/netdump-server.conf
	$(put) 644 packaging/sysctl.conf $(DESTDIR)/usr/lib/sysctl.d/50-netdump-server.conf
	$(put) 644 build/man/netdump-server.8.gz $(DESTDIR)/usr/share/man/man8/netdump-server.8.gz
	$(put) 644 build/man/netdump.conf.5.gz $(DESTDIR)/usr/share/man/man5/netdump.conf.5.gz
	for hook in $(notdir $(wildcard packaging/scripts/*)); do \
		$(put) 755 packaging/scripts/$$hook $(DESTDIR)/usr/share/doc/netdump-server/examples/$$hook; done

# KVER= says for which kernel. With NETDUMP_SIGN_KEY and NETDUMP_SIGN_CERT they are signed by the kernel's own sign-file: last,
# since a signature is good for the very bytes. Debugging information stays in build/, as it does with the kernel's own.
install-modules:
	$(put) 644 build/$(KVER)/netdump.ko $(DESTDIR)/usr/lib/modules/$(KVER)/updates/netdump.ko
	$(put) 644 build/$(KVER)/netconsole.ko $(DESTDIR)/usr/lib/modules/$(KVER)/updates/netconsole.ko
	strip --strip-debug $(DESTDIR)/usr/lib/modules/$(KVER)/updates/netdump.ko $(DESTDIR)/usr/lib/modules/$(KVER)/updates/netconsole.ko
	packaging/sign-modules $(KVER) $(DESTDIR)/usr/lib/modules/$(KVER)/updates

install-source:
	for file in Kbuild LICENSE packaging/dkms/prepare $$(find rust -type f); do \
		install -D -m $$([ -x $$file ] && echo 755 || echo 644) $$file $(DESTDIR)/usr/src/netdump-0.1.0/$$file || exit 1; done

deb: packages-root server man ## build/deb/*.deb, with the modules for the stock kernels
	@$(tests)/build-modules --flavour cloud-amd64
	@$(tests)/build-modules --flavour amd64
	@packaging/build-deb

rpm: packages-root server man ## build/rpm/*.rpm; KVER=<release>: with the modules that `make modules` made for it
	@packaging/build-rpm $(KVER)

packages-root: # a Debian 13 with the tools that make packages
	@$(lab) --no-vmlinux --no-judges --packages >/dev/null

demo: need-cargo judges modules server ## a guest panics, and crash and drgn show what the server wrote
	@$(guest)/demo.py --flavour $(FLAVOUR)

test: lint script-test host-test guest-test ## all host tests, and the guest tests that fit 45 minutes

script-test: judges ## the service script with commands that only pretend
	bats init.d/tests

# tshark of the lab judges what the wire code emits.
# Some tests want raw sockets and mounts: an ordinary user has them in namespaces, where there is no network any more.
host-test: need-cargo judges ## the tests that boot nothing
	cd userspace && $(CARGO) test --workspace --no-run --quiet
	cd userspace && $(as_root) sh -c 'if $(CARGO) nextest --version >/dev/null 2>&1; \
		then $(CARGO) --offline nextest run --workspace --no-fail-fast && $(CARGO) --offline test --workspace --doc; \
		else $(CARGO) --offline test --workspace; fi'
	python3 -m unittest discover -s $(tests) -p '*_test.py'

# Tests name the flavour that they run on: FLAVOUR=, KVER= and KBUILD= are not for them.
guest-test: server ## the guest tests of `make test`
	@$(tests)/build-modules --flavour cloud-amd64
	@$(tests)/run-tests.py --tier test

test-full: deb ## every guest test, with modules made by DKMS among them (hours; goes on where it stopped)
	@$(tests)/lab.py --flavour amd64 --no-vmlinux --no-judges --dkms >/dev/null
	@$(tests)/packages.py --only dkms
	@$(tests)/run-tests.py --tier full

test-selftests: ## the kernel's selftests of netconsole, on the stock module and on ours
	@$(tests)/lab.py --flavour cloud-amd64 --no-vmlinux --no-judges --selftests >/dev/null
	@$(tests)/build-modules --flavour cloud-amd64
	@$(tests)/isolated $(tests)/selftests.py --flavour cloud-amd64

test-service: deb ## the packages on two Debian machines with systemd: set up as the README says, and crashed
	@$(tests)/lab.py --flavour amd64 --service >/dev/null
	@$(tests)/isolated $(tests)/service.py

test-packages: deb rpm ## the packages on Debian 12 and 13 without a boot: installed, used over ssh, purged; DKMS builds the modules
	@$(tests)/lab.py --flavour amd64 --no-vmlinux --no-judges --service --bookworm --dkms --packages >/dev/null
	@$(tests)/packages.py

test-debug: server ## the modules on a kernel with KASAN, lockdep and kmemleak
	@$(tests)/build-modules --flavour debug
	@$(tests)/run-tests.py --tier debug

bench: judges modules server ## dumps beside pktgen and a bare loop, netconsole beside the stock one, console text beside rsyslog, level 31 beside kdump over ssh, bad and long paths beside plain ones (as root); build/bench/
	@$(guest)/bench.py
	@$(guest)/bench_native.py
	@$(guest)/bench_console.py
	@$(lab) --rsyslog >/dev/null
	@$(guest)/bench_logs.py
	@$(lab) --kdump >/dev/null
	@$(guest)/bench_kdump.py
	@$(guest)/bench_path.py
	@$(tests)/bench_plot.py

fuzz: need-cargo ## coverage-guided fuzzing, 10 minutes for each target (FUZZ_SECONDS)
	@userspace/fuzz/run $(or $(FUZZ_SECONDS),600)

lint: need-cargo lint-modules ## formatting, clippy, shellcheck, Python
	cd userspace && $(CARGO) fmt --all --check
	cd userspace/fuzz && $(CARGO) fmt --check
	cd userspace && $(CARGO) clippy --workspace --all-targets --quiet -- -D warnings
	shellcheck $(scripts)
	python3 $(tests)/lint.py $(tests)

lint-modules: # the kernel modules with clippy, and rustfmt over rust/
	@$(tests)/build-modules --flavour $(FLAVOUR) --clippy
	@$(tests)/in-root build rustfmt --edition 2021 --config-path rustfmt.toml --check $$(find rust -name '*.rs')

clean: ## remove build/ (the cache stays)
	rm -rf build

# Everything of the lab, while there is a network: the guests' namespaces have none.
.PHONY: need-cargo judges
.NOTPARALLEL:

judges:
	@$(lab) >/dev/null

need-cargo:
	@$(tests)/need-cargo $(CARGO)
