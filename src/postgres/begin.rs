//! `begin`: claims a key, takes it over, or returns its state.

use super::{
    crowd::hash,
    inner::Inner,
    row::{Life, Owner, Row, first_grant, stored},
    terms::GrantTerms,
    tries::Backoff,
    trouble::DbError,
};
use crate::{
    error::BeginError,
    spi::{Abandon, Found, Request, Running},
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
        if let Some(running) = self.here.running(&request.key) {
            self.check_open()?;
            return self.counting.found(&request.key, Ok(Found::InFlight(running)));
        }
        let mut tries = self.tries();
        let mut asking = Asking { request, terms, owner: Owner::new(), undoing: false };
        let found = match self.begin_by(&mut tries, &mut asking, seen).await {
            Ok(found) => self.answer(request, found, seen),
            Err(trouble) => {
                if tries.unknown {
                    self.undo_by(request, &asking, seen);
                }
                Err(trouble.into())
            }
        };
        self.counting.found(&request.key, found)
    }

    /// Undoes the claim that may exist, or come to exist, by tries of a call that has given up. The
    /// same call is repeated until it has an answer: if that is the claim, the claim is undone, and
    /// the row that stays refuses a try that arrives later.
    fn undo_by(self: &Arc<Self>, request: &Request, asking: &Asking<'_>, seen: Option<Token>) {
        let (request, terms, owner) = (request.clone(), asking.terms, asking.owner);
        self.end_for_sure(None, move |inner| {
            let request = request.clone();
            async move {
                let mut asking = Asking { request: &request, terms, owner, undoing: true };
                let mut tries = inner.tries();
                // An earlier try may hold the key's lock.
                tries.unknown = true;
                match inner.begin_by(&mut tries, &mut asking, seen).await {
                    Ok(Found::Granted(grant)) => inner.undo(&grant.ticket).await,
                    Ok(_) => true,
                    Err(trouble) => !trouble.may_pass(),
                }
            }
        });
    }

    async fn begin_by(
        &self,
        tries: &mut Backoff,
        asking: &mut Asking<'_>,
        seen: Option<Token>,
    ) -> Result<Found, DbError> {
        let request = asking.request;
        let hash = hash(request.key.as_ref());
        let mut patience = self.crowds.patience(hash, self.options.lock_timeout);
        let mut taking = seen;
        let mut fresh = seen.is_none();
        loop {
            if !patience.turn().await && !tries.unknown {
                return self.locked(tries, asking).await;
            }
            let trouble = match self.try_any(tries, asking, taking, &mut fresh).await {
                Ok(Some(found)) => {
                    if let Found::Granted(_) = found {
                        self.confirm(tries).await?;
                    }
                    return Ok(found);
                }
                // The key is no longer as it was seen: its present state is read.
                Ok(None) if taking.take().is_some() => continue,
                Ok(None) => DbError::Again("the key changed while it was asked for".into()),
                // An earlier try of this call may hold the lock: its end is waited for.
                Err(DbError::Locked) if !tries.unknown => {
                    if patience.locked().await {
                        continue;
                    }
                    match self.locked(tries, asking).await {
                        Ok(found) => return Ok(found),
                        Err(trouble) => trouble,
                    }
                }
                Err(trouble) => trouble,
            };
            tries.again(trouble).await?;
        }
    }

    /// One try. `fresh`: the key most probably has no row.
    async fn try_any(
        &self,
        tries: &Backoff,
        asking: &mut Asking<'_>,
        taking: Option<Token>,
        fresh: &mut bool,
    ) -> Result<Option<Found>, DbError> {
        let Asking { request, owner, .. } = *asking;
        if *fresh {
            if let Some(found) = self.try_claim(tries, asking).await? {
                return Ok(Some(found));
            }
            // The key has a row: its state is read, and if it is absent it is begun.
            let row = self.look(tries, request.key.as_ref()).await?;
            if let Some(found) = row.and_then(|row| row.found(request, owner)) {
                return Ok(Some(found));
            }
            *fresh = false;
        }
        let Some(row) = self.try_begin(tries, asking, taking).await? else { return Ok(None) };
        if row.granted {
            self.counting.replaced(&request.key, row.replaced, row.token());
        }
        let ended = row.is_by(owner) && row.state != 1;
        let found = row.found(request, owner);
        if found.is_none() && ended {
            if asking.undoing {
                return Err(DbError::Refused("it is undone".into()));
            }
            // An operator has freed the claim that an earlier try was granted.
            asking.owner = Owner::new();
        }
        Ok(found)
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
        asking: &Asking<'_>,
    ) -> Result<Option<Found>, DbError> {
        let Asking { request, terms, owner, .. } = asking;
        let ask = Ask::new(request, terms, *owner, None, 0);
        let rows = self.query(tries, &self.sql.claim, &ask.to_begin()).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let token = row.try_get(0).map_err(|error| DbError::Refused(error.to_string()))?;
        Ok(first_grant(token, request, *owner, terms).map(Found::Granted))
    }

    async fn try_begin(
        &self,
        tries: &Backoff,
        asking: &Asking<'_>,
        taking: Option<Token>,
    ) -> Result<Option<Row>, DbError> {
        let Asking { request, terms, owner, .. } = asking;
        let ask = Ask::new(request, terms, *owner, taking, self.options.max_attempts);
        let rows = match taking {
            None => self.query(tries, &self.sql.begin, &ask.to_begin()).await?,
            Some(_) => self.query(tries, &self.sql.take_over, &ask.to_take_over()).await?,
        };
        first(&rows)
    }

    /// Another transaction has locked the key.
    async fn locked(&self, tries: &Backoff, asking: &Asking<'_>) -> Result<Found, DbError> {
        let Asking { request, owner, .. } = asking;
        let row = self.look(tries, request.key.as_ref()).await?;
        Ok(row.and_then(|row| row.found(request, *owner)).unwrap_or_else(hidden))
    }
}

/// What one call asks for.
struct Asking<'a> {
    request: &'a Request,
    terms: GrantTerms,
    owner: Owner,
    /// The claim is only wanted to be undone.
    undoing: bool,
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
    rows.first().map(row_of).transpose().map_err(|error| DbError::Refused(error.to_string()))
}

/// A row of the columns that the statements list.
fn row_of(row: &tokio_postgres::Row) -> Result<Row, tokio_postgres::Error> {
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
