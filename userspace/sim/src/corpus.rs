// SPDX-License-Identifier: GPL-2.0-or-later
//! Memory from a file, for measurements: it costs no computing while it is sent, and its hash says that it is the same
//! each time.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use netdump_core::wire::v6::secure::Crypto;
use netdump_session::Ring;

/// Bytes of a file, whole.
#[derive(Clone)]
pub struct Corpus(Arc<Vec<u8>>);

impl fmt::Debug for Corpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Corpus({} bytes)", self.0.len())
    }
}

impl Corpus {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// What the file says; `InvalidData` if it has not the SHA-256 that it is to have, in hexadecimal digits.
    pub fn load(file: &Path, sha256: Option<&str>) -> io::Result<Self> {
        let bytes = std::fs::read(file)?;
        if let Some(wanted) = sha256 {
            let found = hex(&Ring.sha256(&[&bytes]));
            if !found.eq_ignore_ascii_case(wanted) {
                let text = format!("{}: SHA-256 is {found}, not {wanted}", file.display());
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
        Ok(Corpus::new(bytes))
    }

    /// The corpus of these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Corpus(Arc::new(bytes))
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Writes a file of noise that is the same each time, without a word of zeroes in it; its SHA-256 in hexadecimal digits.
///
/// # Errors
///
/// What the file says.
pub fn write(file: &Path, len: u64) -> io::Result<String> {
    let mut out = BufWriter::new(File::create(file)?);
    // xorshift64*: never 0.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut page = [0; 4096];
    let mut left = len;
    while left > 0 {
        for word in page.chunks_exact_mut(8) {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            word.copy_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
        }
        let part = left.min(page.len() as u64) as usize;
        out.write_all(&page[..part])?;
        left -= part as u64;
    }
    out.into_inner()?.sync_data()?;
    Ok(hex(&Ring.sha256(&[&std::fs::read(file)?])))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_corpus_is_what_its_hash_says() {
        let file = std::env::temp_dir().join(format!("netdump-corpus-{}", std::process::id()));
        let hash = write(&file, 10_000).unwrap();
        assert_eq!(write(&file, 10_000).unwrap(), hash);
        let corpus = Corpus::load(&file, Some(&hash.to_uppercase())).unwrap();
        assert_eq!(corpus.bytes().len(), 10_000);
        assert!(corpus.bytes().chunks_exact(8).all(|word| word != [0; 8]));
        let error = Corpus::load(&file, Some(&"0".repeat(64))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        std::fs::remove_file(file).unwrap();
    }
}
