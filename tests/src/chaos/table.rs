//! `tests/FAULTS.md` names a test beside each fault of the reference; here they are looked for.

use std::path::Path;

use crate::assets::root;

fn sources(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_fault_is_in_the_table_and_every_test_it_names_is_there() {
    let mut text = String::new();
    for folder in ["signer/src", "client-lib", "tests/it", "tests/src"] {
        sources(&root().join(folder), &mut text);
    }
    let table = std::fs::read_to_string(root().join("tests/FAULTS.md")).unwrap();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| F")).collect();
    assert_eq!(rows.len(), 52);
    for (number, row) in (1..).zip(rows) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, _fault, shown] = cells.as_slice() else { panic!("{row}") };
        assert_eq!(*name, format!("F{number}"));
        let words: Vec<&str> = shown.split('`').skip(1).step_by(2).collect();
        for word in words.iter().filter(|word| !word.contains(['.', '/'])) {
            let is_there = match word.strip_prefix("Fault::") {
                Some(fault) => text.contains(&format!("Self::{fault},\n")),
                None => text.contains(&format!("fn {word}(")),
            };
            assert!(is_there, "F{number}: there is no {word}");
        }
        assert!(!words.is_empty() || shown.starts_with("not here: "), "F{number} names no test and no reason");
    }
}
