//! A store in a real directory syncs what it promises. All calls to the system that three lives of
//! one make (creation, every call, segments that roll, are sealed and used again, growth, a kill,
//! backups, a restore) are recorded with strace, and replayed onto a disk that promises only what
//! POSIX does: what a file holds is durable after a sync of that file, and a name after a sync of
//! its directory. At each point the power goes, and the store is opened from what remains.
//!
//! Then each sync in turn is left out of the recording. What that loses must be noticed, or the
//! sync must be in the list of those that another one makes redundant, with the reason.
//!
//! ```sh
//! cargo test --release --test every_sync_counts -- --nocapture     # prints what notices each sync
//! ```
//!
//! Skipped where there is no strace.

#![cfg(all(target_os = "linux", not(onlyonce_shuttle), not(onlyonce_loom)))]

mod common;
#[path = "every_sync_counts/judge.rs"]
mod judge;
#[path = "every_sync_counts/life.rs"]
mod life;
#[path = "every_sync_counts/posix.rs"]
mod posix;
#[path = "every_sync_counts/recording.rs"]
mod recording;

use common::*;
use judge::Told;
use onlyonce::Durability;
use posix::{Choice, Disk};
use recording::Event;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::Path,
};

/// Says to a child which part of the recording it is: the part, the setting, the place.
const CHILD: &str = "ONLYONCE_EVERY_SYNC_COUNTS";

/// Syncs that may be left out without a loss, and why. By phase, call and file; an empty phase is
/// any, and "all" means that all of them together may be left out.
const REDUNDANT: &[(&str, &str, &str, &str)] = &[
    ("all", "fsync", "superblock", CREATED),
    ("all", "fsync", "claims", CREATED),
    ("all", "fsync", "ring", CREATED),
    ("all", "fsync", "segment-N", CREATED),
    ("all", "fsync", "manifest", CREATED),
    ("all", "fsync", "decisions-N", CREATED),
    ("", "fdatasync", "decisions-N", "the outcome of a decision, which may be lost"),
    ("", "fdatasync", "superblock", "the other copy, which is synced too, is enough"),
    ("", "fsync", "full", "the last of three: it is no backup before that"),
    ("", "fsync", "later", "the last of three: it is no backup before that"),
    ("restore", "fsync", "store", "the last of two: it is no store before that"),
    ("", "fdatasync", "claims", "those that cover only cells that were cleared"),
    ("closing", "fdatasync", "segment-N", FOOTER),
    ("closing after a kill", "fdatasync", "segment-N", FOOTER),
    ("recycling", "fdatasync", "segment-N", "the footer of one that is used again at once"),
    ("growth", "fdatasync", "segment-N", "the footer, or the header of one that is resumed"),
];

const CREATED: &str = "what makes the file count is written, and synced with its length, later";
const FOOTER: &str = "a footer, which the next opening writes again";

/// Why a sync is redundant.
fn reason(phase: &str, call: &str, path: &str) -> Option<&'static str> {
    let name = path.rsplit('/').next().unwrap();
    let is = |at: &&(&str, &str, &str, &'static str)| {
        (at.0 == phase || at.0 == "all" || at.0.is_empty() && phase != "all")
            && at.1 == call
            && at.2 == name
    };
    REDUNDANT.iter().find(is).map(|at| at.3)
}

fn setting(name: &str) -> Durability {
    match name {
        "Synced" => Durability::Synced,
        "SyncedCompletions" => Durability::SyncedCompletions,
        _ => Durability::Buffered { max_delay: MINUTE },
    }
}

/// The recorded process.
#[test]
fn child() {
    let Ok(what) = std::env::var(CHILD) else { return };
    let words: Vec<_> = what.splitn(3, ' ').collect();
    life::live(words[0], setting(words[1]), Path::new(words[2]));
}

/// What is kept of that which is not durable.
enum Kept<'a> {
    Nothing,
    Everything,
    /// Everything of this file or directory, and nothing of the others.
    Only(&'a Path),
    /// Nothing of this one, everything of the others.
    AllBut(&'a Path),
    /// Everything but these sectors of this one.
    AllButPart(&'a Path, Range<usize>),
    /// Of this one these sectors.
    OnlyPart(&'a Path, Range<usize>),
    /// Whatever the dice say.
    Some(u64),
}

impl Choice for Kept<'_> {
    fn version(&mut self, path: &Path, sector: Option<usize>, versions: usize) -> usize {
        let is_in = |part: &Range<usize>| sector.is_some_and(|sector| part.contains(&sector));
        let keeps = match self {
            Kept::Nothing => false,
            Kept::Everything => true,
            Kept::Only(this) => path == *this,
            Kept::AllBut(this) => path != *this,
            Kept::AllButPart(this, part) => path != *this || !is_in(part),
            Kept::OnlyPart(this, part) => path == *this && is_in(part),
            Kept::Some(seed) => {
                *seed =
                    seed.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
                return (*seed >> 33) as usize % versions;
            }
        };
        if keeps { versions - 1 } else { 0 }
    }
}

struct Trial<'a> {
    events: &'a [Event],
    scratch: &'a Path,
    cuts: usize,
}

/// What is left out of a replay.
enum Left {
    None,
    /// The call with this number.
    One(usize),
    /// All syncs by one call of one kind of files.
    Kind(String, String),
    /// All syncs of one kind of files.
    File(String),
}

impl<'a> Trial<'a> {
    /// The power goes here, in several ways.
    fn cut(&mut self, disk: &Disk, told: &Told, left: &Left) -> Result<(), String> {
        let unsynced = disk.unsynced();
        let dice = Kept::Some(self.cuts as u64);
        let mut ways = vec![Kept::Nothing, Kept::Everything, dice];
        let mut of = None;
        match left {
            Left::None => {
                let each = unsynced.iter().take(8);
                ways.extend(each.flat_map(|path| [Kept::AllBut(path), Kept::Only(path)]));
            }
            Left::One(at) => {
                let path = self.path(*at);
                ways.extend([Kept::AllBut(path), Kept::Only(path)]);
                // Its first page, and the last piece of what was written: a footer without the frames
                // that it lists, or these without it.
                for part in [0..8, disk.last_unsynced(path)..usize::MAX] {
                    ways.push(Kept::AllButPart(path, part.clone()));
                    ways.push(Kept::OnlyPart(path, part));
                }
                of = Some(path);
            }
            Left::Kind(..) | Left::File(_) => {}
        }
        for mut kept in ways {
            self.cuts += 1;
            judge::judge(&disk.cut(&mut kept), told, of, self.scratch)?;
        }
        Ok(())
    }

    /// Replays the recording from `from` on, without the syncs that `left` names, and cuts the
    /// power before each sync and after each promise, or (`EVERY=1`) after each call. (Of what was
    /// written between two syncs any version may be kept, so the moment before the second one shows
    /// what the moments between them do.) Returns what is noticed.
    fn replay(
        &mut self,
        from: usize,
        (mut disk, mut told): (Disk, Told),
        left: &Left,
        mut each: impl FnMut(usize, &Disk, &Told),
    ) -> Option<String> {
        let every = std::env::var_os("EVERY").is_some();
        for (at, event) in self.events.iter().enumerate().skip(from) {
            each(at, &disk, &told);
            let (mut here, mut skipped) = (every, false);
            match event {
                Event::Sync(path, call) => {
                    let (mut again, kind) = (false, self::kind(path));
                    match left {
                        Left::None => {}
                        Left::One(one) if *one == at => skipped = true,
                        Left::One(one) => again = path == self.path(*one),
                        Left::Kind(of, files) => skipped = call == of && kind == *files,
                        Left::File(files) => skipped = kind == *files,
                    }
                    if !skipped && let Err(why) = self.cut(&disk, &told, left) {
                        return Some(why);
                    }
                    if again {
                        // This one covers everything.
                        return None;
                    }
                }
                Event::Mark(line) => {
                    told.hear(line);
                    here |= line.starts_with("is ") || line.starts_with("copied ");
                    here |= line == "promised" || line == "decided";
                }
                _ => {}
            }
            if !skipped {
                disk.apply(event);
            }
            if here && let Err(why) = self.cut(&disk, &told, left) {
                return Some(why);
            }
        }
        None
    }

    fn path(&self, at: usize) -> &'a Path {
        match &self.events[at] {
            Event::Sync(path, _) => path,
            other => panic!("{other:?} is no sync"),
        }
    }
}

/// Syncs that are alike: their phase, call and file.
type Kind = (String, String, String);

/// How many of a kind were left out, how many of these were noticed, how many had nothing to cover,
/// and how one was noticed.
type Counted = (usize, usize, usize, String);

/// Numbers make no difference.
fn kind(path: &Path) -> String {
    let name = path.display().to_string();
    let numbered = ["segment-", "decisions-"];
    let known = numbered.iter().find_map(|kind| Some((name.split_once(kind)?.0, kind)));
    known.map_or(name.clone(), |(above, kind)| format!("{above}{kind}N"))
}

fn check(name: &str) {
    let shm = Path::new("/dev/shm");
    let scratch = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
    let base = tempfile::tempdir().unwrap();
    let place = base.path().canonicalize().unwrap().join("place");
    std::fs::create_dir(&place).unwrap();
    let mut events = Vec::new();
    for part in life::PARTS {
        let what = format!("{part} {name} {}", place.display());
        match recording::record("child", &[(CHILD, &what)], &place) {
            Some(recorded) => events.extend(recorded),
            None => return println!("strace can't be run here: skipped"),
        }
    }
    let syncs = events.iter().filter(|event| matches!(event, Event::Sync(..))).count();
    assert!(syncs > 100, "only {syncs} syncs were recorded");
    let mut trial = Trial { events: &events, scratch: &scratch, cuts: 0 };
    let begin = || (Disk::default(), Told::default());

    // The whole recording, and the moment before each sync.
    let mut moments = Vec::new();
    let note = |at: usize, disk: &Disk, told: &Told| {
        if let Event::Sync(..) = &events[at] {
            moments.push((at, disk.clone(), told.clone()));
        }
    };
    let failed = trial.replay(0, begin(), &Left::None, note);
    assert_eq!(failed, None, "with all syncs");
    println!(
        "{name}: {} calls, {} cuts. Each of {syncs} syncs left out:",
        events.len(),
        trial.cuts
    );

    // Each alone.
    let mut kinds: BTreeMap<Kind, Counted> = BTreeMap::new();
    let mut unnoticed = Vec::new();
    for (at, disk, told) in moments {
        let Event::Sync(path, call) = &events[at] else { unreachable!() };
        let kind = (told.phase.clone(), call.clone(), kind(path));
        let counted = kinds.entry(kind.clone()).or_default();
        if !disk.unsynced().contains(path) {
            // It has nothing to cover.
            counted.2 += 1;
            continue;
        }
        counted.0 += 1;
        match trial.replay(at, (disk, told), &Left::One(at), |_, _, _| {}) {
            Some(why) => (counted.1, counted.3) = (counted.1 + 1, why),
            None if reason(&kind.0, &kind.1, &kind.2).is_none() => unnoticed.push(kind),
            None => {}
        }
    }
    for ((phase, call, path), (all, noticed, idle, why)) in &kinds {
        let why = if *noticed > 0 { why } else { reason(phase, call, path).unwrap_or("") };
        println!(
            "  {phase:>22} {call:>9} {path:<28} {noticed:>3} of {all:>3} (+{idle}): {why:.110}"
        );
    }

    // All of a kind, and all of a file.
    let covers = kinds.iter().filter(|(_, counted)| counted.0 > 0);
    let of_kind: BTreeSet<_> = covers.map(|((_, call, path), _)| (call, path)).collect();
    for (call, path) in &of_kind {
        if reason("all", call, path).is_some() {
            continue;
        }
        let left = Left::Kind((*call).clone(), (*path).clone());
        match trial.replay(0, begin(), &left, |_, _, _| {}) {
            Some(why) => println!("  all {call} of {path}: {why:.110}"),
            None => unnoticed.push(("all".into(), (*call).clone(), (*path).clone())),
        }
    }
    for path in of_kind.iter().map(|(_, path)| *path).collect::<BTreeSet<_>>() {
        match trial.replay(0, begin(), &Left::File(path.clone()), |_, _, _| {}) {
            Some(why) => println!("  all syncs of {path}: {why:.110}"),
            None => unnoticed.push(("all".into(), "sync".into(), path.clone())),
        }
    }
    println!("  {} cuts", trial.cuts);
    assert!(unnoticed.is_empty(), "left out without a loss: {unnoticed:#?}");
}

#[test]
#[cfg_attr(debug_assertions, ignore = "takes long without --release")]
fn in_synced() {
    check("Synced");
}

#[test]
#[cfg_attr(debug_assertions, ignore = "takes long without --release")]
fn in_synced_completions() {
    check("SyncedCompletions");
}

#[test]
#[cfg_attr(debug_assertions, ignore = "takes long without --release")]
fn in_buffered() {
    check("Buffered");
}
