//! Style is a test: layering, file and line length, where `unsafe` may be, banned words.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Modules by level. A module imports only from levels below its own; on the levels marked
/// `true` the modules of one level may know each other (the verbs share what they answer with,
/// the handles build each other).
const LEVELS: &[(&[&str], bool)] = &[
    (&["limits", "error", "sync", "copied", "crc", "broken"], true),
    (
        &[
            "key",
            "token",
            "fingerprint",
            "outcome",
            "position",
            "clock",
            "poison",
            "stats",
            "observe",
            "text",
        ],
        true,
    ),
    (&["backend", "names", "storage", "wait", "claim", "wheel", "tokens"], false),
    (&["lane", "superblock"], false),
    (&["log", "cells"], false),
    (&["index", "options"], false),
    (&["engine"], false),
    (
        &[
            "adopt", "backup", "begin", "complete", "drive", "entries", "expire", "inspect",
            "keep", "lease", "measure", "recover", "replay", "resolve", "threads", "pending",
        ],
        true,
    ),
    (&["sharded"], false),
    (&["any_store", "async_store", "blocking", "guard", "once", "slots", "store"], true),
    (&["conformance", "metrics", "postgres"], false),
    (&["http"], false),
    (&["admin", "testing"], false),
    (&["fuzzing", "parts"], false),
    (&["bin"], false),
];

const FILE_LINES_MAX: usize = 600;
const LINE_BYTES_MAX: usize = 110;

fn sources(under: &str) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(under)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                files.push((path, text));
            }
        }
    }
    assert!(!files.is_empty());
    files
}

/// The top module that a file of `src` belongs to.
fn module(path: &Path) -> String {
    let inside = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

fn level(module: &str) -> Option<(usize, bool)> {
    let at = LEVELS.iter().position(|(modules, _)| modules.contains(&module))?;
    Some((at, LEVELS[at].1))
}

/// Modules named after `crate::` in a text, in `use` trees and in paths.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        if !rest.starts_with('{') {
            found.push(word(rest));
            continue;
        }
        let mut depth = 0;
        let mut start = true;
        for (i, c) in rest.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => start = true,
                c if depth == 1 && start && c.is_alphabetic() => {
                    found.push(word(&rest[i..]));
                    start = false;
                }
                _ => {}
            }
            start |= c == '{' && depth == 1;
            if depth == 0 {
                break;
            }
        }
    }
    found
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Without tests, which may know everything.
fn product(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap()
}

#[test]
fn imports_point_down() {
    for (path, text) in sources("src") {
        let own = module(&path);
        if own == "lib" || path.ends_with("tests.rs") || path.ends_with("loom_tests.rs") {
            continue;
        }
        let (own_level, _) = level(&own).unwrap_or_else(|| panic!("{own} has no level"));
        for import in imports(product(&text)) {
            // Types that `lib.rs` exports are named by their module elsewhere.
            let Some((import_level, peers)) = level(&import) else {
                let is_type = import.starts_with(char::is_uppercase);
                assert!(is_type, "{}: unknown module {import}", path.display());
                continue;
            };
            let allowed =
                import_level < own_level || import == own || (import_level == own_level && peers);
            assert!(allowed, "{} must not import {import}", path.display());
        }
    }
}

#[test]
fn files_can_be_held_in_the_head() {
    for (path, text) in sources("src") {
        let lines = text.lines().count();
        assert!(lines <= FILE_LINES_MAX, "{} has {lines} lines", path.display());
        for (n, line) in text.lines().enumerate() {
            assert!(line.len() <= LINE_BYTES_MAX, "{}:{} is long", path.display(), n + 1);
        }
    }
}

#[test]
fn unsafe_is_in_one_place() {
    for (path, text) in sources("src") {
        let allowed = path.ends_with("storage/map.rs") || path.ends_with("storage/map/tests.rs");
        let used = text.lines().any(|line| {
            let code = line.trim_start();
            !code.starts_with("//") && !code.contains("unsafe_code") && word_in(code, "unsafe")
        });
        assert!(!used || allowed, "{} has unsafe code", path.display());
    }
}

fn word_in(line: &str, wanted: &str) -> bool {
    line.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == wanted)
}

#[test]
fn nothing_is_left_unfinished() {
    let banned = ["todo!", "unimplemented!", "dbg!", "FIXME", "XXX"];
    for (path, text) in sources("src").into_iter().chain(sources("examples")) {
        for word in banned {
            assert!(!text.contains(word), "{} contains {word}", path.display());
        }
    }
}

/// The checks above can fail.
#[test]
fn imports_are_found() {
    let text = "use crate::{\n    a::{b, c},\n    d::E,\n};\nuse crate::f::G; crate::h::i();";
    assert_eq!(imports(text), ["a", "d", "f", "h"]);
    assert!(word_in("unsafe { x }", "unsafe") && !word_in("unsafely", "unsafe"));
}
