// SPDX-License-Identifier: GPL-2.0-or-later
//! VMCOREINFO: what the kernel writes down about itself for whoever reads its memory.
//!
//! Lines of `key=value`. The keys `SYMBOL(name)`, `SIZE(type)`, `OFFSET(type.member)`, `LENGTH(array)` and
//! `NUMBER(name)` carry numbers (addresses in hexadecimal without prefix, the others in decimal, a
//! `NUMBER` on some machines in hexadecimal with `0x`); all others are text.

use std::collections::BTreeMap;

/// The text with its numbers understood.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Vmcoreinfo<'a> {
    texts: BTreeMap<&'a str, &'a str>,
    symbols: BTreeMap<&'a str, u64>,
    sizes: BTreeMap<&'a str, u64>,
    offsets: BTreeMap<&'a str, u64>,
    lengths: BTreeMap<&'a str, u64>,
    numbers: BTreeMap<&'a str, i64>,
}

/// Why a text is no VMCOREINFO. Lines count from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VmcoreinfoError {
    /// Not UTF-8 (it is ASCII).
    #[error("not text")]
    NotText,
    /// A line without `=`.
    #[error("line {0}: no '='")]
    NoValue(usize),
    /// A value that is not the number that its key promises.
    #[error("line {0}: not a number")]
    NotANumber(usize),
}

impl<'a> Vmcoreinfo<'a> {
    /// Reads the text. NULs at its end and empty lines are passed over; of two equal keys the last counts.
    pub fn parse(text: &'a [u8]) -> Result<Self, VmcoreinfoError> {
        let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
        let text = text.get(..end).unwrap_or_default();
        let text = std::str::from_utf8(text).map_err(|_| VmcoreinfoError::NotText)?;
        let mut info = Vmcoreinfo::default();
        for (n, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
            let (key, value) = line.split_once('=').ok_or(VmcoreinfoError::NoValue(n + 1))?;
            let bad = VmcoreinfoError::NotANumber(n + 1);
            match key.strip_suffix(')').and_then(|key| key.split_once('(')) {
                Some(("SYMBOL", name)) => {
                    info.symbols.insert(name, u64::from_str_radix(value, 16).map_err(|_| bad)?);
                }
                Some(("SIZE", name)) => {
                    info.sizes.insert(name, value.parse().map_err(|_| bad)?);
                }
                Some(("OFFSET", name)) => {
                    info.offsets.insert(name, value.parse().map_err(|_| bad)?);
                }
                Some(("LENGTH", name)) => {
                    info.lengths.insert(name, value.parse().map_err(|_| bad)?);
                }
                Some(("NUMBER", name)) => {
                    info.numbers.insert(name, number(value).ok_or(bad)?);
                }
                _ => {
                    info.texts.insert(key, value);
                }
            }
        }
        Ok(info)
    }

    /// The kernel release, as `uname -r` says it.
    pub fn os_release(&self) -> Option<&'a str> {
        self.text("OSRELEASE")
    }

    /// Bytes in a page.
    pub fn page_size(&self) -> Option<u64> {
        self.text("PAGESIZE")?.parse().ok()
    }

    /// How far KASLR moved the kernel image.
    pub fn kernel_offset(&self) -> Option<u64> {
        u64::from_str_radix(self.text("KERNELOFFSET")?, 16).ok()
    }

    /// Options that crash needs to open a dump in the layout of 2005, in which it does not look for VMCOREINFO:
    /// where KASLR put the kernel. `None` if that is not said, or on machines where crash has no such option.
    pub fn crash_options(&self) -> Option<String> {
        let (kaslr, phys_base) = (self.kernel_offset()?, self.number("phys_base")?);
        Some(format!("--kaslr={kaslr:#x} -m phys_base={phys_base:#x}"))
    }

    /// Value of a key that is no number.
    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.texts.get(key).copied()
    }

    /// Address of a symbol.
    pub fn symbol(&self, name: &str) -> Option<u64> {
        self.symbols.get(name).copied()
    }

    /// Size of a type, bytes.
    pub fn size(&self, name: &str) -> Option<u64> {
        self.sizes.get(name).copied()
    }

    /// Offset of a member (`type.member`), bytes.
    pub fn offset(&self, name: &str) -> Option<u64> {
        self.offsets.get(name).copied()
    }

    /// Number of elements of an array.
    pub fn length(&self, name: &str) -> Option<u64> {
        self.lengths.get(name).copied()
    }

    /// Value of a constant or variable.
    pub fn number(&self, name: &str) -> Option<i64> {
        self.numbers.get(name).copied()
    }
}

/// The kernel prints a `NUMBER` as signed long; masks come out as hexadecimal or as huge unsigned numbers.
fn number(value: &str) -> Option<i64> {
    if let Some(digits) = value.strip_prefix("0x") {
        return u64::from_str_radix(digits, 16).ok().map(|n| n as i64);
    }
    value.parse().ok().or_else(|| value.parse::<u64>().ok().map(|n| n as i64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_piece_of_a_real_one() {
        let text = b"OSRELEASE=7.3.4+deb13-cloud-amd64\nBUILD-ID=0a1b\nPAGESIZE=4096\n\
            SYMBOL(init_uts_ns)=ffffffffa6c0d7e0\nOFFSET(uts_namespace.name)=0\nSIZE(page)=64\n\
            LENGTH(zone.free_area)=11\nNUMBER(phys_base)=-1048576\nNUMBER(sme_mask)=0\n\
            NUMBER(VA_BITS)=0x30\nKERNELOFFSET=24e00000\nCONFIG_DEBUG=y\n\0\0";
        let info = Vmcoreinfo::parse(text).unwrap();
        assert_eq!(info.os_release(), Some("7.3.4+deb13-cloud-amd64"));
        assert_eq!(info.page_size(), Some(4096));
        assert_eq!(info.symbol("init_uts_ns"), Some(0xffff_ffff_a6c0_d7e0));
        assert_eq!(info.offset("uts_namespace.name"), Some(0));
        assert_eq!(info.size("page"), Some(64));
        assert_eq!(info.length("zone.free_area"), Some(11));
        assert_eq!(info.number("phys_base"), Some(-1_048_576));
        assert_eq!(info.number("VA_BITS"), Some(48));
        assert_eq!(info.kernel_offset(), Some(0x24e0_0000));
        // Tried with crash 9.0.2, which wants phys_base as an unsigned number.
        assert_eq!(info.crash_options().unwrap(), "--kaslr=0x24e00000 -m phys_base=0xfffffffffff00000");
        assert_eq!(info.text("BUILD-ID"), Some("0a1b"));
        assert_eq!(info.symbol("nothing"), None);
    }

    #[test]
    fn what_is_wrong_has_its_line() {
        assert_eq!(Vmcoreinfo::parse(b"A=1\n\nB\n"), Err(VmcoreinfoError::NoValue(3)));
        assert_eq!(Vmcoreinfo::parse(b"A=1\nSIZE(page)=x\n"), Err(VmcoreinfoError::NotANumber(2)));
        assert_eq!(Vmcoreinfo::parse(b"SYMBOL(a)=0xff\n"), Err(VmcoreinfoError::NotANumber(1)));
        assert_eq!(Vmcoreinfo::parse(b"A=\xff\n"), Err(VmcoreinfoError::NotText));
    }

    proptest! {
        #[test]
        fn any_bytes_are_harmless(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Vmcoreinfo::parse(&text);
        }

        #[test]
        fn what_is_written_comes_back(
            symbols in proptest::collection::btree_map("[a-z_]{1,8}", any::<u64>(), 0..8),
            offsets in proptest::collection::btree_map("[a-z]{1,4}\\.[a-z]{1,4}", any::<u64>(), 0..8),
            numbers in proptest::collection::btree_map("[A-Z_]{1,8}", any::<i64>(), 0..8),
            texts in proptest::collection::btree_map("[A-Z]{1,8}", "[ -~]{0,12}", 0..8),
        ) {
            let mut text = String::new();
            for (name, value) in &symbols {
                text += &format!("SYMBOL({name})={value:x}\n");
            }
            for (name, value) in &offsets {
                text += &format!("OFFSET({name})={value}\n");
            }
            for (name, value) in &numbers {
                text += &format!("NUMBER({name})={value}\n");
            }
            for (name, value) in &texts {
                text += &format!("{name}={value}\n");
            }
            let info = Vmcoreinfo::parse(text.as_bytes()).unwrap();
            for (name, value) in &symbols {
                prop_assert_eq!(info.symbol(name), Some(*value));
            }
            for (name, value) in &offsets {
                prop_assert_eq!(info.offset(name), Some(*value));
            }
            for (name, value) in &numbers {
                prop_assert_eq!(info.number(name), Some(*value));
            }
            for (name, value) in &texts {
                prop_assert_eq!(info.text(name), Some(value.as_str()));
            }
        }
    }
}
