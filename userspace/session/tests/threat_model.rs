// SPDX-License-Identifier: GPL-2.0-or-later
//! docs/threat-model.md names tests: they exist.

use std::fs;
use std::path::Path;

/// All source text below a directory.
fn sources(dir: &Path, all: &mut String) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !["target", "corpus"].contains(&name.as_str()) {
            sources(&path, all);
        } else if name.ends_with(".rs") || name.starts_with("cases_") {
            all.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_test_that_is_named_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut all = String::new();
    ["userspace", "rust", "tests-qemu"].iter().for_each(|dir| sources(&root.join(dir), &mut all));
    let page = fs::read_to_string(root.join("docs/threat-model.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| claim"));
    let mut named = 0;
    for row in rows {
        let shown_by = row.trim_end_matches(" |").rsplit_once("| ").unwrap().1;
        let tests: Vec<&str> = shown_by.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "no test shows that: {row}");
        for test in tests {
            let exists = all.contains(&format!("fn {test}(")) || all.contains(&format!("add(\"{test}\""));
            assert!(exists, "there is no test {test}: {row}");
            named += 1;
        }
    }
    assert!(named > 30, "{named}");
}
