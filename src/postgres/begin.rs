//! `begin`: claims a key, takes it over, or returns its state.

use super::{
    inner::{GrantTerms, Inner},
    row::{Owner, Row, first_grant, stored},
    tries::Backoff,
    trouble::DbError,
};
use crate::{
    error::BeginError,
    spi::{Abandon, Found, Interruption, Request, Running},
    store::sharded::slot_of,
    token::Token,
};
use std::{sync::Arc, time::Duration};

/// The answer to a `begin` until its caller has it. If the caller is gone, a granted claim is
/// undone, because its attempt did nothing.
pub(super) struct Delivery {
    inner: Arc<Inner>,
    found: Option<Found>,
}

impl Delivery {
    pub fn new(inner: &Arc<Inner>, found: Found) -> Self {
        Delivery { inner: inner.clone(), found: Some(found) }
    }

    pub fn arrived(mut self) -> Found {
        self.found.take().expect("taken once, here")
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(Found::Granted(grant)) = self.found.take() {
            self.inner.abandon(&grant.ticket, Abandon::Undelivered);
        }
    }
}

impl Inner {
    /// Begins, or takes over what was seen.
    pub async fn begin(
        self: &Arc<Self>,
        request: &Request,
        seen: Option<Token>,
    ) -> Result<Found, BeginError> {
        let terms = self.resolve(&request.terms)?;
        let mut owner = Owner::new();
        let mut tries = self.tries();
        let mut taking = seen;
        let mut fresh = seen.is_none();
        loop {
            if fresh {
                match self.try_claim(&tries, request, &terms, owner).await {
                    Ok(Some(found)) => return self.answer(request, found, seen),
                    // The key has a row: read its state.
                    Ok(None) => match self.look(&tries, request.key.as_ref()).await {
                        Ok(row) => {
                            if let Some(found) = row.and_then(|row| row.found(request, owner)) {
                                return self.answer(request, found, seen);
                            }
                            fresh = false;
                        }
                        Err(trouble) => tries.again(trouble).await?,
                    },
                    Err(DbError::Locked) if !tries.unknown => {
                        match self.locked(&tries, request, owner).await {
                            Ok(found) => return self.answer(request, found, seen),
                            Err(trouble) => tries.again(trouble).await?,
                        }
                    }
                    Err(trouble) => tries.again(trouble).await?,
                }
                continue;
            }
            let trouble = match self.try_begin(&tries, request, &terms, owner, taking).await {
                // The key is no longer as it was seen: read its present state.
                Ok(None) if taking.take().is_some() => continue,
                Ok(None) => DbError::Again("the key changed while it was asked for".into()),
                Ok(Some(row)) => {
                    let ended = row.is_by(owner) && row.state != 1;
                    if let Some(found) = row.found(request, owner) {
                        return self.answer(request, found, seen);
                    }
                    if ended {
                        // An operator has freed the claim that an earlier try was granted.
                        owner = Owner::new();
                    }
                    DbError::Again("the key changed while it was asked for".into())
                }
                // An earlier try of this call may hold the lock: wait for its end.
                Err(DbError::Locked) if !tries.unknown => {
                    match self.locked(&tries, request, owner).await {
                        Ok(found) => return self.answer(request, found, seen),
                        Err(trouble) => trouble,
                    }
                }
                Err(trouble) => trouble,
            };
            tries.again(trouble).await?;
        }
    }

    fn answer(
        self: &Arc<Self>,
        request: &Request,
        mut found: Found,
        seen: Option<Token>,
    ) -> Result<Found, BeginError> {
        match &mut found {
            Found::Interrupted(stuck)
                if seen == Some(stuck.token) && stuck.attempts >= self.options.max_attempts =>
            {
                exhausted(stuck);
                return Err(BeginError::AttemptsExhausted { attempts: stuck.attempts });
            }
            Found::Interrupted(stuck) => stuck.settle_after = self.unsure.rest(&request.key),
            Found::Granted(grant) if request.terms.keep_alive => self.keep_alive(&grant.ticket),
            _ => {}
        }
        Ok(found)
    }

    /// The first try at a key, which most probably has no row.
    async fn try_claim(
        &self,
        tries: &Backoff,
        request: &Request,
        terms: &GrantTerms,
        owner: Owner,
    ) -> Result<Option<Found>, DbError> {
        let ask = Ask::new(request, terms, owner, None, 0);
        let rows = self.query(tries, &self.sql.claim, &ask.to_begin()).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let token = row.try_get(0).map_err(|error| DbError::Refused(error.to_string()))?;
        Ok(first_grant(token, request, owner, terms).map(Found::Granted))
    }

    async fn try_begin(
        &self,
        tries: &Backoff,
        request: &Request,
        terms: &GrantTerms,
        owner: Owner,
        taking: Option<Token>,
    ) -> Result<Option<Row>, DbError> {
        let ask = Ask::new(request, terms, owner, taking, self.options.max_attempts);
        let rows = match taking {
            None => self.query(tries, &self.sql.begin, &ask.to_begin()).await?,
            Some(_) => self.query(tries, &self.sql.take_over, &ask.to_take_over()).await?,
        };
        first(&rows)
    }

    /// Another transaction has locked the key.
    async fn locked(
        &self,
        tries: &Backoff,
        request: &Request,
        owner: Owner,
    ) -> Result<Found, DbError> {
        let row = self.look(tries, request.key.as_ref()).await?;
        Ok(row.and_then(|row| row.found(request, owner)).unwrap_or_else(hidden))
    }
}

/// Only an operator can go on.
pub(super) fn exhausted(stuck: &Interruption) {
    tracing::error!(
        token = stuck.token.get(),
        attempts = stuck.attempts,
        "all attempts at a key were interrupted: only an operator can go on"
    );
}

/// In flight, in a transaction that can't be read from outside.
pub(super) fn hidden() -> Found {
    Found::InFlight(Running { token: hidden_token(), running_for: Duration::ZERO })
}

/// Stands for the token of an attempt that can't be seen from outside.
pub(super) fn hidden_token() -> Token {
    Token::new(1).expect("1 is a token")
}

/// The row that a statement returned.
pub(super) fn first(rows: &[tokio_postgres::Row]) -> Result<Option<Row>, DbError> {
    rows.first().map(Row::of).transpose().map_err(|error| DbError::Refused(error.to_string()))
}

/// The parameters of the statements that can grant a claim.
pub(super) struct Ask<'a> {
    scope: &'a [u8],
    key: &'a [u8],
    owner: Vec<u8>,
    fingerprint: Vec<u8>,
    terms: GrantTerms,
    slot: i16,
    seen: i64,
    attempts: i32,
}

impl<'a> Ask<'a> {
    pub fn new(
        request: &'a Request,
        terms: &GrantTerms,
        owner: Owner,
        seen: Option<Token>,
        attempts: u32,
    ) -> Self {
        Ask {
            scope: request.key.scope(),
            key: request.key.key(),
            owner: owner.0.to_vec(),
            fingerprint: stored(&request.fingerprint).to_vec(),
            terms: *terms,
            slot: slot_of(request.key.as_ref()) as i16,
            seen: seen.map_or(0, |token| token.get() as i64),
            attempts: i32::try_from(attempts).unwrap_or(i32::MAX),
        }
    }

    pub fn to_begin(&self) -> [&(dyn tokio_postgres::types::ToSql + Sync); 10] {
        let GrantTerms { lease, replay, remember, keep, reserve } = &self.terms;
        let Ask { scope, key, owner, fingerprint, slot, .. } = self;
        [scope, key, owner, fingerprint, lease, replay, remember, keep, reserve, slot]
    }

    pub fn to_take_over(&self) -> [&(dyn tokio_postgres::types::ToSql + Sync); 6] {
        let Ask { scope, key, owner, fingerprint, seen, attempts, .. } = self;
        [scope, key, owner, fingerprint, seen, attempts]
    }
}
