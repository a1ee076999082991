// SPDX-License-Identifier: GPL-2.0-or-later
//! The programs as scripts and sshd start them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

struct Rig {
    dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        for name in ["store/clients", "store/addresses", "etc"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        Rig { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_netdump-key"));
        command.arg("--dir").arg(self.path("etc")).arg("--store").arg(self.path("store")).args(words);
        command.env_remove("SSH_USER_AUTH").env_remove("SSH_CONNECTION");
        command
    }

    fn run(&self, words: &[&str], input: &[u8]) -> Output {
        feed(self.command(words), input)
    }

    /// As sshd does it: how somebody got in is in a file.
    fn login(&self, auth: &str, from: &str, input: &[u8]) -> Output {
        let info = self.path("auth");
        std::fs::write(&info, auth).unwrap();
        let mut command = self.command(&["login"]);
        command.env("SSH_USER_AUTH", info).env("SSH_CONNECTION", format!("{from} 50000 192.0.2.1 22"));
        // What the client asked for; nobody looks at it.
        command.env("SSH_ORIGINAL_COMMAND", "register --client victim; sh");
        feed(command, input)
    }
}

fn feed(mut command: Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A program that ends before it has read all breaks the pipe.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn keygen(path: &Path) -> String {
    let status = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status().unwrap();
    assert!(status.success());
    std::fs::read_to_string(path.with_extension("pub")).unwrap()
}

fn text(output: &Output) -> (String, String, Option<i32>) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr), output.status.code())
}

#[test]
fn from_a_password_to_an_armed_module() {
    let rig = Rig::new();
    let public = keygen(&rig.path("id"));
    let (enrolled, _, status) = text(&rig.login("password\n", "192.0.2.7", public.as_bytes()));
    assert_eq!((status, &enrolled[..10]), (Some(0), "enrolled c"));
    let message = rig.run(&["registration", "--server", "crashhost"], b"").stdout;
    assert!(message.len() <= 4096);
    let auth = format!("publickey {}", public.rsplit_once(' ').unwrap().0);
    let answer = rig.login(&auth, "192.0.2.7", &message).stdout;
    let (said, error, status) = text(&rig.run(&["commit", "--server", "crashhost"], &answer));
    assert_eq!(status, Some(0), "{error}");
    assert_eq!(
        said.trim_end(),
        format!("registered with crashhost as {}", enrolled.trim_end().split(' ').next_back().unwrap())
    );
    // No device, then one.
    let device = rig.path("device");
    let arm = ["arm", "--server", "crashhost", "--device", device.to_str().unwrap()];
    let (_, error, status) = text(&rig.run(&arm, b""));
    assert_eq!(status, Some(5), "{error}");
    std::fs::write(&device, "").unwrap();
    assert_eq!(text(&rig.run(&arm, b"")).2, Some(0));
    let blob = std::fs::read(&device).unwrap();
    assert_eq!((blob.len(), &blob[..8]), (170, &b"NDARM002"[..]));
    // The server's side derives the same key.
    let reader = netdump_keys::Reader::new(&rig.path("store"));
    let (key_id, arm_id) = (netdump_keys::KeyId(blob[16..32].try_into().unwrap()), blob[32..48].try_into().unwrap());
    let found = reader.armed("192.0.2.7".parse().unwrap(), &key_id, &arm_id, b"", false).unwrap().unwrap();
    assert_eq!(*found.arm_key, blob[48..80]);
    // Neither command shows the key.
    let message = String::from_utf8(message).unwrap();
    let root = message.lines().find_map(|line| line.strip_prefix("root ")).unwrap();
    for words in [&["show"][..], &["list"], &["list", "--json"]] {
        let (shown, error, status) = text(&rig.run(words, b""));
        assert!(status == Some(0) && !shown.contains(root) && !shown.is_empty(), "{words:?}: {error}");
    }
    assert_eq!(text(&rig.run(&["wipe", "--device", device.to_str().unwrap()], b"")).2, Some(0));
}

#[test]
fn a_client_is_who_its_key_says_and_a_password_registers_nothing() {
    let rig = Rig::new();
    let (a, b) = (keygen(&rig.path("a")), keygen(&rig.path("b")));
    for (public, name) in [(&a, "a"), (&b, "victim")] {
        assert_eq!(text(&rig.run(&["enrol", "--client", name], public.as_bytes())).2, Some(0));
    }
    let message = rig.run(&["registration", "--server", "crashhost"], b"").stdout;
    let (said, ..) = text(&rig.login(&format!("publickey {a}"), "192.0.2.7", &message));
    assert!(said.starts_with("registered a "), "{said}");
    assert!(!rig.path("store/clients/victim.json").exists());
    let (said, error, status) = text(&rig.login("password\n", "192.0.2.7", &message));
    assert_eq!((said.as_str(), status), ("", Some(4)), "{error}");
    // A key that nobody enrolled, no word of sshd, a message that is cut off or too long: nothing changes.
    let before = std::fs::read(rig.path("store/clients/a.json")).unwrap();
    let c = keygen(&rig.path("c"));
    assert_eq!(text(&rig.login(&format!("publickey {c}"), "192.0.2.7", &message)).2, Some(1));
    assert_eq!(text(&rig.login("", "192.0.2.7", &message)).2, Some(1));
    assert_eq!(text(&rig.run(&["login"], &message)).2, Some(1));
    let auth = format!("publickey {a}");
    assert_eq!(text(&rig.login(&auth, "192.0.2.7", &message[..message.len() - 1])).2, Some(4));
    assert_eq!(text(&rig.login(&auth, "192.0.2.7", &[b'x'; 5000])).2, Some(4));
    assert_eq!(std::fs::read(rig.path("store/clients/a.json")).unwrap(), before);
}

/// Runs in a mount namespace with a filesystem of 64 KiB around the client's keys and the store.
const FULL_DISK: &str = r#"
set -eu
mount -t tmpfs -o size=64k tmpfs "$1"
mkdir -p "$1/store/clients" "$1/store/addresses" "$1/etc"
key() { "$2" --dir "$1/etc" --store "$1/store" "$3" --server crashhost; }
login() { SSH_USER_AUTH="$3" SSH_CONNECTION="192.0.2.7 50000 192.0.2.1 22" "$2" --store "$1/store" login; }
"$2" --store "$1/store" enrol --client web <"$4" >/dev/null
key "$1" "$2" registration | login "$1" "$2" "$3" | key "$1" "$2" commit >/dev/null
key "$1" "$2" registration >"$5"
state() { (cd "$1" && find . -type f ! -name fill ! -name lock -exec sha256sum {} + | sort); }
before=$(state "$1")
cat /dev/zero >"$1/fill" 2>/dev/null || true
if login "$1" "$2" "$3" <"$5"; then echo "registered on a full disk"; fi
if "$2" --store "$1/store" enrol <"$6"; then echo "enrolled on a full disk"; fi
if key "$1" "$2" commit <"$7"; then echo "committed on a full disk"; fi
[ "$before" = "$(state "$1")" ] || echo "something changed"
rm "$1/fill"
login "$1" "$2" "$3" <"$5" | key "$1" "$2" commit
"#;

#[test]
fn a_full_disk_leaves_what_was_there() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let rig = Rig::new();
    let (mine, other) = (keygen(&rig.path("id")), keygen(&rig.path("other")));
    std::fs::write(rig.path("auth"), format!("publickey {mine}")).unwrap();
    std::fs::write(rig.path("answer"), format!("registered web {}\n", "1".repeat(32))).unwrap();
    assert!(!other.is_empty());
    std::fs::create_dir(rig.path("small")).unwrap();
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", FULL_DISK, "sh"]).arg(rig.path("small")).arg(env!("CARGO_BIN_EXE_netdump-key"));
    command.args(["auth", "id.pub", "message", "other.pub", "answer"].map(|name| rig.path(name)));
    let (said, error, status) = text(&feed(command, b""));
    assert_eq!((said.as_str(), status), ("registered with crashhost as web\n", Some(0)), "{error}");
    assert_eq!(error.matches("No space left on device").count(), 3, "{error}");
}

#[test]
fn an_enrolment_key_enrols_and_nothing_else() {
    let rig = Rig::new();
    let private = rig.run(&["enrolment-key", "--name", "fleet", "--days", "2"], b"").stdout;
    assert!(private.starts_with(b"-----BEGIN OPENSSH PRIVATE KEY-----"));
    let line = std::fs::read_to_string(rig.path("store/authorized_keys")).unwrap();
    assert!(line.starts_with("restrict,expiry-time=\""), "{line}");
    let key: Vec<_> = line.split(' ').skip(2).take(2).collect();
    let auth = format!("publickey {}\n", key.join(" "));
    let public = keygen(&rig.path("id"));
    assert!(text(&rig.login(&auth, "192.0.2.7", public.as_bytes())).0.starts_with("enrolled c"));
    let message = rig.run(&["registration", "--server", "crashhost"], b"").stdout;
    assert_eq!(text(&rig.login(&auth, "192.0.2.7", &message)).2, Some(4));
    assert_eq!(text(&rig.run(&["revoke", "fleet"], b"")).2, Some(0));
    assert_eq!(text(&rig.login(&auth, "192.0.2.7", public.as_bytes())).2, Some(1));
}

#[test]
fn the_login_shell_is_no_shell() {
    let output = feed(
        {
            let mut command = Command::new(env!("CARGO_BIN_EXE_netdump-login"));
            command.args(["-c", "echo opened"]).env_remove("SSH_USER_AUTH");
            command
        },
        b"echo opened\n",
    );
    let (said, error, status) = text(&output);
    assert_eq!((said.as_str(), status), ("", Some(1)));
    assert!(error.contains("ExposeAuthInfo"), "{error}");
}

#[test]
fn usage_is_status_2_and_a_missing_key_3() {
    let rig = Rig::new();
    assert_eq!(text(&rig.run(&["nonsense"], b"")).2, Some(2));
    assert_eq!(text(&rig.run(&["arm", "--server", "-oProxyCommand=sh"], b"")).2, Some(2));
    assert_eq!(text(&rig.run(&["arm", "--server", "crashhost"], b"")).2, Some(3));
    assert_eq!(text(&rig.run(&["show", "--server", "crashhost"], b"")).2, Some(3));
}
