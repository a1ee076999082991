// SPDX-License-Identifier: GPL-2.0-or-later
//! What can go wrong, in words that say what to do.

use std::io;
use std::path::PathBuf;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of the keys.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: {error}", path = path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file is there and is not what it should be; it was left as it is.
    #[error("{path}: {why}", path = path.display())]
    BadFile {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Text from the other side is not what it should be.
    #[error("{0}")]
    BadMessage(String),
    /// There is no key for this server.
    #[error("no key for {0}: run 'service netdump propagate'")]
    NoKey(String),
    /// The module's device is not there.
    #[error("{0}: no such device: load netdump.ko first")]
    NoDevice(PathBuf),
    /// A name has characters that it must not have.
    #[error("'{name}' {why}", name = name.escape_debug())]
    BadName {
        /// The name.
        name: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The one who logged in may not do this.
    #[error("{0}")]
    Refused(String),
    /// The kernel gives no random numbers.
    #[error("no randomness: {0}")]
    NoRandomness(getrandom::Error),
}

impl Error {
    /// The program's exit status: 3 no key, 4 a bad file or message, 5 no device, 1 all else.
    pub fn status(&self) -> u8 {
        match self {
            Error::NoKey(_) => 3,
            Error::BadFile { .. } | Error::BadMessage(_) => 4,
            Error::NoDevice(_) => 5,
            _ => 1,
        }
    }

    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |error| Error::Io { path, error }
    }
}
