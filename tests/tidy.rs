//! Style is a test: layering, file and line length, where `unsafe` may be, banned words.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// A row of the table of modules.
struct Level {
    modules: Vec<String>,
    /// The modules of this level may know each other (the verbs share what they answer with, the
    /// handles build each other).
    peers: bool,
}

/// The table of modules in `docs/design.md`, lowest level first: the one place that says what may
/// know what. A module imports only from levels below its own.
fn levels() -> Vec<Level> {
    let design = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/design.md");
    let design = fs::read_to_string(design).unwrap();
    let mut levels = Vec::new();
    for row in design.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, level, modules, peers, _] = cells[..] else { continue };
        let Ok(level) = level.parse::<usize>() else { continue };
        let modules = modules.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        levels.push((level, Level { modules, peers: peers == "yes" }));
    }
    levels.sort_by_key(|(level, _)| *level);
    assert!(levels.iter().enumerate().all(|(at, (level, _))| at == *level), "each level once");
    levels.into_iter().map(|(_, level)| level).collect()
}

const FILE_LINES_MAX: usize = 600;
const LINE_BYTES_MAX: usize = 110;

fn sources(under: &str) -> Vec<(PathBuf, String)> {
    files(under, &["rs"])
}

fn files(under: &str, extensions: &[&str]) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(under)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| extensions.iter().any(|wanted| e == *wanted))
            {
                let text = fs::read_to_string(&path).unwrap();
                files.push((path, text));
            }
        }
    }
    assert!(!files.is_empty());
    files
}

/// The module of the table that a path below `src` belongs to: the longest that is named there.
fn module(levels: &[Level], path: &[String]) -> Option<(usize, String)> {
    let named = |name: &String| levels.iter().position(|level| level.modules.contains(name));
    let two = path.get(..2).map(|two| two.join("/"));
    let one = path.first().cloned();
    two.into_iter().chain(one).find_map(|name| Some((named(&name)?, name)))
}

/// Where in the tree a file of `src` stands.
fn place(path: &Path) -> Vec<String> {
    let inside = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let parts = inside.components().map(|part| part.as_os_str().to_str().unwrap());
    let parts = parts.map(|part| part.trim_end_matches(".rs").to_owned());
    parts.filter(|part| part != "mod").collect()
}

/// The paths after `crate::` in a text, in `use` trees and elsewhere, word by word.
fn imports(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        if !text[..at].ends_with('$') {
            tree(&text[at + "crate::".len()..], &mut Vec::new(), &mut found);
        }
    }
    found
}

/// Follows one branch of a `use` tree; returns how much of the text it took.
fn tree(text: &str, path: &mut Vec<String>, found: &mut Vec<Vec<String>>) -> usize {
    let depth = path.len();
    let mut at = 0;
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        if text[at..].starts_with('{') {
            at += 1;
            while !text[at..].trim_start().starts_with('}') {
                at += tree(&text[at..], path, found);
                at += text[at..].find([',', '}']).expect("a tree is closed");
                at += usize::from(text[at..].starts_with(','));
            }
            at += text[at..].find('}').unwrap() + 1;
            break;
        }
        let word = word(&text[at..]);
        at += word.len();
        path.push(word);
        if !text[at..].starts_with("::") {
            found.push(path.clone());
            break;
        }
        at += 2;
    }
    path.truncate(depth);
    at
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
    let levels = levels();
    for (path, text) in sources("src") {
        let own = place(&path);
        if own == ["lib"] || path.ends_with("tests.rs") || path.ends_with("loom_tests.rs") {
            continue;
        }
        let (own_level, own) =
            module(&levels, &own).unwrap_or_else(|| panic!("{own:?} has no level"));
        for import in imports(product(&text)) {
            // Types that `lib.rs` exports are named by their module elsewhere.
            let Some((import_level, import)) = module(&levels, &import) else {
                let is_type = import[0].starts_with(char::is_uppercase);
                assert!(is_type, "{}: unknown module {import:?}", path.display());
                continue;
            };
            let peers = import_level == own_level && levels[own_level].peers;
            let allowed = import_level < own_level || import == own || peers;
            assert!(allowed, "{} must not import {import}", path.display());
        }
    }
}

/// Modules of one level may know each other, but not in a circle; only handles build each other.
#[test]
fn no_module_knows_itself_through_others() {
    let levels = levels();
    let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, text) in sources("src") {
        if path.ends_with("lib.rs") || path.ends_with("tests.rs") || path.ends_with("loom_tests.rs")
        {
            continue;
        }
        let (_, own) = module(&levels, &place(&path)).unwrap();
        let imports = imports(product(&text)).into_iter();
        let others = imports.filter_map(|import| Some(module(&levels, &import)?.1));
        known.entry(own.clone()).or_default().extend(others.filter(|other| *other != own));
    }
    known.retain(|own, _| own != "store" && !own.starts_with("store/"));
    // A module that knows none of those that are left is in no circle of theirs.
    loop {
        let before = known.len();
        let left: BTreeSet<String> = known.keys().cloned().collect();
        known.retain(|_, others| !others.is_disjoint(&left));
        if known.len() == before {
            break;
        }
    }
    assert!(known.is_empty(), "a circle among {:?}", known.keys());
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

/// Words and phrases of which CONTRIBUTING.md ("Style, by example") has better ones.
const REFUSED: [&str; 9] = [
    "whoever",
    "nobody",
    "somebody",
    "anew",
    "dear",
    "at the most",
    "belongs into",
    "goes on",
    "who waits",
];

/// The words of a text in lower case, with one space around each: comments and documents break a
/// phrase anywhere. Examples of how not to write ("- no:") are left out.
fn prose(text: &str) -> String {
    let mut words = String::from(" ");
    for line in text.lines().filter(|line| !line.starts_with("- no:")) {
        let line = line.trim_start().trim_start_matches(['/', '!', '>']);
        for word in line.split(|c: char| !(c.is_alphanumeric() || c == '_')) {
            if !word.is_empty() {
                words += &word.to_lowercase();
                words.push(' ');
            }
        }
    }
    words
}

fn refused(text: &str) -> Vec<&'static str> {
    let words = prose(text);
    REFUSED.into_iter().filter(|phrase| words.contains(&format!(" {phrase} "))).collect()
}

#[test]
fn prose_is_plain() {
    let mut texts = files("src", &["rs", "html", "sql"]);
    texts.extend(files("docs", &["md", "yml"]));
    for name in ["README.md", "CONTRIBUTING.md"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        let text = fs::read_to_string(&path).unwrap();
        texts.push((path, text));
    }
    let found: Vec<_> = texts
        .iter()
        .map(|(path, text)| (path.display(), refused(text)))
        .filter(|(_, words)| !words.is_empty())
        .collect();
    assert!(found.is_empty(), "CONTRIBUTING.md has better words: {found:?}");
}

/// The checks above can fail.
#[test]
fn imports_are_found() {
    let text =
        "use crate::{\n    a::{b, c::{D, e::F}},\n    d::E,\n};\nuse crate::f::G; crate::h::i();";
    let found: Vec<String> = imports(text).iter().map(|path| path.join(" ")).collect();
    assert_eq!(found, ["a b", "a c D", "a c e F", "d E", "f G", "h i"]);
    assert!(word_in("unsafe { x }", "unsafe") && !word_in("unsafely", "unsafe"));
    let (level, own) = module(
        &levels(),
        &place(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine/begin.rs")),
    )
    .unwrap();
    assert_eq!(own, "engine/begin");
    assert!(levels()[level].peers);
    assert!(module(&levels(), &["nowhere".to_owned()]).is_none());
    assert_eq!(refused("/// It goes\n/// on for Somebody.\n- no: anew"), ["somebody", "goes on"]);
    assert!(refused("nobody_else, endears").is_empty());
}
