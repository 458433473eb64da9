//! Whether what callers were answered, and what is left after a crash, is explained by some order
//! of single steps, for one key.
//!
//! Beside what the callers see (`seen`) the search carries what the disk would give back (`left`).
//! A step that the durability table promises moves both; another moves what is left or doesn't.

use super::story::{Answer, Call, What};
use onlyonce::Durability;
use std::{
    collections::{BTreeSet, HashSet},
    fmt,
};

/// What a key is, to callers and after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Is {
    Absent,
    /// Held or interrupted, under this token; 0: one that no caller was told.
    Undecided(u64),
    Completed(u64),
}

impl fmt::Display for Is {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Is::Absent => f.write_str("absent"),
            Is::Undecided(0) => f.write_str("in flight or interrupted"),
            Is::Undecided(token) => write!(f, "in flight or interrupted, under token {token}"),
            Is::Completed(response) => write!(f, "completed, with response {response}"),
        }
    }
}

/// These, as the end of a sentence.
pub fn any_of(left: &BTreeSet<Is>) -> String {
    left.iter().map(Is::to_string).collect::<Vec<_>>().join("; or ")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    Kill,
    PowerCut,
    /// None: the callers end, and the store is closed.
    Close,
}

/// What a step promises to outlive the crash.
fn is_promised(what: What, durability: Durability, crash: Crash) -> bool {
    match (crash, durability) {
        (Crash::Kill | Crash::Close, _) | (_, Durability::Synced) => true,
        (_, _) if matches!(what, What::Tick | What::EnsureDurable(_)) => true,
        (_, Durability::SyncedCompletions) => {
            !matches!(what, What::Begin | What::TakeOver | What::Release(_))
        }
        (_, _) => {
            matches!(what, What::Forget | What::Free | What::Erase | What::Decide(_))
        }
    }
}

/// What the key may be after a step that was answered so; nothing if it can't have been.
fn after(is: Is, what: What, answer: Answer) -> Vec<Is> {
    let same = |valid: bool| if valid { vec![is] } else { vec![] };
    let undecided = matches!(is, Is::Undecided(_));
    match (what, answer) {
        (What::Begin, Answer::Granted(token)) if is == Is::Absent => vec![Is::Undecided(token)],
        (What::Begin | What::TakeOver, Answer::Replay(response)) => {
            same(is == Is::Completed(response))
        }
        (What::Begin | What::TakeOver, Answer::Busy) => same(undecided),
        (What::TakeOver, Answer::Granted(token)) if undecided || is == Is::Absent => {
            vec![Is::Undecided(token)]
        }
        (What::Complete(token, response), Answer::Done) if is == Is::Undecided(token) => {
            vec![Is::Completed(response)]
        }
        (What::Complete(_, response), Answer::Done) => same(is == Is::Completed(response)),
        (
            What::Fail(token) | What::Checkpoint(token) | What::EnsureDurable(token),
            Answer::Done,
        ) => same(is == Is::Undecided(token)),
        // An attempt with a history is interrupted by its release.
        (What::Release(token), Answer::Done) if is == Is::Undecided(token) => vec![is, Is::Absent],
        (
            What::Complete(token, _)
            | What::Fail(token)
            | What::Checkpoint(token)
            | What::EnsureDurable(token)
            | What::Release(token),
            Answer::Fenced,
        ) => same(is != Is::Undecided(token)),
        // Two that forget one record at the same time are both told that it is done.
        (What::Forget, Answer::Done) => vec![Is::Absent],
        (What::Free, Answer::Done) if undecided => vec![Is::Absent],
        (What::Erase, Answer::Done) => vec![Is::Absent],
        // Something of the scope is left, and perhaps this.
        (What::Erase, Answer::Refused) => vec![Is::Absent, is],
        (What::Decide(response), Answer::Done) if undecided => vec![Is::Completed(response)],
        (What::Forget | What::Free | What::Decide(_), Answer::Refused) => vec![is],
        (_, Answer::Completed) => same(matches!(is, Is::Completed(_))),
        (What::Tick, _) => vec![if matches!(is, Is::Completed(_)) { Is::Absent } else { is }],
        // Of a claim that was undone before it was delivered.
        (What::Undo, Answer::Done) if is == Is::Undecided(0) => vec![Is::Absent, is],
        _ => vec![],
    }
}

/// What a call that was not answered would have been answered if it took effect.
fn answer_of(what: What) -> Answer {
    match what {
        What::Begin | What::TakeOver => Answer::Granted(0),
        _ => Answer::Done,
    }
}

/// Everything that the key may be after the crash; nothing if the answers have no explanation.
pub fn left(calls: &[Call], durability: Durability, crash: Crash) -> BTreeSet<Is> {
    assert!(calls.len() <= 64);
    let answered = |call: &Call| call.answer.is_some() && !call.optional;
    let needed = calls.iter().enumerate().filter(|(_, call)| answered(call));
    let needed: u64 = needed.map(|(n, _)| 1 << n).sum();
    let mut tried = HashSet::new();
    let mut left = BTreeSet::new();
    let mut todo = vec![(0, Is::Absent, Is::Absent)];
    while let Some(state) = todo.pop() {
        if !tried.insert(state) {
            continue;
        }
        let (done, seen, kept): (u64, Is, Is) = state;
        if done & needed == needed {
            left.insert(kept);
        }
        for (n, call) in calls.iter().enumerate().filter(|(n, _)| done & (1 << n) == 0) {
            let before = |other: &Call| {
                let copied_first = other.optional && call.what == What::Tick;
                other.answer.is_some() && other.ended < call.began && !copied_first
            };
            let first = |(m, other): (usize, &Call)| done & (1 << m) != 0 || !before(other);
            if !calls.iter().enumerate().all(first) {
                continue;
            }
            let answer = call.answer.unwrap_or(answer_of(call.what));
            let promised = call.answer.is_some()
                && (call.flushed || is_promised(call.what, durability, crash));
            // A record that others have seen is durable, where completions are.
            let shown = matches!(answer, Answer::Replay(_) | Answer::Completed)
                && (crash != Crash::PowerCut || !matches!(durability, Durability::Buffered { .. }));
            // The claim that a checkpoint or a failure belongs to is as durable as these.
            let settles = promised
                && answer == Answer::Done
                && matches!(
                    call.what,
                    What::Fail(_) | What::Checkpoint(_) | What::EnsureDurable(_)
                );
            // A decision fences the holder at once, and is seen when it is durable.
            let decides = |other: &Call| {
                matches!(other.what, What::Decide(_))
                    && !matches!(other.answer, Some(Answer::Refused | Answer::Completed))
                    && other.began < call.ended
                    && call.began < other.ended
            };
            let mut states = after(seen, call.what, answer);
            if states.is_empty() && answer == Answer::Fenced && calls.iter().any(decides) {
                states.push(seen);
            }
            // A record is as old as its completion, which the clock may have overtaken.
            let overtaken = |other: &Call| {
                other.what == What::Tick && other.began < call.ended && call.began < other.ended
            };
            if states.iter().any(|is| *is != seen && matches!(is, Is::Completed(_)))
                && calls.iter().any(overtaken)
            {
                states.push(Is::Absent);
            }
            for now in states {
                todo.push((
                    done | 1 << n,
                    now,
                    if now != seen || shown || settles { now } else { kept },
                ));
                // A record that expires before it is durable leaves what was there before it.
                let outlives = call.what == What::Tick && !matches!(kept, Is::Completed(_));
                if now != seen && (!promised || outlives && crash == Crash::PowerCut) {
                    todo.push((done | 1 << n, now, kept));
                }
            }
        }
    }
    left
}
