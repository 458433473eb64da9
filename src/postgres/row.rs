//! A row of the table, and the state of its key.

use super::{inner::GrantTerms, session::Life};
use crate::{
    fingerprint::Fingerprint,
    record::{Reason, Record, Retention},
    spi::{Found, Grant, Interruption, Request, Running, Ticket},
    token::Token,
};
use std::{sync::Arc, time::Duration};

/// Identifies the call that was granted a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Owner(pub [u8; 16]);

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
pub(super) fn stored(fingerprint: &Fingerprint) -> [u8; 17] {
    let mut bytes = [0; 17];
    bytes[0] = fingerprint.scheme();
    bytes[1..].copy_from_slice(fingerprint.as_bytes());
    bytes
}

/// Duration of so many milliseconds, none if negative.
pub(super) fn ms(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// The row of a key.
#[derive(Debug)]
pub(super) struct Row {
    pub state: i16,
    pub token: i64,
    pub owner: Vec<u8>,
    pub fingerprint: Vec<u8>,
    pub attempt: i32,
    reason: Option<i16>,
    after: Option<i16>,
    pub holder: bool,
    lease_ms: i64,
    pub replay_ms: i64,
    pub remember_ms: i64,
    reserve: i32,
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
    pub replaced: i32,
    /// Whether a silent holder lives, as far as known.
    pub life: Life,
}

/// The claim on a key that had no row, as its owner has just made it.
pub(super) fn first_grant(
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

/// The state that a row describes.
#[derive(Debug)]
pub(super) enum RowState {
    /// The row has expired or is released: the key is absent.
    Absent,
    Held,
    Interrupted(Reason),
    Completed,
}

impl Row {
    /// A row of the columns that the statements list.
    pub fn of(row: &tokio_postgres::Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Row {
            state: row.try_get(0)?,
            token: row.try_get(1)?,
            owner: row.try_get(2)?,
            fingerprint: row.try_get(3)?,
            attempt: row.try_get(4)?,
            reason: row.try_get(5)?,
            after: row.try_get(6)?,
            holder: row.try_get(7)?,
            lease_ms: row.try_get(8)?,
            replay_ms: row.try_get(9)?,
            remember_ms: row.try_get(10)?,
            reserve: row.try_get(11)?,
            started_at: row.try_get(12)?,
            lease_until: row.try_get(13)?,
            expires_at: row.try_get(14)?,
            ended_at: row.try_get(15)?,
            replay_until: row.try_get(16)?,
            checkpoint: row.try_get(17)?,
            head: row.try_get(18)?,
            response: row.try_get(19)?,
            step: row.try_get(20)?,
            now: row.try_get(21)?,
            granted: row.try_get(22)?,
            // The tens are what a granted claim has replaced.
            life: Life::of(row.try_get::<_, i32>(23)? % 10),
            replaced: row.try_get::<_, i32>(23)? / 10,
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
pub(super) fn print_of(bytes: &[u8]) -> Fingerprint {
    let (scheme, rest) = bytes.split_first().unwrap_or((&0, &[]));
    Fingerprint::from_bytes(rest.try_into().unwrap_or_default()).with_scheme(*scheme)
}

pub(super) fn reason(number: i16) -> Option<Reason> {
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
