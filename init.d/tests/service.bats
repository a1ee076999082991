#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
# The service script with commands that only pretend, in a root of its own. Each command that changes something is noted in
# $calls; files in $fake decide how it ends.

setup() {
    rm -rf "${BATS_TEST_TMPDIR:?}"/*
    NETDUMP_ROOT=$BATS_TEST_TMPDIR/root
    calls=$BATS_TEST_TMPDIR/calls
    fake=$BATS_TEST_TMPDIR/fake
    export NETDUMP_ROOT calls fake
    mkdir -p "$fake" "$BATS_TEST_TMPDIR/bin" "$NETDUMP_ROOT"/{etc/sysconfig/netdump.d,proc/sys/kernel,sys/module,sys/kernel,dev,usr/libexec/netdump,run}
    : >"$calls"
    echo "quiet" >"$NETDUMP_ROOT/proc/cmdline"
    echo 0 >"$NETDUMP_ROOT/proc/sys/kernel/panic"
    echo 0 >"$NETDUMP_ROOT/proc/sys/kernel/panic_on_oops"
    echo 438 >"$NETDUMP_ROOT/proc/sys/kernel/sysrq"
    command_that modprobe '
        [ ! -e "$fake/modprobe-fails" ] || exit 1
        name=$1; shift
        mkdir -p "$NETDUMP_ROOT/sys/module/$name/parameters"
        if [ "$name" = netdump ]; then
            : >"$NETDUMP_ROOT/dev/netdump"
            for word; do case $word in netdump=*) echo "${word#netdump=}" >"$NETDUMP_ROOT/sys/module/netdump/parameters/netdump" ;; esac; done
            printf "armed: somehow\nkey: none\n" >"$NETDUMP_ROOT/sys/module/netdump/parameters/status"
        elif [ ! -e "$fake/stock" ]; then
            : >"$NETDUMP_ROOT/sys/module/netconsole/parameters/syslog_format"
        fi'
    command_that rmmod '[ ! -e "$fake/rmmod-fails" ] || exit 1; rm -rf "$NETDUMP_ROOT/sys/module/$1"; [ "$1" != netdump ] || rm -f "$NETDUMP_ROOT/dev/netdump"'
    command_that getent '[ -e "$fake/no-dns" ] || case $2 in crashhost) echo "192.0.2.1 STREAM x" ;; sixhost) echo "fd00::1 STREAM x" ;; esac'
    command_that ip 'echo "192.0.2.1 via 192.0.2.254 dev eth0 src 192.0.2.7 uid 0"'
    command_that ssh-keygen '
        [ ! -e "$fake/disk-full" ] || exit 1
        while [ "$1" != -f ]; do shift; done
        echo private >"$2"; echo "ssh-ed25519 AAAA me" >"$2.pub"'
    command_that ssh '
        cat >"$fake/sent"
        for word; do last=$word; done
        [ ! -e "$fake/ssh-down" ] || { echo "ssh: connect to host crashhost port 22: Connection refused" >&2; exit 255; }
        [ ! -e "$fake/$last-refused" ] || { echo "Permission denied" >&2; exit 255; }
        case $last in
        enrol) echo "enrolled c0" ;;
        register) [ -e "$fake/bad-answer" ] && echo "Welcome to Linux" || echo "registered c0 00112233445566778899aabbccddeeff" ;;
        esac'
    cat >"$NETDUMP_ROOT/usr/libexec/netdump/netdump-key" <<'END'
#!/bin/sh
echo "netdump-key $*" >>"$calls"
dir=$NETDUMP_ROOT/etc/netdump/servers/$3
case $1 in
registration) [ ! -e "$fake/disk-full" ] || exit 1; mkdir -p "$dir"; : >"$dir/key.new"; echo "netdump-registration 1" ;;
commit) read -r word _; [ "$word" = registered ] || exit 4; mv "$dir/key.new" "$dir/key"; echo x >"$dir/key"; echo "registered with $3 as c0" ;;
arm) [ -s "$dir/key" ] || exit 3; printf "armed: somehow\nkey: 0011\n" >"$NETDUMP_ROOT/sys/module/netdump/parameters/status" ;;
show) echo "server $3 key 0011" ;;
esac
END
    chmod +x "$NETDUMP_ROOT/usr/libexec/netdump/netdump-key"
    PATH=$BATS_TEST_TMPDIR/bin:$PATH
    script=$BATS_TEST_DIRNAME/../netdump
}

command_that() { # NAME TEXT
    printf '#!/bin/sh\necho "%s $*" >>"$calls"\n%s\n' "$1" "$2" >"$BATS_TEST_TMPDIR/bin/$1"
    chmod +x "$BATS_TEST_TMPDIR/bin/$1"
}

settings() { printf '%s\n' "$@" >"$NETDUMP_ROOT/etc/sysconfig/netdump"; }
key_for() { mkdir -p "$NETDUMP_ROOT/etc/netdump/servers/$1"; echo x >"$NETDUMP_ROOT/etc/netdump/servers/$1/key"; echo x >"$NETDUMP_ROOT/etc/netdump/id_ed25519"; }
called() { grep -Fqx -- "$1" "$calls" || { echo "not called: $1"; cat "$calls"; return 1; }; }
not_called() { ! grep -q -- "$1" "$calls" || { echo "called: $1"; cat "$calls"; return 1; }; }
kernel() { cat "$NETDUMP_ROOT/proc/sys/kernel/$1"; }

# ---- every variable

@test "each variable becomes the parameter that it stands for" {
    while IFS='|' read -r variables netdump netconsole; do
        setup
        # shellcheck disable=SC2046 # words
        settings $(echo "$variables")
        run "$script" start
        [ "$status" = 0 ] || { echo "$variables: $output"; return 1; }
        if [ -n "$netdump" ]; then called "modprobe netdump $netdump" || { echo "$variables"; return 1; }; else not_called "modprobe netdump "; fi
        if [ -n "$netconsole" ]; then called "modprobe netconsole $netconsole" || { echo "$variables"; return 1; }; else not_called "modprobe netconsole"; fi
    done <<'END'
NETDUMPADDR=crashhost|netdump=@/,@192.0.2.1/ level=31|netlog=@/,@192.0.2.1/
NETDUMPADDR=sixhost NETLOGADDR=NONE|netdump=@/,@fd00::1/ level=31|
NETDUMPADDR=192.0.2.9 NETLOGADDR=none|netdump=@/,@192.0.2.9/ level=31|
NETDUMPADDR=fd00::9 NETLOGADDR=NONE|netdump=@/,@fd00::9/ level=31|
NETDUMPADDR=crashhost NETLOGADDR=NONE LOCALPORT=7000 LOCALADDR=192.0.2.7 DEV=eth1 NETDUMPPORT=7001 NETDUMPMACADDR=02:00:00:00:00:01|netdump=7000@192.0.2.7/eth1,7001@192.0.2.1/02:00:00:00:00:01 level=31|
NETDUMPADDR=crashhost NETLOGADDR=NONE IDLETIMEOUT=10 HANDSHAKETIMEOUT=20 TOTALTIMEOUT=30 REBOOT=kernel|netdump=@/,@192.0.2.1/ idle_timeout=10 handshake_timeout=20 total_timeout=30 reboot=kernel level=31|
NETLOGADDR=crashhost NETLOGPORT=7002 NETLOGMACADDR=02:00:00:00:00:02||netlog=@/,7002@192.0.2.1/02:00:00:00:00:02
SYSLOGADDR=crashhost||syslog=@/,@192.0.2.1/
SYSLOGADDR=crashhost SYSLOGPORT=515 SYSLOGMACADDR=02:00:00:00:00:03 SYSLOGFORMAT=rfc5424 LOCALPORT=516||syslog=516@/,515@192.0.2.1/02:00:00:00:00:03 syslog_format=rfc5424
NETDUMPADDR=crashhost NETLOGADDR=192.0.2.2 SYSLOGADDR=192.0.2.3|netdump=@/,@192.0.2.1/ level=31|netlog=@/,@192.0.2.2/ syslog=@/,@192.0.2.3/
NETDUMPADDR=crashhost NETLOGADDR=NONE DUMPLEVEL=0 DUMPPROTOCOL=6 QUEUETIMEOUT=40 PROBEINTERVAL=9|netdump=@/,@192.0.2.1/ queue_timeout=40 probe_interval=9 protocol=6 level=0|
NETDUMPADDR=crashhost NETLOGADDR=NONE DUMPTAGS=rack=b12|netdump=@/,@192.0.2.1/ level=31 tags=rack=b12|
NETDUMPADDR=crashhost NETLOGADDR=NONE DUMPLEVEL=|netdump=@/,@192.0.2.1/|
END
}

@test "a dump says which machine it is of, and what else is wished" {
    mkdir -p "$NETDUMP_ROOT/proc/sys/kernel/random"
    echo 0a1b2c >"$NETDUMP_ROOT/etc/machine-id"
    echo 11-22 >"$NETDUMP_ROOT/proc/sys/kernel/random/boot_id"
    settings NETDUMPADDR=crashhost NETLOGADDR=NONE 'DUMPTAGS="rack=b12 role=db"'
    run "$script" start
    [ "$status" = 0 ]
    called "modprobe netdump netdump=@/,@192.0.2.1/ level=31 tags=machine-id=0a1b2c,boot-id=11-22,rack=b12,role=db"
}

@test "several servers: dumps go to the first that is there, text to all" {
    settings 'NETDUMPADDR="nohost crashhost"' 'NETLOGADDR="192.0.2.2 192.0.2.3"'
    run "$script" start
    [ "$status" = 0 ]
    called "modprobe netdump netdump=@/,@192.0.2.1/ level=31"
    called "modprobe netconsole netlog=@/,@192.0.2.2/;@/,@192.0.2.3/"
    [[ $output == *"cannot resolve nohost"* ]]
}

@test "files of netdump.d come after and count" {
    settings NETDUMPADDR=192.0.2.9
    echo NETDUMPADDR=crashhost >"$NETDUMP_ROOT/etc/sysconfig/netdump.d/10-site.conf"
    echo NETDUMPADDR=192.0.2.99 >"$NETDUMP_ROOT/etc/sysconfig/netdump.d/20-site.off"
    run "$script" start
    called "modprobe netdump netdump=@/,@192.0.2.1/ level=31"
}

@test "wrong values are named, each, and nothing is loaded" {
    for bad in LOCALPORT=0 LOCALPORT=x NETDUMPPORT=65536 NETLOGPORT=-1 SYSLOGPORT=1e3 IDLETIMEOUT=1s HANDSHAKETIMEOUT=9999999999 TOTALTIMEOUT=-1 \
        NETDUMPMACADDR=02:00 NETLOGMACADDR=x SYSLOGMACADDR=02-00-00-00-00-01 NETDUMPKEYEXCHANGE=rsh REBOOT=never DUMPLEVEL=32 DUMPPROTOCOL=7 DUMPTAGS=rack 'DUMPTAGS="a=b,c=d"' DUMPTAGS=a/b=c QUEUETIMEOUT=-1 PROBEINTERVAL=x SYSLOGFORMAT=json PANIC=soon \
        PANIC_ON_OOPS=2 SYSRQ=on DEV=eth0/x 'DEV="eth0;reboot"' LOCALADDR=me 'NETLOGADDR="a;b"' 'SYSLOGADDR=-oProxyCommand=x' NETDUMPSSHPORT=ssh; do
        setup
        settings NETDUMPADDR=crashhost "$bad"
        run "$script" start
        [ "$status" = 6 ] || { echo "$bad: $status $output"; return 1; }
        [[ $output == *"${bad%%=*}"* || $output == *"an address"* ]] || { echo "$bad: $output"; return 1; }
        not_called modprobe
        run "$script" check-config
        [ "$status" = 6 ]
    done
    settings NETDUMPADDR=crashhost
    run "$script" check-config
    [ "$status" = 0 ]
}

@test "settings that are no shell end nothing half-way" {
    settings 'NETDUMPADDR="crashhost'
    run "$script" start
    [ "$status" = 6 ]
    not_called modprobe
}

@test "the shipped settings say nothing, and name every variable of the script" {
    cp "$BATS_TEST_DIRNAME/../../sysconfig/netdump" "$NETDUMP_ROOT/etc/sysconfig/netdump"
    run "$script" start
    [ "$status" = 0 ]
    [[ $output == *"Server address not specified in /etc/sysconfig/netdump"* ]]
    not_called modprobe
    for name in $(sed -n '/^read_settings/,/^}/p' "$script" | grep -o '[A-Z_]*=' | tr -d = | sort -u); do
        grep -q "^#$name=" "$NETDUMP_ROOT/etc/sysconfig/netdump" || { echo "$name is not in sysconfig/netdump"; return 1; }
    done
}

# ---- the kernel's settings

@test "kernel settings are set at start and put back at stop" {
    settings NETDUMPADDR=crashhost PANIC=7 SYSRQ=1
    run "$script" start
    [ "$(kernel panic) $(kernel panic_on_oops) $(kernel sysrq)" = "7 1 1" ]
    run "$script" start # again: what was there before the first is what is remembered
    run "$script" stop
    [ "$status" = 0 ]
    [ "$(kernel panic) $(kernel panic_on_oops) $(kernel sysrq)" = "0 0 438" ]
}

@test "empty kernel settings leave the kernel alone" {
    settings NETDUMPADDR=crashhost PANIC= PANIC_ON_OOPS=
    run "$script" start
    [ "$(kernel panic) $(kernel panic_on_oops) $(kernel sysrq)" = "0 0 438" ]
}

@test "what takes a dump away is warned of" {
    settings NETDUMPADDR=crashhost
    echo 1 >"$NETDUMP_ROOT/sys/kernel/kexec_crash_loaded"
    mkdir -p "$NETDUMP_ROOT/sys/module/pvpanic_pci" "$NETDUMP_ROOT/sys/class/watchdog/watchdog0"
    echo active >"$NETDUMP_ROOT/sys/class/watchdog/watchdog0/state"
    echo 30 >"$NETDUMP_ROOT/sys/class/watchdog/watchdog0/timeout"
    run "$script" start
    [[ $output == *"kdump"* && $output == *"pvpanic"* && $output == *"watchdog0"*"30 s"* ]]
    setup
    settings NETDUMPADDR=crashhost
    echo 1 >"$NETDUMP_ROOT/sys/kernel/kexec_crash_loaded"
    echo "quiet crash_kexec_post_notifiers" >"$NETDUMP_ROOT/proc/cmdline"
    run "$script" start
    [[ $output != *"kdump"* ]]
}

@test "the kill switch loads nothing" {
    settings NETDUMPADDR=crashhost
    for word in netdump.disable=1 netdump.disable=y netdump.disable; do
        echo "quiet $word" >"$NETDUMP_ROOT/proc/cmdline"
        run "$script" start
        [ "$status" = 0 ]
        [[ $output == *"nothing is loaded"* ]]
        run "$script" renew
    done
    not_called modprobe
    echo "netdump.disable=0" >"$NETDUMP_ROOT/proc/cmdline"
    run "$script" start
    called "modprobe netdump netdump=@/,@192.0.2.1/ level=31"
}

@test "test says what became of the last probe" {
    settings NETDUMPADDR=crashhost NETDUMPKEYEXCHANGE=none
    run "$script" start
    for probe in "answered 3 s ago after 400 us|0|armed, and the server answered 3 s ago" \
        "no answer for 7 s|1|gives no answer for 7 s: look for a firewall" "off|0|only a panic shows"; do
        printf "armed: somehow\nkey: none\nprobe: %s\n" "${probe%%|*}" >"$NETDUMP_ROOT/sys/module/netdump/parameters/status"
        run "$script" test
        [[ $output == *"${probe##*|}"* ]] || { echo "$probe: $output"; return 1; }
        probe=${probe#*|}
        [ "$status" = "${probe%%|*}" ]
    done
}

@test "the unit stays inactive where there is nothing to start" {
    settings
    run "$script" wanted
    [ "$status" = 1 ]
    settings NETDUMPADDR=crashhost
    run "$script" wanted
    [ "$status" = 0 ]
    echo "netdump.disable=1" >"$NETDUMP_ROOT/proc/cmdline"
    run "$script" wanted
    [ "$status" = 1 ]
    not_called modprobe
}

# ---- never in the way of boot

@test "without DNS start succeeds, and the timer finishes the work" {
    settings NETDUMPADDR=crashhost
    touch "$fake/no-dns"
    run "$script" start
    [ "$status" = 0 ]
    [[ $output == *"cannot resolve crashhost: trying again later"* ]]
    not_called modprobe
    rm "$fake/no-dns"
    run "$script" renew
    called "modprobe netdump netdump=@/,@192.0.2.1/ level=31"
    called "modprobe netconsole netlog=@/,@192.0.2.1/"
}

@test "the timer does nothing for a service that is not started" {
    settings NETDUMPADDR=crashhost
    run "$script" renew
    [ "$status" = 0 ]
    not_called modprobe
    not_called ssh
}

@test "start talks to nobody; the timer registers a new key once for each boot and address" {
    settings NETDUMPADDR=crashhost
    key_for crashhost
    run "$script" start
    called "netdump-key arm --server crashhost"
    not_called "^ssh"
    run "$script" renew
    [ "$status" = 0 ]
    [ "$(grep -c "^ssh " "$calls")" = 1 ]
    # Registered first, and only then armed with the new one.
    [ "$(tail -n1 "$calls")" = "netdump-key arm --server crashhost" ]
    run "$script" renew
    [ "$(grep -c "^ssh " "$calls")" = 1 ]
    command_that ip 'echo "192.0.2.1 dev eth0 src 192.0.2.8 uid 0"'
    run "$script" renew
    [ "$(grep -c "^ssh " "$calls")" = 2 ]
}

@test "a fleet's enrolment key enrols by itself" {
    settings NETDUMPADDR=crashhost
    mkdir -p "$NETDUMP_ROOT/etc/netdump" && echo key >"$NETDUMP_ROOT/etc/netdump/enrolment_key"
    run "$script" start
    [ "$status" = 0 ]
    run "$script" renew
    [ "$status" = 0 ]
    grep -q "^ssh .*enrolment_key.*BatchMode=yes.*StrictHostKeyChecking=yes.* enrol$" "$calls"
    [ -s "$NETDUMP_ROOT/etc/netdump/servers/crashhost/key" ]
}

# ---- keys

@test "propagate: an ssh key once, enrolment with the password, registration, and the module armed" {
    settings NETDUMPADDR=crashhost
    run "$script" start
    [[ $output == *"no key for crashhost"* ]]
    run "$script" propagate
    [ "$status" = 0 ]
    grep -q "^ssh .*PubkeyAuthentication=no.* crashhost enrol$" "$calls"
    grep -q "^ssh .*BatchMode=yes.* crashhost register$" "$calls"
    [ "$(cat "$fake/sent")" = "netdump-registration 1" ]
    [ "$(tail -n1 "$calls")" = "netdump-key arm --server crashhost" ]
    [ "$(stat -c %a "$NETDUMP_ROOT/etc/netdump")" = 700 ]
    run "$script" propagate
    [ "$status" = 0 ]
    [ "$(grep -c "^ssh-keygen" "$calls")" = 1 ]
    [ "$(grep -c " enrol$" "$calls")" = 1 ]
}

@test "no secret is in an argument" {
    settings NETDUMPADDR=crashhost
    run "$script" propagate
    not_called "netdump-registration 1"
}

@test "each failure of propagate: a message, a status, and nothing half-installed" {
    for failure in ssh-down enrol-refused register-refused bad-answer disk-full; do
        setup
        settings NETDUMPADDR=crashhost
        touch "$fake/$failure"
        run "$script" propagate
        [ "$status" = 1 ] || { echo "$failure: $status $output"; return 1; }
        [ -n "$output" ]
        [ ! -e "$NETDUMP_ROOT/etc/netdump/servers/crashhost/key" ] || { echo "$failure left a key"; return 1; }
        [ ! -e "$NETDUMP_ROOT/etc/netdump/id_new" ] || { echo "$failure left half a key"; return 1; }
        case $failure in
        ssh-down | enrol-refused) [[ $output == *"could not ssh to server crashhost"* ]] ;;
        register-refused | bad-answer) [[ $output == *"ssh key exchange with crashhost failed"* ]] ;;
        disk-full) [[ $output == *"disk full"* ]] ;;
        esac
        # Once the cause is gone, the same command does it.
        rm "$fake/$failure"
        run "$script" propagate
        [ "$status" = 0 ]
        [ -s "$NETDUMP_ROOT/etc/netdump/servers/crashhost/key" ]
    done
}

@test "a key that is there survives each failure" {
    for failure in ssh-down enrol-refused register-refused bad-answer disk-full; do
        setup
        settings NETDUMPADDR=crashhost
        key_for crashhost
        echo old >"$NETDUMP_ROOT/etc/netdump/servers/crashhost/key"
        echo "ssh-ed25519 AAAA" >"$NETDUMP_ROOT/etc/netdump/id_ed25519.pub"
        touch "$fake/$failure" "$fake/register-refused"
        run "$script" propagate
        [ "$status" = 1 ]
        [ "$(cat "$NETDUMP_ROOT/etc/netdump/servers/crashhost/key")" = old ]
    done
}

@test "propagate --batch asks nobody" {
    settings NETDUMPADDR=crashhost
    run "$script" propagate --batch
    [ "$status" = 1 ]
    [[ $output == *"enrolment_key"* ]]
    not_called "PubkeyAuthentication=no"
    echo key >"$NETDUMP_ROOT/etc/netdump/enrolment_key"
    run "$script" propagate --batch
    [ "$status" = 0 ]
}

@test "NETDUMPKEYEXCHANGE=none has no keys at all" {
    settings NETDUMPADDR=crashhost NETDUMPKEYEXCHANGE=none
    run "$script" propagate
    [ "$status" = 0 ]
    run "$script" start
    run "$script" renew
    not_called ssh
    not_called netdump-key
}

# ---- actions

@test "start twice, stop twice, restart, condrestart" {
    settings NETDUMPADDR=crashhost
    run "$script" condrestart
    not_called modprobe
    run "$script" start
    run "$script" start
    [ "$status" = 0 ]
    [ "$(grep -c "^modprobe netdump" "$calls")" = 1 ]
    run "$script" restart
    [ "$status" = 0 ]
    [ "$(grep -c "^modprobe netdump" "$calls")" = 2 ]
    run "$script" try-restart
    [ "$(grep -c "^modprobe netdump" "$calls")" = 3 ]
    run "$script" stop
    [ "$status" = 0 ]
    run "$script" stop
    [ "$status" = 0 ]
    [ ! -d "$NETDUMP_ROOT/sys/module/netdump" ]
}

@test "stop wipes the key before it unloads, and tells when it cannot" {
    settings NETDUMPADDR=crashhost PANIC=7
    run "$script" start
    touch "$fake/rmmod-fails"
    run "$script" stop
    [ "$status" = 1 ]
    called "netdump-key wipe"
    [ "$(kernel panic)" = 7 ]
}

@test "reload never unloads: keys and kernel settings change, a new target is told" {
    settings NETDUMPADDR=crashhost
    key_for crashhost
    run "$script" reload
    [ "$status" = 7 ]
    run "$script" start
    settings NETDUMPADDR=crashhost PANIC=3
    : >"$calls"
    run "$script" reload
    [ "$status" = 0 ]
    [ "$(kernel panic)" = 3 ]
    called "netdump-key arm --server crashhost"
    settings NETDUMPADDR=crashhost NETDUMPPORT=7777
    run "$script" reload
    [ "$status" = 1 ]
    [[ $output == *"restart"* ]]
    not_called rmmod
}

@test "status tells by LSB what is the matter" {
    settings
    run "$script" status
    [ "$status" = 3 ]
    [[ $output == *"Server address not specified"* ]]
    settings NETDUMPADDR=crashhost
    run "$script" status
    [ "$status" = 3 ]
    run "$script" start
    run "$script" status
    [ "$status" = 0 ]
    [[ $output == *"armed: somehow"* ]]
    echo "not armed: the device is down" >"$NETDUMP_ROOT/sys/module/netdump/parameters/status"
    run "$script" status
    [ "$status" = 1 ]
    [[ $output == *"the device is down"* ]]
}

@test "test says whether a panic would be delivered" {
    settings NETDUMPADDR=crashhost
    run "$script" test
    [ "$status" = 1 ]
    run "$script" start
    run "$script" test
    [ "$status" = 1 ]
    [[ $output == *"no key"* ]]
    run "$script" propagate
    run "$script" test
    [ "$status" = 0 ]
}

@test "the kernel's own netconsole is not pushed aside" {
    settings NETLOGADDR=crashhost
    mkdir -p "$NETDUMP_ROOT/sys/module/netconsole/parameters"
    run "$script" start
    [ "$status" = 1 ]
    [[ $output == *"kernel's own netconsole"* ]]
    not_called modprobe
    run "$script" stop
    not_called "rmmod netconsole"
    rm -r "$NETDUMP_ROOT/sys/module/netconsole"
    touch "$fake/stock"
    run "$script" start
    [ "$status" = 1 ]
    [[ $output == *"updates/"* ]]
}

@test "a module that does not load is an error that says where to look" {
    settings NETDUMPADDR=crashhost
    touch "$fake/modprobe-fails"
    run "$script" start
    [ "$status" = 1 ]
    [[ $output == *"check-kernel"* ]]
}

@test "check-kernel wants both modules of ours for that kernel" {
    command_that modinfo '
        [ ! -e "$fake/none" ] || exit 1
        case "$*" in
        *"-n netdump") echo /lib/modules/7.9/updates/netdump.ko ;;
        *"-n netconsole") [ -e "$fake/stock" ] && echo /lib/modules/7.9/kernel/drivers/net/netconsole.ko || echo /lib/modules/7.9/updates/netconsole.ko ;;
        *vermagic*) echo "7.9 SMP" ;;
        esac'
    run "$script" check-kernel 7.9
    [ "$status" = 0 ]
    run "$script" check-kernel 7.8
    [ "$status" = 1 ]
    touch "$fake/stock"
    run "$script" check-kernel 7.9
    [ "$status" = 1 ]
    touch "$fake/none"
    run "$script" check-kernel 7.9
    [ "$status" = 1 ]
    [[ $output == *"netdump-modules-7.9"* ]]
    run "$script" check-kernel
    [ "$status" = 2 ]
}

@test "anything else is usage" {
    run "$script" nonsense
    [ "$status" = 2 ]
    [[ $output == *"Usage:"* ]]
    run "$script"
    [ "$status" = 2 ]
}
