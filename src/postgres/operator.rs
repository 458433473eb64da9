//! Looking at keys without claiming them, and an operator's decisions about them.

use super::{
    begin::first,
    inner::{Inner, millis},
    row::{Owner, Row, RowState, ms, stored},
    store::PostgresStore,
    tries::Backoff,
    trouble::DbError,
    write::check_lengths,
};
use crate::{
    engine::entries::{Entry, Filter, State},
    engine::resolve::Resolution,
    error::{BeginError, ClaimError},
    key::{KeyRef, OwnedKey},
    options::check_retention,
    record::Retention,
    spi::{Completion, Found},
    store::sharded::slot_of,
    token::Token,
};
use std::sync::Arc;

/// A page of a listing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Page {
    /// The keys that the filter wants, ordered by scope and key.
    pub entries: Vec<Entry>,
    /// The key after which the next page begins; `None` after the last page.
    pub next: Option<OwnedKey>,
}

/// An operator's decision, owned, for a task of its own.
enum Decision {
    Complete { head: Vec<u8>, response: Option<Vec<u8>>, retention: Option<Retention> },
    Free,
    Forget,
    Replace { head: Vec<u8>, response: Option<Vec<u8>> },
}

impl PostgresStore {
    /// Returns what is known of a key; `None` if it is absent. Claims and changes nothing.
    ///
    /// # Errors
    /// [`BeginError::Unavailable`] if no server answers before the deadline.
    pub async fn get(&self, key: KeyRef<'_>) -> Result<Option<Entry>, BeginError> {
        let (inner, key) = (self.inner().clone(), key.owned());
        let got = async move {
            let mut tries = inner.tries();
            loop {
                match inner.look(&tries, key.as_ref()).await {
                    Ok(row) => return Ok(row.and_then(|row| entry(row, key))),
                    Err(trouble) => tries.again(trouble).await?,
                }
            }
        };
        self.spawn(got).await
    }

    /// Lists the keys that `filter` wants, after `after` (`None`: from the first), out of at most
    /// `rows` rows of the table. A key that exists throughout a listing is listed exactly once,
    /// as it is when its page is read.
    ///
    /// # Errors
    /// [`BeginError::Unavailable`] if no server answers before the deadline.
    pub async fn entries(
        &self,
        filter: Filter,
        after: Option<OwnedKey>,
        rows: u32,
    ) -> Result<Page, BeginError> {
        let inner = self.inner().clone();
        let listed = async move {
            let (mut tries, rows) = (inner.tries(), i64::from(rows.max(1)));
            let (scope, key) =
                after.as_ref().map_or((&[][..], &[][..]), |after| (after.scope(), after.key()));
            loop {
                match inner.query(&tries, &inner.sql.list, &[&scope, &key, &rows]).await {
                    Ok(found) => return page(&found, &filter, rows),
                    Err(trouble) => tries.again(trouble).await?,
                }
            }
        };
        self.spawn(listed).await
    }

    /// Records an operator's decision about a key, under a new token: a holder is fenced, and
    /// waiters are woken. It is committed when this returns.
    ///
    /// `force` is needed for a key in flight, and to forget a completed one.
    ///
    /// # Errors
    /// [`ClaimError::NeedsForce`], [`ClaimError::NotApplicable`] or
    /// [`ClaimError::AlreadyCompleted`] if the decision doesn't fit the key's state;
    /// [`ClaimError::ResponseTooLarge`] or [`ClaimError::TooLong`] for a response that can't be
    /// stored; [`ClaimError::Unavailable`] if no server answers before the deadline.
    pub async fn resolve(
        &self,
        key: KeyRef<'_>,
        resolution: Resolution<'_>,
        force: bool,
    ) -> Result<(), ClaimError> {
        self.resolve_if(key, resolution, force, None).await
    }

    /// The same, if the key is still as it was when it was looked at: under the token `seen`, which
    /// every attempt and every decision changes. So a decision about one attempt is not taken for
    /// another one, which has begun meanwhile.
    ///
    /// # Errors
    /// As with [`resolve`](Self::resolve), and [`ClaimError::NotApplicable`] if the key has another
    /// token by now, or is absent.
    pub async fn resolve_seen(
        &self,
        key: KeyRef<'_>,
        resolution: Resolution<'_>,
        force: bool,
        seen: Token,
    ) -> Result<(), ClaimError> {
        self.resolve_if(key, resolution, force, Some(seen)).await
    }

    async fn resolve_if(
        &self,
        key: KeyRef<'_>,
        resolution: Resolution<'_>,
        force: bool,
        seen: Option<Token>,
    ) -> Result<(), ClaimError> {
        let (decision, fingerprint) = match resolution {
            Resolution::Complete { fingerprint, completion } => {
                let Completion { head, response, retention } = completion;
                let limit = self.inner().options.max_response;
                check_lengths(head, response.unwrap_or_default(), limit)?;
                let (head, response) = (head.to_vec(), response.map(<[u8]>::to_vec));
                (Decision::Complete { head, response, retention }, fingerprint)
            }
            Resolution::Free => (Decision::Free, None),
            Resolution::Forget => (Decision::Forget, None),
            Resolution::Replace { head, response } => {
                let limit = self.inner().options.max_response;
                check_lengths(head, response.unwrap_or_default(), limit)?;
                let response = response.map(<[u8]>::to_vec);
                (Decision::Replace { head: head.to_vec(), response }, None)
            }
        };
        let (inner, key) = (self.inner().clone(), key.owned());
        let fingerprint = fingerprint.map(|print| stored(&print).to_vec());
        let decided = async move {
            let (owner, mut tries) = (Owner::new(), inner.tries());
            loop {
                let case = Case { key: &key, decision: &decision, owner, seen };
                match inner.try_resolve(&tries, &case, fingerprint.as_deref(), force).await {
                    Ok(answer) => {
                        inner.confirm(&mut tries).await?;
                        inner.told(&key);
                        return answer;
                    }
                    Err(trouble) => tries.again(trouble).await?,
                }
            }
        };
        self.spawn(decided).await
    }
}

/// One decision about one key.
struct Case<'a> {
    key: &'a OwnedKey,
    decision: &'a Decision,
    owner: Owner,
    /// The token under which it was looked at.
    seen: Option<Token>,
}

impl Inner {
    /// One try: reads the key, decides, and writes what was decided if the key is still the same.
    async fn try_resolve(
        &self,
        tries: &Backoff,
        case: &Case<'_>,
        fingerprint: Option<&[u8]>,
        force: bool,
    ) -> Result<Result<(), ClaimError>, DbError> {
        let row = self.look(tries, case.key.as_ref()).await?;
        if row.as_ref().is_some_and(|row| row.is_by(case.owner)) {
            // An earlier try of this call did it.
            return Ok(Ok(()));
        }
        let says = row.as_ref().map_or(RowState::Absent, Row::says);
        let refused = |error| Ok(Err(error));
        if let Some(seen) = case.seen {
            let state = match (&says, row.as_ref().and_then(Row::token)) {
                (RowState::Absent, _) | (_, None) => Some("absent"),
                (_, Some(token)) if token == seen => None,
                _ => Some("not what it was when it was looked at"),
            };
            if let Some(state) = state {
                return refused(ClaimError::NotApplicable { state });
            }
        }
        match (case.decision, says) {
            (_, RowState::Held) if !force => refused(ClaimError::NeedsForce { state: "in flight" }),
            (Decision::Complete { .. }, RowState::Completed) => {
                refused(ClaimError::AlreadyCompleted)
            }
            (Decision::Complete { .. }, RowState::Absent) => match fingerprint {
                None => {
                    let state = "absent, and an import needs the request's fingerprint";
                    refused(ClaimError::NotApplicable { state })
                }
                Some(fingerprint) => self.decide(tries, case, None, fingerprint).await,
            },
            (Decision::Complete { .. }, _) => {
                let row = row.expect("not absent");
                let fingerprint = row.fingerprint.clone();
                self.decide(tries, case, Some(&row), &fingerprint).await
            }
            (_, RowState::Absent) => refused(ClaimError::NotApplicable { state: "absent" }),
            (Decision::Replace { head, response }, RowState::Completed) => {
                let row = row.expect("not absent");
                if response.is_some() && row.replay_until <= row.now {
                    let state = "completed, and its answer is not replayed any more";
                    return refused(ClaimError::NotApplicable { state });
                }
                let (scope, key) = (case.key.scope(), case.key.key());
                let (token, owner) = (row.token, case.owner.0.to_vec());
                let params: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
                    [&scope, &key, &token, &owner, head, response];
                changed(self.execute(tries, &self.sql.replace, &params).await?)
            }
            (Decision::Replace { .. }, _) => {
                refused(ClaimError::NotApplicable { state: "not completed" })
            }
            (Decision::Free, RowState::Completed) => {
                refused(ClaimError::NotApplicable { state: "completed" })
            }
            (Decision::Forget, RowState::Completed) if !force => {
                refused(ClaimError::NeedsForce { state: "completed" })
            }
            _ => {
                let row = row.expect("not absent");
                let (scope, key) = (case.key.scope(), case.key.key());
                let (token, owner) = (row.token, case.owner.0.to_vec());
                let params: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
                    [&scope, &key, &token, &owner];
                changed(self.execute(tries, &self.sql.free, &params).await?)
            }
        }
    }

    /// Completes a key, or imports an absent one.
    async fn decide(
        &self,
        tries: &Backoff,
        case: &Case<'_>,
        row: Option<&Row>,
        fingerprint: &[u8],
    ) -> Result<Result<(), ClaimError>, DbError> {
        let Decision::Complete { head, response, retention } = case.decision else {
            unreachable!("what completes is a completion")
        };
        let own = row.map(|row| Retention {
            replay_for: ms(row.replay_ms),
            remember_for: ms(row.remember_ms),
        });
        let retention = retention.or(own).unwrap_or(self.options.retention);
        if let Err(what) = check_retention(retention, 1) {
            return Ok(Err(ClaimError::Terms { what }));
        }
        let (replay, remember) = (millis(retention.replay_for), millis(retention.remember_for));
        let (scope, key) = (case.key.scope(), case.key.key());
        let owner = case.owner.0.to_vec();
        let done = match row {
            Some(Row { token, .. }) => {
                let params: [&(dyn tokio_postgres::types::ToSql + Sync); 8] =
                    [&scope, &key, token, &owner, head, response, &replay, &remember];
                self.execute(tries, &self.sql.decide, &params).await?
            }
            None => {
                let slot = slot_of(case.key.as_ref()) as i16;
                let params: [&(dyn tokio_postgres::types::ToSql + Sync); 9] =
                    [&scope, &key, &owner, &fingerprint, head, response, &replay, &remember, &slot];
                self.execute(tries, &self.sql.import, &params).await?
            }
        };
        changed(done)
    }
}

impl Inner {
    /// The state of a key as a `begin` would find it.
    pub async fn find(&self, key: OwnedKey) -> Result<Option<Found>, BeginError> {
        let mut tries = self.tries();
        loop {
            match self.look(&tries, key.as_ref()).await {
                Ok(row) => {
                    return Ok(row.and_then(|row| {
                        let now = u64::try_from(row.now).unwrap_or(0);
                        entry(row, key).map(|entry| entry.found(now))
                    }));
                }
                Err(trouble) => tries.again(trouble).await?,
            }
        }
    }
}

/// A statement that changed nothing found another key than was read.
fn changed(rows: u64) -> Result<Result<(), ClaimError>, DbError> {
    match rows {
        0 => Err(DbError::Again("the key changed while it was decided".into())),
        _ => Ok(Ok(())),
    }
}

fn page(rows: &[tokio_postgres::Row], filter: &Filter, most: i64) -> Result<Page, BeginError> {
    let bad = |error: tokio_postgres::Error| BeginError::Unavailable { what: error.to_string() };
    let mut entries = Vec::new();
    let mut last = None;
    for listed in rows {
        let (scope, key): (&[u8], &[u8]) =
            (listed.try_get(25).map_err(bad)?, listed.try_get(26).map_err(bad)?);
        let key = KeyRef::from_parts(scope, key);
        let key = key.map_err(|error| BeginError::Unavailable { what: error.to_string() })?;
        let row = first(std::slice::from_ref(listed))?.expect("there is one");
        entries.extend(entry(row, key.owned()).filter(|entry| filter.wants(&entry.state)));
        last = Some(key.owned());
    }
    let next = last.filter(|_| rows.len() as i64 == most);
    Ok(Page { entries, next })
}

/// The state of a row's key as others see it; `None`: the key is absent.
fn entry(row: Row, key: OwnedKey) -> Option<Entry> {
    let token = row.token()?;
    let attempts = u32::try_from(row.attempt).unwrap_or(0);
    let fingerprint = row.fingerprint();
    let at = |ms: i64| u64::try_from(ms).unwrap_or(0);
    let state = match row.says() {
        RowState::Absent => return None,
        RowState::Completed => State::Completed(row.record(token)),
        RowState::Held => State::InFlight {
            running_for: row.running_for(),
            checkpoint: row.checkpoint.map(Arc::from),
        },
        RowState::Interrupted(reason) => State::Interrupted {
            reason,
            at: at(row.interrupted_at()),
            holder_gone: row.holder_gone(),
            checkpoint: row.checkpoint.map(Arc::from),
            answer: row.response.map(Arc::from),
        },
    };
    Some(Entry { key, fingerprint, token, attempts, state })
}
