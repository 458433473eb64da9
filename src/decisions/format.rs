//! The bytes of the entries: a decision as it is noted, and an outcome.

use super::{Decision, Outcome, Verdict, Was, WasState};
use crate::{fingerprint::Fingerprint, key::KeyRef, record::Reason, token::Token};

const NOTED: u8 = 1;
const OUTCOME: u8 = 2;
const ERASED: u8 = 3;

/// An entry, read.
pub(super) enum Entry {
    Noted(Box<Decision>),
    Outcome(u64, Outcome),
    /// There was a decision of this number.
    Erased(u64),
}

fn put(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            out.extend_from_slice(bytes);
        }
        None => out.extend_from_slice(&u32::MAX.to_le_bytes()),
    }
}

/// A decision before it is carried out.
pub(super) fn noted(decision: &Decision) -> Vec<u8> {
    let Decision { number, at_ms, actor, note, verdict, key, was, head, answer, .. } = decision;
    let mut out = vec![NOTED];
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&at_ms.to_le_bytes());
    let state = match was.state {
        WasState::InFlight => 0,
        WasState::Interrupted(reason) => reason as u8,
        WasState::Completed => u8::MAX,
    };
    out.extend_from_slice(&[*verdict as u8, state, was.fingerprint.scheme()]);
    out.extend_from_slice(&was.token.get().to_le_bytes());
    out.extend_from_slice(&was.attempts.to_le_bytes());
    out.extend_from_slice(was.fingerprint.as_bytes());
    for field in [key.scope(), key.key(), actor.as_bytes(), note.as_bytes(), &was.head, head] {
        put(&mut out, Some(field));
    }
    for field in [&was.checkpoint, &was.answer, answer] {
        put(&mut out, field.as_deref());
    }
    out
}

pub(super) fn outcome(number: u64, outcome: &Outcome) -> Vec<u8> {
    let mut out = vec![OUTCOME];
    out.extend_from_slice(&number.to_le_bytes());
    let (done, why) = match outcome {
        Outcome::Refused(why) => (0, why.as_str()),
        _ => (1, ""),
    };
    out.push(done);
    put(&mut out, Some(why.as_bytes()));
    out
}

/// What stands in the place of a decision that was erased: the numbers have no gap.
pub(super) fn erased(number: u64) -> Vec<u8> {
    let mut out = vec![ERASED];
    out.extend_from_slice(&number.to_le_bytes());
    out
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    /// `Some(None)`: there is a field, and it is none.
    fn field(&mut self) -> Option<Option<&'a [u8]>> {
        match self.u32()? {
            u32::MAX => Some(None),
            len => Some(Some(self.take(len as usize)?)),
        }
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        self.field()?
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }
}

/// `None` if the bytes are no entry.
pub(super) fn read(bytes: &[u8]) -> Option<Entry> {
    let mut from = Reader(bytes);
    match from.byte()? {
        NOTED => Some(Entry::Noted(Box::new(decision(&mut from)?))),
        ERASED => Some(Entry::Erased(from.u64()?)),
        OUTCOME => {
            let number = from.u64()?;
            let done = from.byte()? == 1;
            let why = from.text()?;
            Some(Entry::Outcome(number, if done { Outcome::Done } else { Outcome::Refused(why) }))
        }
        _ => None,
    }
}

fn decision(from: &mut Reader<'_>) -> Option<Decision> {
    let (number, at_ms) = (from.u64()?, from.u64()?);
    let verdict = match from.byte()? {
        1 => Verdict::Complete,
        2 => Verdict::Free,
        3 => Verdict::Forget,
        4 => Verdict::Replace,
        _ => return None,
    };
    let state = match from.byte()? {
        0 => WasState::InFlight,
        u8::MAX => WasState::Completed,
        reason => WasState::Interrupted(Reason::from_byte(reason)?),
    };
    let scheme = from.byte()?;
    let (token, attempts) = (Token::new(from.u64()?)?, from.u32()?);
    let print: [u8; 16] = from.take(16)?.try_into().ok()?;
    let fingerprint = Fingerprint::from_bytes(print).with_scheme(scheme);
    let key = KeyRef::from_parts(from.bytes()?, from.bytes()?).ok()?.owned();
    let (actor, note) = (from.text()?, from.text()?);
    let (was_head, head) = (from.bytes()?.to_vec(), from.bytes()?.to_vec());
    let mut own = || Some(from.field()?.map(<[u8]>::to_vec));
    let (checkpoint, was_answer, answer) = (own()?, own()?, own()?);
    let was =
        Was { state, fingerprint, token, attempts, checkpoint, head: was_head, answer: was_answer };
    let outcome = Outcome::Unknown;
    Some(Decision { number, at_ms, actor, note, verdict, key, was, head, answer, outcome })
}
