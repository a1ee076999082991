// SPDX-License-Identifier: GPL-2.0-or-later
//! The command line of `netdump-key`, and `netdump-login`.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, Context};
use clap::{Parser, Subcommand};
use jiff::{Timestamp, ToSpan};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use zeroize::Zeroizing;

use crate::authorized::PublicKey;
use crate::client::{wipe, ClientKeys};
use crate::login::{self, Role, MAX_AUTH_INFO};
use crate::message::{Answer, Registration, MAX_MESSAGE};
use crate::store::{Store, PLACE};
use crate::{files, ClientId, Error, ServerName};

/// Keys of netdump, on the client (registration, commit, show, arm, wipe) and on the server (the others).
#[derive(Debug, Parser)]
#[command(name = "netdump-key", version)]
struct Arguments {
    /// Where the client's keys are
    #[arg(long, global = true, default_value = "/etc/netdump", value_name = "DIR")]
    dir: PathBuf,
    /// Where the server's store is
    #[arg(long, global = true, default_value = PLACE, value_name = "DIR")]
    store: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Client: print the message that registers a new key, for ssh's standard input
    Registration {
        /// The server as NETDUMPADDR names it
        #[arg(long)]
        server: ServerName,
    },
    /// Client: read the server's answer; the new key is the key from now on
    Commit {
        /// The server as NETDUMPADDR names it
        #[arg(long)]
        server: ServerName,
    },
    /// Client: give the module what is derived from the key
    Arm {
        /// The server as NETDUMPADDR names it
        #[arg(long)]
        server: ServerName,
        /// The module's device
        #[arg(long, default_value = "/dev/netdump")]
        device: PathBuf,
    },
    /// Client: make the module forget its key
    Wipe {
        /// The module's device
        #[arg(long, default_value = "/dev/netdump")]
        device: PathBuf,
    },
    /// Client: say which keys there are (never the keys)
    Show {
        /// Only that server's
        #[arg(long)]
        server: Option<ServerName>,
    },
    /// Server: what sshd starts for user netdump
    Login,
    /// Server: make a client's public key (a .pub file on standard input) known
    Enrol {
        /// Name for the client; otherwise it follows from the key
        #[arg(long)]
        client: Option<ClientId>,
    },
    /// Server: who is enrolled
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Server: trust the keys of a client no longer than until it registers the next one
    Rotate {
        /// The client
        id: ClientId,
    },
    /// Server: forget a client or an enrolment key
    Revoke {
        /// Its name
        id: ClientId,
    },
    /// Server: make a key with which machines enrol themselves, and print it (/etc/netdump/enrolment_key there)
    EnrolmentKey {
        /// Its name
        #[arg(long)]
        name: ClientId,
        /// Days until it expires
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(i64).range(1..=3650))]
        days: i64,
    },
}

/// `netdump-key`.
pub fn netdump_key() -> ExitCode {
    // A file that is made on the way is nobody else's business until its mode is set.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o027));
    let arguments = Arguments::parse();
    report("netdump-key", run(&arguments))
}

/// `netdump-login`, the login shell of user netdump: whatever it is asked for, it is `netdump-key login`.
pub fn netdump_login() -> ExitCode {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o027));
    report("netdump", login(Path::new(PLACE)))
}

fn report(program: &str, result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    // One line, and no escape sequences of whatever the other side sent.
    eprintln!("{program}: {}", format!("{error:#}").chars().filter(|c| !c.is_control()).collect::<String>());
    ExitCode::from(error.downcast_ref::<Error>().map_or(1, Error::status))
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let keys = |server: &ServerName| ClientKeys::new(&arguments.dir, server.clone());
    let now = Timestamp::now().round(jiff::Unit::Second)?;
    match &arguments.what {
        What::Registration { server } => {
            let host = nix::unistd::gethostname()?.to_string_lossy().into_owned();
            print(keys(server).registration(&host, now)?.emit().as_bytes())
        }
        What::Commit { server } => {
            let id = keys(server).commit(&standard_input(None)?, now)?;
            println!("registered with {server} as {id}");
            Ok(())
        }
        What::Arm { server, device } => {
            let key = keys(server).arm(device)?;
            println!("armed with key {} for {server}", key.key_id);
            Ok(())
        }
        What::Wipe { device } => Ok(wipe(device)?),
        What::Show { server } => show(arguments, server.as_ref()),
        What::Login => login(&arguments.store),
        What::Enrol { client } => {
            let key = read_public_key(&standard_input(None)?)?;
            print(Answer::Enrolled(Store::open(&arguments.store)?.enrol(&key, client.clone())?).emit().as_bytes())
        }
        What::List { json } => list(&Store::open(&arguments.store)?, *json),
        What::Rotate { id } => Ok(Store::open(&arguments.store)?.rotate(id)?),
        What::Revoke { id } => Ok(Store::open(&arguments.store)?.revoke(id)?),
        What::EnrolmentKey { name, days } => {
            enrolment_key(&Store::open(&arguments.store)?, name, now + (24 * days).hours())
        }
    }
}

fn show(arguments: &Arguments, server: Option<&ServerName>) -> anyhow::Result<()> {
    let servers = match server {
        Some(server) => vec![server.clone()],
        None => ClientKeys::servers(&arguments.dir)?,
    };
    for server in servers {
        let keys = ClientKeys::new(&arguments.dir, server.clone());
        let key = match keys.key() {
            // One that was never answered, among others, is no error.
            Err(Error::NoKey(_)) if keys.pending() => {
                println!("server {server} key none registration pending");
                continue;
            }
            other => other?,
        };
        let id = key.server_id.map_or("unknown".into(), |id| id.to_string());
        let pending = if keys.pending() { " registration pending" } else { "" };
        println!("server {server} key {} since {} server_id {id}{pending}", key.key_id, key.since);
    }
    Ok(())
}

fn list(store: &Store, json: bool) -> anyhow::Result<()> {
    let entries = store.list()?;
    if json {
        let mut text = serde_json::to_vec_pretty(&entries)?;
        text.push(b'\n');
        return print(&text);
    }
    for entry in entries {
        let or = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        let label = if entry.label.is_empty() { "-" } else { &entry.label };
        let times = match entry.until {
            Some(until) => format!("until {until}"),
            None => or(entry.since.map(|since| since.to_string())),
        };
        let rotate = if entry.rotate { " must rotate" } else { "" };
        let address = or(entry.address.map(|address| address.to_string()));
        let key = or(entry.key_id.map(|id| id.to_string()));
        println!("{:<24} {:<13} {label:<24} {address:<24} {key} {times}{rotate}", entry.id.as_str(), entry.kind);
    }
    Ok(())
}

/// For whoever sshd let in as user netdump.
fn login(place: &Path) -> anyhow::Result<()> {
    let said = std::env::var_os("SSH_USER_AUTH").ok_or_else(|| {
        anyhow!("only for sshd with 'ExposeAuthInfo yes' for user netdump (/etc/ssh/sshd_config.d/netdump.conf)")
    })?;
    let info =
        files::read(Path::new(&said), MAX_AUTH_INFO)?.context("sshd's file on how you logged in is not there")?;
    let method = login::parse_auth_info(&info)?;
    let store = Store::open(place)?;
    let now = || Timestamp::now().round(jiff::Unit::Second);
    let answer = match store.role(&method, now()?)? {
        Role::Enrol => {
            let key = read_public_key(&standard_input(Some(PATIENCE))?)?;
            Answer::Enrolled(store.enrol_as(&method, &key, now()?)?)
        }
        Role::Register(_) => {
            let address = login::peer(&std::env::var("SSH_CONNECTION").unwrap_or_default())?;
            let registration = Registration::parse(&standard_input(Some(PATIENCE))?)?;
            let (id, server) = store.register_as(&method, registration, address, now()?)?;
            Answer::Registered(id, server)
        }
    };
    print(answer.emit().as_bytes())
}

/// A key pair of ssh-keygen's, in a directory that goes with it.
fn enrolment_key(store: &Store, name: &ClientId, until: Timestamp) -> anyhow::Result<()> {
    let home = nix::unistd::mkdtemp(&std::env::temp_dir().join("netdump-key-XXXXXX"))?;
    let made = ssh_keygen(&home.join("key"), name);
    let removed = std::fs::remove_dir_all(&home);
    let (private, public) = made?;
    removed.with_context(|| format!("{}: remove it, there is a private key in it", home.display()))?;
    store.add_enrolment_key(&read_public_key(&public)?, name.clone(), until)?;
    print(&private)
}

type Bytes = Zeroizing<Vec<u8>>;

/// The private and the public key, as files.
fn ssh_keygen(path: &Path, name: &ClientId) -> anyhow::Result<(Bytes, Bytes)> {
    let comment = format!("netdump-enrolment-{name}");
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-C", &comment, "-f"]).arg(path);
    let status = command.status().context("ssh-keygen (package openssh-client) does not run")?;
    if !status.success() {
        bail!("ssh-keygen: {status}");
    }
    let read = |path: &Path| files::read(path, MAX_MESSAGE as u64)?.context("ssh-keygen made no key");
    Ok((read(path)?, read(&path.with_extension("pub"))?))
}

fn read_public_key(text: &[u8]) -> Result<PublicKey, Error> {
    let text = std::str::from_utf8(text).map_err(|_| Error::BadMessage("no public key: not text".into()))?;
    PublicKey::parse_line(text).map(|(key, _)| key)
}

/// How long whoever logged in may take to send his message: sshd keeps a connection for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// Standard input, as long as a message may be, to its end; `limit`: if that comes in time.
fn standard_input(limit: Option<Duration>) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    // Not through the buffer of `stdin()`, which would keep what is secret.
    read_message(std::io::stdin().as_fd().try_clone_to_owned()?.into(), limit).context("standard input")
}

fn read_message(mut input: std::fs::File, limit: Option<Duration>) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let deadline = limit.map(|limit| Instant::now() + limit);
    // One piece of memory from the beginning: growing would leave copies behind.
    let mut bytes = Zeroizing::new(vec![0; MAX_MESSAGE + 1]);
    let mut len = 0;
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.map_or(Ok(PollTimeout::NONE), PollTimeout::try_from)?;
        match poll(&mut [PollFd::new(input.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => bail!("its end did not come within {} s", limit.unwrap_or_default().as_secs()),
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        }
        match input.read(&mut bytes[len..])? {
            0 => break,
            read => len += read,
        }
        if len > MAX_MESSAGE {
            return Err(Error::BadMessage(format!("longer than {MAX_MESSAGE} bytes")).into());
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// Writes without the buffer of `print!`, which would keep what is secret.
fn print(bytes: &[u8]) -> anyhow::Result<()> {
    nix::unistd::dup(std::io::stdout())
        .map(std::fs::File::from)
        .map_err(std::io::Error::from)
        .and_then(|mut out| out.write_all(bytes))
        .context("standard output")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe() -> (std::fs::File, std::fs::File) {
        let (read, write) = nix::unistd::pipe().unwrap();
        (read.into(), write.into())
    }

    #[test]
    fn a_message_is_read_to_its_end_or_given_up() {
        let limit = Some(Duration::from_millis(10));
        let (read, mut write) = pipe();
        write.write_all(b"half a message").unwrap();
        let error = read_message(read.try_clone().unwrap(), limit).unwrap_err();
        assert!(error.to_string().contains("did not come"), "{error}");
        write.write_all(b"one and its end").unwrap();
        drop(write);
        assert_eq!(&read_message(read, limit).unwrap()[..], b"one and its end");
    }

    #[test]
    fn a_message_without_end_is_refused_at_its_limit() {
        let (read, mut write) = pipe();
        write.write_all(&[b'x'; MAX_MESSAGE + 1]).unwrap();
        let error = read_message(read, None).unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(Error::BadMessage(_))), "{error}");
    }
}
