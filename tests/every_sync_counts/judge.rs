//! What must be found after a loss of power, by what the recorded process was answered.

use super::common::*;
use super::life::{self, RESTORED, STORE};
use super::posix::Found;
use onlyonce::{backup, storage::SimStorage, *};
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// What a key is.
#[derive(Clone, Debug, PartialEq)]
pub enum Is {
    Absent,
    /// With its checkpoint and its answer.
    Undecided(Vec<u8>, Vec<u8>),
    /// With the response's number, and until when it is remembered.
    Completed(u64, u64),
}

impl Is {
    pub fn undecided() -> Is {
        Is::Undecided(Vec::new(), Vec::new())
    }

    /// What it is later.
    fn at(&self, now: u64) -> Is {
        match self {
            Is::Completed(_, until) if *until <= now => Is::Absent,
            Is::Completed(number, _) => Is::Completed(*number, 0),
            same => same.clone(),
        }
    }

    fn parse(words: &[&str]) -> Is {
        let bytes = |hex: &str| {
            let digits = hex.as_bytes().chunks(2);
            let text = digits.map(|two| std::str::from_utf8(two).unwrap());
            text.map(|two| u8::from_str_radix(two, 16).unwrap()).collect()
        };
        match words {
            ["absent"] => Is::Absent,
            ["undecided", checkpoint, answer] => Is::Undecided(bytes(checkpoint), bytes(answer)),
            ["completed", number, until] => {
                Is::Completed(number.parse().unwrap(), until.parse().unwrap())
            }
            other => panic!("{other:?}"),
        }
    }
}

impl fmt::Display for Is {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        match self {
            Is::Absent => f.write_str("absent"),
            Is::Undecided(checkpoint, answer) => {
                write!(f, "undecided {} {}", hex(checkpoint), hex(answer))
            }
            Is::Completed(number, until) => write!(f, "completed {number} {until}"),
        }
    }
}

/// A copy (a backup, or what was restored) and what it must hold.
#[derive(Clone)]
struct Copy {
    place: String,
    holds: BTreeMap<String, Is>,
    decided: usize,
    finished: bool,
}

/// What was said up to a moment.
#[derive(Clone, Default)]
pub struct Told {
    pub phase: String,
    now: u64,
    /// What each key may be after a loss of power: what was promised, and all that came after.
    keys: BTreeMap<String, Vec<Is>>,
    /// How many decisions of operators were answered: as many are in the journal.
    decided: usize,
    copies: Vec<Copy>,
}

impl Told {
    pub fn hear(&mut self, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["phase", ..] => self.phase = line["phase ".len()..].to_owned(),
            ["clock", now] => self.now = now.parse().unwrap(),
            ["may", key, ..] => {
                let states = self.keys.entry(key.to_owned()).or_insert_with(|| vec![Is::Absent]);
                states.push(Is::parse(&words[2..]));
            }
            ["is", key] => promise(self.keys.get_mut(key).unwrap()),
            ["decided"] => self.decided += 1,
            ["promised"] => self.keys.values_mut().for_each(promise),
            ["copies", place] => {
                let newest = |(key, states): (&String, &Vec<Is>)| {
                    (key.clone(), states.last().unwrap().clone())
                };
                let holds = self.keys.iter().map(newest).collect();
                let (place, decided) = (place.to_owned(), self.decided);
                self.copies.push(Copy { place, holds, decided, finished: false });
            }
            ["copies", place, of] => {
                let of = self.copies.iter().find(|copy| copy.place == of).unwrap();
                let copy = Copy { place: place.to_owned(), finished: false, ..of.clone() };
                self.copies.push(copy);
            }
            ["copied", place] => {
                let copy = self.copies.iter_mut().find(|copy| copy.place == place);
                copy.unwrap().finished = true;
            }
            _ => panic!("{line}"),
        }
    }
}

fn promise(states: &mut Vec<Is>) {
    states.drain(..states.len() - 1);
}

/// Whether what is found is as it was promised. `of`: what may be missing is in this file or
/// directory. `scratch` is for files.
pub fn judge(found: &Found, told: &Told, of: Option<&Path>, scratch: &Path) -> Result<(), String> {
    let concerns =
        |place: &str| of.is_none_or(|of| Path::new(place).starts_with(of) || of.starts_with(place));
    if concerns(STORE) {
        judge_store(found, told)?;
    }
    for copy in told.copies.iter().filter(|copy| concerns(&copy.place) || concerns(life::FULL)) {
        match copy.place.as_str() {
            RESTORED => judge_restored(found, told, copy)?,
            _ => judge_backup(found, told, copy, scratch)?,
        }
    }
    Ok(())
}

fn inside(found: &Found, place: &str) -> BTreeMap<String, Vec<u8>> {
    let files = found.files.iter().filter_map(|(path, bytes)| {
        let name = path.strip_prefix(place).ok()?.to_str().unwrap();
        Some((name.to_owned(), bytes.clone()))
    });
    files.collect()
}

fn opened(files: BTreeMap<String, Vec<u8>>, now: u64, create: bool) -> Result<Store, OpenError> {
    let options = life::options(Durability::Synced, now).max_claims(60).create(create);
    options.open_on(Arc::new(SimStorage::from_files(1, files)))
}

fn judge_store(found: &Found, told: &Told) -> Result<(), String> {
    let store = opened(inside(found, STORE), told.now, true);
    let store = store.map_err(|error| format!("the store does not open: {error}"))?;
    journal_holds(&store, told.decided)?;
    for (key, states) in &told.keys {
        let is = asked(&store, key)?;
        if !is_among(&is, states, told.now) {
            let last = states.first().unwrap();
            return Err(format!("{key} is {is:?}; promised was {last:?}"));
        }
    }
    Ok(())
}

/// A checkpoint and an answer are in two files, and can each be lost where neither is promised.
fn is_among(is: &Is, states: &[Is], now: u64) -> bool {
    let Is::Undecided(checkpoint, answer) = is else {
        return states.iter().any(|state| state.at(now) == *is);
    };
    let undecided = states.iter().filter_map(|state| match state {
        Is::Undecided(checkpoint, answer) => Some((checkpoint, answer)),
        _ => None,
    });
    let (checkpoints, answers): (Vec<_>, Vec<_>) = undecided.unzip();
    checkpoints.contains(&checkpoint) && answers.contains(&answer)
}

/// A decision is in the journal before it is carried out.
fn journal_holds(store: &Store, decided: usize) -> Result<(), String> {
    match store.decisions() {
        Ok(decisions) if decisions.len() >= decided => Ok(()),
        Ok(decisions) => Err(format!("{} of {decided} decisions are known", decisions.len())),
        Err(error) => Err(format!("the decisions do not read: {error}")),
    }
}

fn holds(store: &Store, told: &Told, copy: &Copy) -> Result<(), String> {
    journal_holds(store, copy.decided)?;
    for (key, state) in &copy.holds {
        let is = asked(store, key)?;
        if state.at(told.now) != is {
            return Err(format!("in {}, {key} is {is:?}, not {state:?}", copy.place));
        }
    }
    Ok(())
}

fn judge_restored(found: &Found, told: &Told, copy: &Copy) -> Result<(), String> {
    match opened(inside(found, RESTORED), told.now, false) {
        Ok(store) => holds(&store, told, copy),
        Err(error) if copy.finished => Err(format!("what was restored does not open: {error}")),
        // Not finished, and not taken for a store.
        Err(_) => Ok(()),
    }
}

fn judge_backup(found: &Found, told: &Told, copy: &Copy, scratch: &Path) -> Result<(), String> {
    let place = tempfile::tempdir_in(scratch).unwrap();
    for directory in &found.directories {
        std::fs::create_dir(place.path().join(directory)).unwrap();
    }
    for (path, bytes) in found.files.iter().filter(|(path, _)| path.starts_with("copies")) {
        std::fs::write(place.path().join(path), bytes).unwrap();
    }
    let to: PathBuf = place.path().join("out");
    match backup::restore(place.path().join(&copy.place), &to) {
        Ok(_) => {
            let store = life::options(Durability::Synced, told.now).max_claims(60).open(&to);
            let store = store.map_err(|error| format!("{} does not open: {error}", copy.place))?;
            holds(&store, told, copy)
        }
        Err(error) if copy.finished => Err(format!("{} is no backup: {error}", copy.place)),
        Err(_) => Ok(()),
    }
}

fn asked(store: &Store, name: &str) -> Result<Is, String> {
    // Looked up first: a begin would take the key.
    if store.get(key(name)).map_err(|error| format!("{name}: {error}"))?.is_none() {
        return Ok(Is::Absent);
    }
    match store.begin(key(name), print()) {
        Ok(Begin::Execute(_)) => Ok(Is::Absent),
        Ok(Begin::Interrupted(interrupted)) => {
            let checkpoint = interrupted.checkpoint().unwrap_or_default().to_vec();
            let answer = interrupted.answer().map_or(Vec::new(), |answer| answer.to_vec());
            Ok(Is::Undecided(checkpoint, answer))
        }
        Ok(Begin::Replay(record)) => {
            let number = record.response().expect("retained")[..8].try_into().unwrap();
            Ok(Is::Completed(u64::from_le_bytes(number), 0))
        }
        other => Err(format!("{name} is {other:?}")),
    }
}
