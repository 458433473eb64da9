//! R1: a process with several threads is killed by SIGKILL at random moments, again and again,
//! over one real directory; an oracle outside knows what it had acknowledged. Nothing
//! acknowledged is lost, changed, or granted again.
//!
//! The child is this binary, started anew with `ONLYONCE_TEST_KILLED` set. Each of its threads
//! has keys of its own and writes a line to a file before each call and after it (in one write
//! call, so the line survives the kill as what the store wrote does). The next child reads all
//! lines, opens what the last one left, compares, says `S`, and goes on. `KILLS=<n>` kills more
//! often.

mod reference;

use onlyonce::{
    Begin, BeginError, Durability, Entry, Fingerprint, KeyRef, Options, Scope, State, Store,
};
use reference::{Rng, response};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Barrier},
    time::{Duration, Instant},
};

const CHILD: &str = "ONLYONCE_TEST_KILLED";
const THREADS: usize = 3;
/// Keys that a thread begins in one life.
const KEYS_A_LIFE: usize = 150;

/// What is known of a key from the lines.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Is {
    Absent,
    /// Claimed under this token, at this attempt.
    Held(u64, u32),
    /// Completed with response number so and so, under this token.
    Done(u64, usize),
}

/// What was about to happen.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Next {
    Nothing,
    Begin,
    TakeOver,
    Complete(usize),
    Release,
    Checkpoint,
    Renew,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    is: Is,
    next: Next,
    /// A checkpoint may have been saved: a release no longer frees.
    history: bool,
    /// The last attempt was released.
    given_back: bool,
}

const UNKNOWN: Known =
    Known { is: Is::Absent, next: Next::Nothing, history: false, given_back: false };

fn durability(kind: &str) -> Durability {
    match kind {
        "synced" => Durability::Synced,
        "completions" => Durability::SyncedCompletions,
        _ => Durability::Buffered { max_delay: Duration::from_millis(20) },
    }
}

fn options(kind: &str) -> Options {
    Options::new()
        .durability(durability(kind))
        .max_response(4096)
        .max_claims(4000)
        .segment_bytes(256 << 10)
        .ring_bytes(64 << 10)
        .max_attempts(1000)
        .capacity(256 << 20)
}

fn print() -> Fingerprint {
    Fingerprint::of(["POST", "/charge"])
}

fn scope() -> Scope {
    Scope::of(["killed"])
}

/// Reads what the children have written down so far.
fn known(lines: &str) -> (BTreeMap<String, Known>, BTreeSet<u64>, u64) {
    let mut keys: BTreeMap<String, Known> = BTreeMap::new();
    let mut tokens = BTreeSet::new();
    let mut highest = 0;
    for line in lines.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let &[verb, key, ref rest @ ..] = &words[..] else { continue };
        let number = |at: usize| rest[at].parse::<u64>().unwrap();
        let known = keys.entry(key.to_owned()).or_insert(UNKNOWN);
        match verb {
            "begin" => known.next = Next::Begin,
            "takeover" => known.next = Next::TakeOver,
            "complete" => known.next = Next::Complete(number(0) as usize),
            "release" => known.next = Next::Release,
            "checkpoint" => known.next = Next::Checkpoint,
            "renew" => known.next = Next::Renew,
            "GRANTED" => {
                let token = number(0);
                assert!(tokens.insert(token), "token {token} was given out twice");
                highest = highest.max(token);
                known.is = Is::Held(token, number(1) as u32);
                known.given_back = false;
                known.next = Next::Nothing;
                known.history |= number(1) > 1;
            }
            "COMPLETED" => {
                let Is::Held(token, _) = known.is else { panic!("{line}: {known:?}") };
                let Next::Complete(response) = known.next else { panic!("{line}: {known:?}") };
                known.is = Is::Done(token, response);
                known.next = Next::Nothing;
            }
            "RELEASED" => {
                if !known.history {
                    known.is = Is::Absent;
                }
                known.given_back = true;
                known.next = Next::Nothing;
            }
            "CHECKPOINTED" => {
                known.history = true;
                known.next = Next::Nothing;
            }
            "RENEWED" => known.next = Next::Nothing,
            // What the next life has found.
            "absent" => *known = UNKNOWN,
            "held" => {
                known.is = Is::Held(number(0), number(1) as u32);
                known.given_back = false;
                known.next = Next::Nothing;
                known.history |= number(1) > 1;
                highest = highest.max(number(0));
            }
            "done" => {
                known.is = Is::Done(number(0), number(1) as usize);
                known.next = Next::Nothing;
            }
            other => panic!("{other}?"),
        }
    }
    (keys, tokens, highest)
}

/// What a key was found to be after the kill, if that is allowed.
fn check(key: &str, known: &Known, found: Option<&Entry>) -> Result<Is, String> {
    let wrong = || Err(format!("{key}: {known:?}, but found {found:?}"));
    let Some(entry) = found else {
        return match (known.is, known.next) {
            (Is::Absent, _) => Ok(Is::Absent),
            (Is::Held(..), Next::Release) if !known.history => Ok(Is::Absent),
            _ => wrong(),
        };
    };
    let token = entry.token.get();
    match (&entry.state, known.is, known.next) {
        (State::Completed(record), Is::Done(completed, number), _) => {
            let right = token == completed && record.response() == Some(&body(number)[..]);
            if right { Ok(known.is) } else { wrong() }
        }
        (State::Completed(record), Is::Held(held, _), Next::Complete(number)) => {
            let right = token == held && record.response() == Some(&body(number)[..]);
            if right { Ok(Is::Done(token, number)) } else { wrong() }
        }
        (State::Interrupted { .. }, Is::Held(held, attempt), next) => {
            // An attempt that is given back doesn't count, unless it had left something.
            let released = known.given_back || next == Next::Release;
            let counts = |more: u32| {
                entry.attempts == attempt + more || released && entry.attempts + 1 == attempt + more
            };
            let the_same = token == held && counts(0);
            let taken = next == Next::TakeOver && token > held && counts(1);
            if the_same || taken { Ok(Is::Held(token, entry.attempts)) } else { wrong() }
        }
        (State::Interrupted { .. }, Is::Absent, Next::Begin) => Ok(Is::Held(token, entry.attempts)),
        _ => wrong(),
    }
}

fn body(number: usize) -> Vec<u8> {
    response(number, (number * 37) % 3000)
}

/// The file of lines, shared by the threads of a child.
struct Lines(File);

impl Lines {
    fn say(&self, line: String) {
        (&self.0).write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

#[test]
fn lives_until_it_is_killed() {
    let Ok(child) = std::env::var(CHILD) else { return };
    let words: Vec<&str> = child.split('|').collect();
    let &[directory, kind, life] = &words[..] else { panic!("{child}") };
    let life: u64 = life.parse().unwrap();
    let file = Path::new(directory).join("lines");
    let mut lines = String::new();
    if let Ok(mut file) = File::open(&file) {
        file.read_to_string(&mut lines).unwrap();
    }
    let (keys, tokens, highest) = known(&lines);
    let out = OpenOptions::new().create(true).append(true).open(&file).unwrap();
    let out = Arc::new(Lines(out));
    let store = options(kind).open(Path::new(directory).join("store")).unwrap();
    let scope = scope();
    for (key, known) in &keys {
        let key_ref = KeyRef::new(&scope, key).unwrap();
        let found = store.get(key_ref).unwrap();
        let is = check(key, known, found.as_ref()).unwrap_or_else(|wrong| panic!("{wrong}"));
        // And so says begin, to whoever asks.
        if is != Is::Absent {
            match (store.begin(key_ref, print()).unwrap(), is) {
                (Begin::Replay(record), Is::Done(_, number)) => {
                    assert_eq!(record.response(), Some(&body(number)[..]));
                }
                (Begin::Interrupted(stuck), Is::Held(..)) => assert!(stuck.holder_gone()),
                (other, is) => panic!("{key} is {is:?}, but begins as {other:?}"),
            }
        }
        if is != known.is || known.next != Next::Nothing {
            match is {
                Is::Absent => out.say(format!("absent {key}")),
                Is::Held(token, attempt) => out.say(format!("held {key} {token} {attempt}")),
                Is::Done(token, number) => out.say(format!("done {key} {token} {number}")),
            }
        }
    }
    assert!(tokens.last().is_none_or(|last| *last <= highest));
    out.say("S".to_owned());
    let old: Vec<String> = keys.keys().cloned().collect();
    let start = Arc::new(Barrier::new(THREADS));
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (store, out, start) = (store.clone(), out.clone(), start.clone());
            let old: Vec<String> =
                old.iter().filter(|key| key.starts_with(&format!("{thread}-"))).cloned().collect();
            std::thread::spawn(move || {
                start.wait();
                work(&store, &out, thread, life, old, highest);
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    // Done before it was killed: wait for it.
    std::thread::sleep(Duration::from_secs(30));
}

fn work(store: &Store, out: &Lines, thread: usize, life: u64, old: Vec<String>, highest: u64) {
    let mut rng = Rng(life << 8 | thread as u64);
    let scope = scope();
    for number in 0..KEYS_A_LIFE {
        // A new key, or one of an earlier life, which may be interrupted.
        let key = if !old.is_empty() && rng.one_in(3) {
            old[rng.below(old.len())].clone()
        } else {
            format!("{thread}-{life}-{number}")
        };
        let key_ref = KeyRef::new(&scope, &key).unwrap();
        out.say(format!("begin {key}"));
        let mut claim = match store.begin(key_ref, print()) {
            Ok(Begin::Execute(claim)) => claim,
            Ok(Begin::Interrupted(stuck)) => {
                out.say(format!("takeover {key}"));
                match stuck.take_over() {
                    Ok(Begin::Execute(claim)) => claim,
                    other => panic!("{key}: {other:?}"),
                }
            }
            Ok(Begin::Replay(_)) => continue,
            Err(BeginError::StoreFull(_)) => return,
            other => panic!("{key}: {other:?}"),
        };
        let (token, attempt) = (claim.token().get(), claim.attempt());
        assert!(token > highest, "token {token} is not above {highest}");
        out.say(format!("GRANTED {key} {token} {attempt}"));
        if rng.one_in(6) {
            out.say(format!("checkpoint {key}"));
            claim.save_checkpoint(&response(number, 300)).unwrap();
            out.say(format!("CHECKPOINTED {key}"));
        }
        if rng.one_in(6) {
            out.say(format!("renew {key}"));
            claim.renew().unwrap();
            out.say(format!("RENEWED {key}"));
        }
        match rng.below(8) {
            0 => {
                out.say(format!("release {key}"));
                claim.release().unwrap();
                out.say(format!("RELEASED {key}"));
            }
            1 => drop(claim),
            _ => {
                let response = rng.below(1 << 20);
                out.say(format!("complete {key} {response}"));
                let body = body(response);
                let retention = rng.one_in(4).then(|| Duration::from_secs(48 * 3600).into());
                let completion = onlyonce::Completion {
                    response: Some(&body),
                    retention,
                    ..onlyonce::Completion::default()
                };
                claim.complete_with(completion).unwrap();
                out.say(format!("COMPLETED {key}"));
            }
        }
    }
}

/// Starts lives and ends them.
fn kill_again_and_again(kind: &str, default: u64) {
    let kills = std::env::var("KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let directory = tempfile::tempdir().unwrap();
    let lines = directory.path().join("lines");
    let mut rng = Rng(u64::from(std::process::id()));
    let mut begun = 0;
    for life in 0..kills {
        let before = std::fs::read_to_string(&lines).map_or(0, |lines| lines.len());
        let path = directory.path().display();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "lives_until_it_is_killed", "--nocapture"])
            .env(CHILD, format!("{path}|{kind}|{life}"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Now and then in the middle of opening, else in the middle of work.
        let early = rng.one_in(6);
        let patience = Instant::now() + Duration::from_secs(60);
        let started = || {
            let lines = std::fs::read_to_string(&lines).unwrap_or_default();
            lines[before.min(lines.len())..].contains("S\n")
        };
        while !early && !started() {
            if let Some(status) = child.try_wait().unwrap() {
                let mut said = String::new();
                child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                panic!("{kind}, life {life}: {status}\n{said}");
            }
            assert!(Instant::now() < patience, "{kind}, life {life}: it doesn't start");
            std::thread::sleep(Duration::from_millis(1));
        }
        begun += u64::from(!early);
        std::thread::sleep(Duration::from_micros(
            rng.below(if early { 20_000 } else { 60_000 }) as u64
        ));
        let over = child.try_wait().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        if over.is_some() {
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("{kind}, life {life}: it ended by itself: {over:?}\n{said}");
        }
    }
    let lines = std::fs::read_to_string(&lines).unwrap();
    let acknowledged = lines.lines().filter(|line| line.starts_with("COMPLETED")).count();
    println!("{kind}: {kills} kills, {begun} at work, {acknowledged} completions acknowledged");
    assert!(begun == 0 || acknowledged > 0);
}

#[test]
fn nothing_acknowledged_is_lost_synced() {
    kill_again_and_again("synced", 24);
}

#[test]
fn nothing_acknowledged_is_lost_synced_completions() {
    kill_again_and_again("completions", 12);
}

#[test]
fn nothing_acknowledged_is_lost_buffered() {
    kill_again_and_again("buffered", 30);
}
