//! What strace tells of a process, as calls on a disk.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// One call that was answered without an error. Paths are relative to the place.
#[derive(Clone, Debug)]
pub enum Event {
    MakeDir(PathBuf),
    /// Creates a file if there is none; the flag empties one that is there.
    Create(PathBuf, bool),
    /// Makes the file at least so long, or (true) exactly.
    Resize(PathBuf, u64, bool),
    Write(PathBuf, u64, Vec<u8>),
    Remove(PathBuf),
    /// By the name of the call.
    Sync(PathBuf, String),
    /// What the process says of itself.
    Mark(String),
}

/// All calls that can change files, those included that the model doesn't know.
const CALLS: &str = "trace=open,openat,openat2,creat,mkdir,mkdirat,unlink,unlinkat,rmdir,rename,renameat,\
    renameat2,link,linkat,symlink,symlinkat,truncate,ftruncate,fallocate,write,writev,pwrite64,\
    pwritev,pwritev2,fsync,fdatasync,sync_file_range,syncfs,sync,msync,copy_file_range,sendfile,\
    io_uring_setup";

/// Runs this test's program as `test`, with these variables, under strace. `None` where that can't
/// be done.
pub fn record(test: &str, variables: &[(&str, &str)], place: &Path) -> Option<Vec<Event>> {
    let log = place.with_extension("strace");
    let program = std::env::current_exe().unwrap();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-xx", "-s", "16777216", "-e", CALLS, "-e", "signal=none", "-o"]);
    strace.arg(&log).arg(program).args([test, "--exact", "--nocapture", "--test-threads=1"]);
    let ended = strace.envs(variables.iter().copied()).stdin(Stdio::null()).output().ok()?;
    let said = String::from_utf8_lossy(&ended.stderr);
    if said.contains("ptrace") && !ended.status.success() {
        return None;
    }
    assert!(ended.status.success(), "{}{said}", String::from_utf8_lossy(&ended.stdout));
    let text = std::fs::read_to_string(&log).unwrap();
    Some(events(&text, place))
}

fn events(text: &str, place: &Path) -> Vec<Event> {
    let mut begun: HashMap<&str, String> = HashMap::new();
    let mut events = Vec::new();
    let mut marked = String::new();
    for line in text.lines() {
        let (process, line) = line.split_once(' ').unwrap();
        let line = line.trim_start();
        let whole = if let Some(start) = line.strip_suffix(" <unfinished ...>") {
            begun.insert(process, start.to_owned());
            continue;
        } else if let Some(rest) = line.strip_prefix("<... ") {
            let end = rest.split_once(" resumed>").unwrap().1;
            begun.remove(process).unwrap() + end
        } else {
            line.to_owned()
        };
        let Some((name, rest)) = whole.split_once('(') else { continue };
        let Some((arguments, answer)) = rest.rsplit_once(" = ") else { continue };
        if answer.starts_with(['-', '?']) {
            continue;
        }
        let arguments = split(arguments.trim_end().trim_end_matches(')'));
        let Some(event) = event(name, &arguments, answer, place) else { continue };
        match event {
            Event::Write(path, _, bytes) if path == Path::new("marks") => {
                marked += std::str::from_utf8(&bytes).unwrap();
                while let Some((line, rest)) = marked.split_once('\n') {
                    events.push(mark(line));
                    marked = rest.to_owned();
                }
            }
            Event::Create(path, _) if path == Path::new("marks") => {}
            event => events.push(event),
        }
    }
    events
}

/// A store through a map is told by the process itself.
fn mark(line: &str) -> Event {
    let words: Vec<_> = line.split(' ').collect();
    match words[..] {
        ["stores", path, offset, hex] => {
            let digits = hex.as_bytes().chunks(2);
            let bytes = digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16));
            Event::Write(
                path.into(),
                offset.parse().unwrap(),
                bytes.collect::<Result<_, _>>().unwrap(),
            )
        }
        _ => Event::Mark(line.to_owned()),
    }
}

fn event(name: &str, arguments: &[&str], answer: &str, place: &Path) -> Option<Event> {
    let inside = |path: PathBuf| Some(path.strip_prefix(place).ok()?.to_owned());
    let first = || inside(opened(arguments[0])?);
    let number = |at: usize| arguments[at].parse::<u64>().unwrap();
    // Of one that takes a directory's descriptor and a name, and of one that takes a path.
    let at = |from: usize| inside(opened(arguments[from])?.join(path(arguments[from + 1])));
    match name {
        "open" | "openat" | "openat2" | "creat" => {
            let created = inside(opened(answer)?)?;
            let flags = arguments.iter().find(|argument| argument.contains("O_"))?;
            let flags: Vec<_> = flags.split('|').collect();
            flags.contains(&"O_CREAT").then(|| Event::Create(created, flags.contains(&"O_TRUNC")))
        }
        "mkdir" => Some(Event::MakeDir(inside(path(arguments[0]))?)),
        "mkdirat" => Some(Event::MakeDir(at(0)?)),
        "unlink" => Some(Event::Remove(inside(path(arguments[0]))?)),
        "unlinkat" => Some(Event::Remove(at(0)?)),
        "ftruncate" => Some(Event::Resize(first()?, number(1), true)),
        "fallocate" => {
            let path = first()?;
            assert_eq!(arguments[1], "0", "allocated otherwise");
            Some(Event::Resize(path, number(2) + number(3), false))
        }
        "write" => {
            let path = first()?;
            assert_eq!(path, Path::new("marks"), "a write without a place");
            Some(Event::Write(path, 0, bytes(arguments[1])))
        }
        "pwrite64" => {
            let path = first()?;
            assert_eq!(bytes(arguments[1]).len() as u64, answer.parse::<u64>().unwrap());
            Some(Event::Write(path, number(3), bytes(arguments[1])))
        }
        "pwritev" => {
            let path = first()?;
            let parts = arguments[1].split("iov_base=").skip(1);
            let written: Vec<u8> = parts.flat_map(bytes).collect();
            assert_eq!(written.len() as u64, answer.parse::<u64>().unwrap());
            Some(Event::Write(path, number(3), written))
        }
        "fsync" | "fdatasync" => Some(Event::Sync(first()?, name.to_owned())),
        other => {
            let touched = arguments.iter().any(|argument| {
                opened(argument)
                    .or_else(|| argument.contains('"').then(|| path(argument)))
                    .is_some_and(|path| path.starts_with(place))
            });
            assert!(!touched, "the model does not know {other}{arguments:?}");
            None
        }
    }
}

/// The path of a descriptor, as `-y` prints it.
fn opened(argument: &str) -> Option<PathBuf> {
    let name = argument.split_once('<')?.1.split_once('>')?.0;
    Some(String::from_utf8(unescape(name)).ok()?.into())
}

fn path(argument: &str) -> PathBuf {
    String::from_utf8(bytes(argument)).unwrap().into()
}

fn bytes(argument: &str) -> Vec<u8> {
    let quoted = argument.split_once('"').unwrap().1;
    let (text, after) = quoted.split_once('"').unwrap();
    assert!(!after.starts_with("..."), "cut short");
    unescape(text)
}

fn unescape(text: &str) -> Vec<u8> {
    text.split("\\x").skip(1).map(|two| u8::from_str_radix(&two[..2], 16).unwrap()).collect()
}

/// At the commas that are outside of brackets.
fn split(arguments: &str) -> Vec<&str> {
    let (mut depth, mut from, mut found) = (0, 0, Vec::new());
    for (at, byte) in arguments.bytes().enumerate() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth -= 1,
            b',' if depth == 0 => {
                found.push(arguments[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    found.push(arguments[from..].trim());
    found
}
