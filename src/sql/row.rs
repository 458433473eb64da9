//! A row of the table, and the state of its key.

use super::{
    connection::{Kind, Value},
    terms::GrantTerms,
};
use crate::{
    fingerprint::Fingerprint,
    record::{Reason, Record, Retention},
    spi::{Found, Grant, Interruption, Request, Running, Ticket},
    token::Token,
};
use std::{sync::Arc, time::Duration};

/// Identifies the call that was granted a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Owner(pub [u8; 16]);

impl Owner {
    /// Makes a random owner, which no other call has.
    pub fn new() -> Self {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the system gives random bytes");
        Owner(bytes)
    }

    /// The owner in the form that a ticket carries.
    pub fn note(self) -> [u64; 2] {
        let (a, b) = self.0.split_at(8);
        [a, b].map(|half| u64::from_le_bytes(half.try_into().expect("eight bytes")))
    }

    pub fn of(ticket: &Ticket) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&ticket.note[0].to_le_bytes());
        bytes[8..].copy_from_slice(&ticket.note[1].to_le_bytes());
        Owner(bytes)
    }
}

/// A fingerprint as it is stored.
pub(crate) fn stored(fingerprint: &Fingerprint) -> [u8; 17] {
    let mut bytes = [0; 17];
    bytes[0] = fingerprint.scheme();
    bytes[1..].copy_from_slice(fingerprint.as_bytes());
    bytes
}

/// Duration of so many milliseconds, none if negative.
pub(crate) fn ms(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// The row of a key.
#[derive(Debug)]
pub(crate) struct Row {
    pub state: i16,
    pub token: i64,
    pub owner: Vec<u8>,
    pub fingerprint: Vec<u8>,
    pub attempt: i32,
    pub reason: Option<i16>,
    pub after: Option<i16>,
    pub holder: bool,
    pub lease_ms: i64,
    pub replay_ms: i64,
    pub remember_ms: i64,
    pub reserve: i32,
    pub started_at: i64,
    pub lease_until: i64,
    pub expires_at: i64,
    pub ended_at: i64,
    pub replay_until: i64,
    pub checkpoint: Option<Vec<u8>>,
    pub head: Option<Vec<u8>>,
    pub response: Option<Vec<u8>>,
    /// The number of the holder's last call.
    pub step: i64,
    /// When it was read, by the server's clock.
    pub now: i64,
    /// The statement granted the claim that it shows.
    pub granted: bool,
    /// The state of the expired row whose place it has taken; 0: there was none.
    #[cfg_attr(not(feature = "postgres"), allow(dead_code))]
    pub replaced: i32,
    /// Whether a silent holder lives, as far as known.
    pub life: Life,
}

/// The claim on a key that had no row, as its owner has just made it.
pub(crate) fn first_grant(
    token: i64,
    request: &Request,
    owner: Owner,
    terms: &GrantTerms,
) -> Option<Grant> {
    let ticket = Ticket {
        key: request.key.clone(),
        fingerprint: request.fingerprint,
        token: Token::new(u64::try_from(token).ok()?)?,
        attempt: 1,
        retention: Retention { replay_for: ms(terms.replay), remember_for: ms(terms.remember) },
        lease: ms(terms.lease),
        reserve: u32::try_from(terms.reserve).unwrap_or(0),
        note: owner.note(),
    };
    Some(Grant { ticket, checkpoint: None, after: None })
}

/// Whether the holder of an undecided key lives, as far as known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// Nothing, or its lease has not passed.
    Unknown,
    /// Its session lasts.
    Lives,
    /// Its session has ended.
    Gone,
}

impl Life {
    pub fn of(column: i32) -> Self {
        match column {
            1 => Life::Lives,
            2 => Life::Gone,
            _ => Life::Unknown,
        }
    }
}

/// The cells of a row, from the first.
struct Cells(std::vec::IntoIter<Value<'static>>);

impl Cells {
    fn maybe(&mut self) -> Option<Option<i64>> {
        match self.0.next()? {
            Value::Int(value) => Some(value),
            // Some libraries don't tell a null's type.
            Value::Bytes(None) | Value::Text(None) => Some(None),
            _ => None,
        }
    }

    fn int(&mut self) -> Option<i64> {
        self.maybe()?
    }

    fn blob(&mut self) -> Option<Option<Vec<u8>>> {
        match self.0.next()? {
            Value::Bytes(bytes) => Some(bytes.map(|bytes| bytes.into_owned())),
            Value::Int(None) | Value::Text(None) => Some(None),
            _ => None,
        }
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        self.blob()?
    }
}

/// What [`Row::of`] decodes, with what the statement says of it: the time, whether it granted the
/// claim, what is known of its holder.
pub(crate) const COLUMNS: [(&str, Kind); 21] = [
    ("state", Kind::Int),
    ("token", Kind::Int),
    ("owner", Kind::Bytes),
    ("fingerprint", Kind::Bytes),
    ("attempt", Kind::Int),
    ("reason", Kind::Int),
    ("after", Kind::Int),
    ("CASE WHEN holder THEN 1 ELSE 0 END", Kind::Int),
    ("lease_ms", Kind::Int),
    ("replay_ms", Kind::Int),
    ("remember_ms", Kind::Int),
    ("reserve", Kind::Int),
    ("started_at", Kind::Int),
    ("lease_until", Kind::Int),
    ("expires_at", Kind::Int),
    ("ended_at", Kind::Int),
    ("replay_until", Kind::Int),
    ("checkpoint", Kind::Bytes),
    ("head", Kind::Bytes),
    ("response", Kind::Bytes),
    ("step", Kind::Int),
];

/// The state that a row describes.
#[derive(Debug)]
pub(crate) enum RowState {
    /// The row has expired or is released: the key is absent.
    Absent,
    Held,
    Interrupted(Reason),
    Completed,
}

impl Row {
    /// A row of the columns that [`COLUMNS`] lists, and what the statement says of it.
    pub fn of(values: Vec<Value<'static>>) -> Option<Self> {
        let mut row = Cells(values.into_iter());
        Some(Row {
            state: row.int()? as i16,
            token: row.int()?,
            owner: row.bytes()?,
            fingerprint: row.bytes()?,
            attempt: row.int()? as i32,
            reason: row.maybe()?.map(|reason| reason as i16),
            after: row.maybe()?.map(|reason| reason as i16),
            holder: row.int()? != 0,
            lease_ms: row.int()?,
            replay_ms: row.int()?,
            remember_ms: row.int()?,
            reserve: row.int()? as i32,
            started_at: row.int()?,
            lease_until: row.int()?,
            expires_at: row.int()?,
            ended_at: row.int()?,
            replay_until: row.int()?,
            checkpoint: row.blob()?,
            head: row.blob()?,
            response: row.blob()?,
            step: row.int()?,
            now: row.int()?,
            granted: row.int()? != 0,
            life: Life::of(row.int()? as i32),
            replaced: 0,
        })
    }

    pub fn says(&self) -> RowState {
        match self.state {
            _ if self.expires_at <= self.now && self.life != Life::Lives => RowState::Absent,
            1 if self.lease_until > self.now => RowState::Held,
            1 => RowState::Interrupted(Reason::LeasePassed),
            2 => RowState::Interrupted(self.reason.and_then(reason).unwrap_or(Reason::Crashed)),
            3 => RowState::Completed,
            _ => RowState::Absent,
        }
    }

    /// No handle of the claim exists any more.
    pub fn holder_gone(&self) -> bool {
        !self.holder || self.life == Life::Gone
    }

    pub fn is_by(&self, owner: Owner) -> bool {
        self.owner == owner.0
    }

    /// It shows this claim.
    pub fn is_of(&self, ticket: &Ticket) -> bool {
        self.token == ticket.token.get() as i64 && self.is_by(Owner::of(ticket))
    }

    pub fn token(&self) -> Option<Token> {
        Token::new(u64::try_from(self.token).ok()?)
    }

    pub fn record(&self, token: Token) -> Record {
        let retained = self.now < self.replay_until;
        let response = self.response.as_deref().filter(|_| retained);
        let at = |ms: i64| u64::try_from(ms).unwrap_or(0);
        let head = self.head.as_deref().unwrap_or_default();
        Record::from_parts(token, head, response, at(self.ended_at), at(self.expires_at))
            .with_age(ms(self.now - self.ended_at))
    }

    pub fn running_for(&self) -> Duration {
        ms(self.now - self.started_at)
    }

    /// When the outcome became unknown.
    pub fn interrupted_at(&self) -> i64 {
        if self.state == 1 { self.lease_until } else { self.ended_at }
    }

    /// The attempt that this one has taken the place of.
    #[cfg(any(feature = "metrics", feature = "admin"))]
    #[cfg_attr(not(feature = "admin"), allow(dead_code))]
    pub fn earlier(self) -> Option<crate::operate::Earlier> {
        let reason = self.after.filter(|_| self.state == 1).and_then(reason)?;
        let attempt = u32::try_from(self.attempt).unwrap_or(1).saturating_sub(1);
        let at_ms = u64::try_from(self.replay_until).unwrap_or(0);
        Some(crate::operate::Earlier { attempt, reason, at_ms, answer: self.head })
    }

    /// The claim that the row shows, for its owner.
    pub fn grant(self, request: &Request, owner: Owner) -> Option<Grant> {
        let ticket = Ticket {
            key: request.key.clone(),
            fingerprint: request.fingerprint,
            token: self.token()?,
            attempt: u32::try_from(self.attempt).unwrap_or(1),
            retention: Retention {
                replay_for: ms(self.replay_ms),
                remember_for: ms(self.remember_ms),
            },
            lease: ms(self.lease_ms),
            reserve: u32::try_from(self.reserve).unwrap_or(0),
            note: owner.note(),
        };
        let after = self.after.and_then(reason);
        Some(Grant { ticket, checkpoint: self.checkpoint.map(Arc::from), after })
    }

    /// The fingerprint of the request that claimed the key first.
    pub fn fingerprint(&self) -> Fingerprint {
        print_of(&self.fingerprint)
    }

    /// The answer to a caller that asks for the key; `None`: the key is absent.
    pub fn found(self, request: &Request, owner: Owner) -> Option<Found> {
        let says = self.says();
        let is_ours = self.is_by(owner) && self.state == 1;
        if self.granted || (is_ours && !matches!(says, RowState::Absent)) {
            return self.grant(request, owner).map(Found::Granted);
        }
        if matches!(says, RowState::Absent) {
            return None;
        }
        if self.fingerprint != stored(&request.fingerprint) {
            let scheme = self.fingerprint.first().copied().unwrap_or(0);
            return Some(Found::Mismatch { scheme });
        }
        let token = self.token()?;
        Some(match says {
            RowState::Absent => return None,
            RowState::Held => Found::InFlight(Running { token, running_for: self.running_for() }),
            RowState::Completed => Found::Replay(self.record(token)),
            RowState::Interrupted(reason) => Found::Interrupted(Interruption {
                token,
                reason,
                holder_gone: self.holder_gone(),
                interrupted_for: ms(self.now - self.interrupted_at()),
                attempts: u32::try_from(self.attempt).unwrap_or(0),
                checkpoint: self.checkpoint.map(Arc::from),
                answer: self.response.map(Arc::from),
                settle_after: Duration::ZERO,
            }),
        })
    }
}

/// A fingerprint as it is stored.
pub(crate) fn print_of(bytes: &[u8]) -> Fingerprint {
    let (scheme, rest) = bytes.split_first().unwrap_or((&0, &[]));
    Fingerprint::from_bytes(rest.try_into().unwrap_or_default()).with_scheme(*scheme)
}

pub(crate) fn reason(number: i16) -> Option<Reason> {
    Reason::from_byte(u8::try_from(number).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{key::*, spi::Terms};

    #[test]
    fn an_owner_travels_in_a_ticket() {
        let owner = Owner([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
        let scope = Scope::global();
        let request = Request {
            key: KeyRef::new(&scope, "k").unwrap().owned(),
            fingerprint: Fingerprint::of(["a"]),
            terms: Terms::default(),
        };
        let row = Row { token: 7, granted: true, ..row() };
        let Some(Found::Granted(grant)) = row.found(&request, owner) else { panic!() };
        assert_eq!(Owner::of(&grant.ticket), owner);
        assert_eq!(grant.ticket.token.get(), 7);
    }

    fn row() -> Row {
        Row {
            state: 1,
            token: 1,
            owner: vec![],
            fingerprint: vec![],
            attempt: 1,
            reason: None,
            after: None,
            holder: true,
            lease_ms: 10,
            replay_ms: 100,
            remember_ms: 100,
            reserve: 10,
            started_at: 0,
            lease_until: 10,
            expires_at: 110,
            ended_at: 0,
            replay_until: 0,
            checkpoint: None,
            head: None,
            response: None,
            step: 0,
            now: 0,
            granted: false,
            replaced: 0,
            life: Life::Unknown,
        }
    }

    #[test]
    fn leases_and_retentions_end_at_their_first_instant() {
        assert!(matches!(Row { now: 9, ..row() }.says(), RowState::Held));
        let passed = Row { now: 10, ..row() }.says();
        assert!(matches!(passed, RowState::Interrupted(Reason::LeasePassed)));
        assert!(matches!(Row { now: 109, ..row() }.says(), RowState::Interrupted(_)));
        assert!(matches!(Row { now: 110, ..row() }.says(), RowState::Absent));
        assert!(matches!(Row { state: 3, now: 109, ..row() }.says(), RowState::Completed));
    }
}
