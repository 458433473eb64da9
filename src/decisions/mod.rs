//! Operators' decisions, kept in the store: who decided what about which key, when and why, what
//! was there before, and what came in its place.
//!
//! A decision is noted, durably, before it is carried out, and its outcome is added afterwards. So
//! none is carried out that isn't in the record. After a crash in between the outcome is
//! [`Unknown`](Outcome::Unknown): the key's state and token say then what became of it. Decisions are
//! kept for a time of their own ([`Options::decisions_kept`](crate::Options::decisions_kept)), also
//! when their key has expired or is forgotten. They contain the answers that were replaced or
//! given, so they are as confidential as the rest of the store.
//!
//! ```
//! use onlyonce::{Fingerprint, KeyRef, Resolution, ResolveOptions, Scope, Store, decisions::By};
//!
//! let (store, scope) = (Store::in_memory()?, Scope::global());
//! let key = KeyRef::new(&scope, "k")?;
//! drop(store.begin(key, Fingerprint::of(["book"]))?); // interrupted
//! let by = By { actor: "kim", note: "INC-7: the provider knows no charge" };
//! store.resolve_with(key, Resolution::Free, ResolveOptions::new().by(by))?;
//! let decided = &store.decisions()?[0];
//! assert_eq!((&*decided.actor, decided.was.attempts), ("kim", 1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod format;
mod journal;

pub(crate) use journal::{Journal, Pen, check, files, read_all};

use crate::{
    error::StoreError, fingerprint::Fingerprint, key::OwnedKey, record::Reason, token::Token,
};
use std::fmt;

/// Who decides, and why. The default is neither.
#[derive(Clone, Copy, Debug, Default)]
pub struct By<'a> {
    /// The person or program; at most 255 bytes are kept.
    pub actor: &'a str,
    /// The reason, a ticket for instance; at most 4,096 bytes are kept.
    pub note: &'a str,
}

impl By<'_> {
    /// The name and the note, as far as they are kept.
    pub(crate) fn kept(&self) -> (String, String) {
        let cut = |text: &str, bytes: usize| {
            let end = (0..=bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
            text[..end.unwrap_or(0)].to_owned()
        };
        (cut(self.actor, 255), cut(self.note, 4096))
    }
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u8)]
pub enum Verdict {
    /// The operation took effect; the key is completed.
    Complete = 1,
    /// It did not take effect; the key is free.
    Free = 2,
    /// The key is forgotten.
    Forget = 3,
    /// The key's answer is replaced.
    Replace = 4,
}

/// A key as a decision finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Absent,
    InFlight,
    Interrupted,
    Completed,
}

impl Verdict {
    /// Why it is refused about a key that stands so: the rules of all backends. `known`: the
    /// fingerprint of the request is given, for the import of an absent key.
    pub(crate) fn refusal(self, now: Standing, force: bool, known: bool) -> Option<StoreError> {
        use Standing::*;
        let state = match (self, now) {
            (_, InFlight) if !force => return Some(StoreError::NeedsForce { state: "in flight" }),
            (Verdict::Complete, Completed) => return Some(StoreError::AlreadyCompleted),
            (Verdict::Complete, Absent) if known => return None,
            (Verdict::Complete, Absent) => "absent, and an import needs the request's fingerprint",
            (_, Absent) => "absent",
            (Verdict::Replace, InFlight | Interrupted) => "not completed",
            (Verdict::Free, Completed) => "completed",
            (Verdict::Forget, Completed) if !force => {
                return Some(StoreError::NeedsForce { state: "completed" });
            }
            _ => return None,
        };
        Some(StoreError::NotApplicable { state })
    }

    /// Whether a retry executes again after it.
    pub fn executes_again(self) -> bool {
        matches!(self, Verdict::Free | Verdict::Forget)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Complete => "complete",
            Verdict::Free => "free",
            Verdict::Forget => "forget",
            Verdict::Replace => "replace",
        })
    }
}

/// What became of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It was carried out.
    Done,
    /// It was refused or failed, for this reason.
    Refused(String),
    /// The process ended before the outcome was noted, or it is being carried out.
    Unknown,
}

/// The state of a key before a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WasState {
    /// A holder was working on it.
    InFlight,
    /// It was interrupted, for this reason.
    Interrupted(Reason),
    /// It was completed.
    Completed,
}

/// A key before a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Was {
    /// Its state.
    pub state: WasState,
    /// The fingerprint of its request.
    pub fingerprint: Fingerprint,
    /// The token of its last attempt, which the decision was about.
    pub token: Token,
    /// Attempts made.
    pub attempts: u32,
    /// The last checkpoint.
    pub checkpoint: Option<Vec<u8>>,
    /// The head of the record.
    pub head: Vec<u8>,
    /// The stored answer, or what a failed holder had left.
    pub answer: Option<Vec<u8>>,
}

/// A decision of an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Decision {
    /// Its number in this store, rising.
    pub number: u64,
    /// When it was taken, in milliseconds since 1970, by the store's time.
    pub at_ms: u64,
    /// Who decided; empty if nothing was said.
    pub actor: String,
    /// Why; empty if nothing was said.
    pub note: String,
    /// What was decided.
    pub verdict: Verdict,
    /// About which key.
    pub key: OwnedKey,
    /// What was there before.
    pub was: Was,
    /// The head of the answer that was given.
    pub head: Vec<u8>,
    /// The answer that was given.
    pub answer: Option<Vec<u8>>,
    /// What became of it.
    pub outcome: Outcome,
}
