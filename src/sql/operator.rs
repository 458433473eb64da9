//! Looking at a key without claiming it, and an operator's decision about it.

use super::{
    connection::{Connection, Pool, SqlError, SqlErrorKind, Value},
    keys::Keys,
    op::check_lengths,
    row::{Owner, Row, RowState, ms, stored},
    store::{Inner, SqlStore, silent},
    terms::millis,
};
use crate::{
    engine::entries::{Entry, State},
    engine::resolve::{Resolution, ResolveOptions},
    error::{BeginError, StoreError},
    key::{KeyRef, OwnedKey},
    options::check_retention,
    record::Retention,
    spi::{Completion, Found},
    store::sharded::slot_of,
    token::Token,
};
use std::sync::Arc;
use tokio::time::timeout_at;

/// An operator's decision, owned, for a task of its own.
enum Decision {
    Complete {
        head: Vec<u8>,
        response: Option<Vec<u8>>,
        retention: Option<Retention>,
        fingerprint: Option<[u8; 17]>,
    },
    Free,
    Forget,
    Replace {
        head: Vec<u8>,
        response: Option<Vec<u8>>,
    },
}

impl Decision {
    fn of(resolution: Resolution<'_>, limit: usize) -> Result<Self, StoreError> {
        Ok(match resolution {
            Resolution::Complete { fingerprint, completion } => {
                let Completion { head, response, retention } = completion;
                check_lengths(head, response.unwrap_or_default(), limit)?;
                Decision::Complete {
                    head: head.to_vec(),
                    response: response.map(<[u8]>::to_vec),
                    retention,
                    fingerprint: fingerprint.map(|print| stored(&print)),
                }
            }
            Resolution::Free => Decision::Free,
            Resolution::Forget => Decision::Forget,
            Resolution::Replace { head, response } => {
                check_lengths(head, response.unwrap_or_default(), limit)?;
                let (head, response) = (head.to_vec(), response.map(<[u8]>::to_vec));
                Decision::Replace { head, response }
            }
        })
    }
}

impl<P: Pool> SqlStore<P> {
    /// Returns what is known of a key; `None` if it is absent. Claims and changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the database doesn't answer before the deadline.
    pub async fn get(&self, key: KeyRef<'_>) -> Result<Option<Entry>, StoreError> {
        let (inner, key) = (self.0.clone(), key.owned());
        let got = async move {
            let row = inner.look(&key).await?;
            Ok(row.and_then(|row| entry(row, key)))
        };
        self.0.behind.call(got).await
    }

    /// Records an operator's decision about a key, under a new token: a holder is fenced. It is
    /// committed when this returns. (It is not among the decisions that
    /// `PostgresStore` keeps for the operators: only it writes them.)
    ///
    /// A key in flight, and forgetting a completed one, needs [`ResolveOptions::force`].
    ///
    /// # Errors
    /// [`StoreError::NeedsForce`], [`StoreError::NotApplicable`] or
    /// [`StoreError::AlreadyCompleted`] if the decision doesn't fit the
    /// key's state; [`StoreError::ResponseTooLarge`] or [`StoreError::TooLong`] for a response that
    /// can't be stored; [`StoreError::Unavailable`] if the database doesn't answer before the
    /// deadline.
    pub async fn resolve(
        &self,
        key: KeyRef<'_>,
        resolution: Resolution<'_>,
    ) -> Result<(), StoreError> {
        self.resolve_with(key, resolution, ResolveOptions::new()).await
    }

    /// Resolves like [`resolve`](Self::resolve), forced or only if the key still has the token that
    /// was seen, which every attempt and every decision changes. Who decides is not kept.
    ///
    /// # Errors
    /// As with [`resolve`](Self::resolve), and [`StoreError::NotApplicable`] if the key has another
    /// token by now, or is absent.
    pub async fn resolve_with(
        &self,
        key: KeyRef<'_>,
        resolution: Resolution<'_>,
        ResolveOptions { force, seen, .. }: ResolveOptions<'_>,
    ) -> Result<(), StoreError> {
        let decision = Decision::of(resolution, self.0.table.bounds().max_response)?;
        let (inner, key) = (self.0.clone(), key.owned());
        let decided = async move {
            let (owner, mut tries) = (Owner::new(), inner.tries());
            let case = Case { key, decision, owner, force, seen };
            loop {
                let tried = async {
                    let mut connection = inner.connection(&tries).await?;
                    let tried = case.try_on(&inner.table, &mut *connection);
                    let tried = timeout_at(tries.until, tried).await;
                    let tried = tried.unwrap_or_else(|_| Err(silent()));
                    connection.keep_if(&tried);
                    tried
                };
                match tried.await {
                    Ok(answer) => return answer,
                    Err(error) => tries.again(error).await?,
                }
            }
        };
        self.0.behind.call(decided).await
    }
}

impl<P: Pool> Inner<P> {
    /// The state of a key as a `begin` would find it.
    pub async fn find(&self, key: OwnedKey) -> Result<Option<Found>, BeginError> {
        let row = self.look(&key).await?;
        Ok(row.and_then(|row| {
            let now = u64::try_from(row.now).unwrap_or(0);
            entry(row, key).map(|entry| entry.found(now))
        }))
    }
}

/// One decision about one key.
struct Case {
    key: OwnedKey,
    decision: Decision,
    owner: Owner,
    force: bool,
    /// The token under which it was looked at.
    seen: Option<Token>,
}

type Answer = Result<(), StoreError>;

impl Case {
    /// One try: reads the key, decides, and writes what was decided if the key is still the same.
    async fn try_on(
        &self,
        keys: &Keys,
        connection: &mut impl Connection,
    ) -> Result<Answer, SqlError> {
        let row = keys.row_by(connection, self.key.as_ref()).await?;
        if row.as_ref().is_some_and(|row| row.is_by(self.owner)) {
            // An earlier try of this call did it.
            return Ok(Ok(()));
        }
        let says = row.as_ref().map_or(RowState::Absent, Row::says);
        if let Err(refused) = self.fits(row.as_ref(), &says) {
            return Ok(Err(refused));
        }
        let sql = keys.sql();
        let (token, owner) = (row.as_ref().map_or(0, |row| row.token), self.owner.0);
        let mut params: Vec<Value<'_>> =
            vec![self.key.scope().into(), self.key.key().into(), token.into(), owner[..].into()];
        let sql = match &self.decision {
            Decision::Free | Decision::Forget => &sql.free,
            Decision::Replace { head, response } => {
                params.extend([head[..].into(), response.as_deref().into()]);
                &sql.replace
            }
            Decision::Complete { head, response, retention, fingerprint } => {
                let own = row.as_ref().filter(|_| !matches!(says, RowState::Absent));
                let own = own.map(|row| Retention {
                    replay_for: ms(row.replay_ms),
                    remember_for: ms(row.remember_ms),
                });
                let retention = retention.or(own).unwrap_or(keys.bounds().retention);
                if let Err(what) = check_retention(retention, 1) {
                    return Ok(Err(StoreError::Terms { what }));
                }
                let windows = [
                    head[..].into(),
                    response.as_deref().into(),
                    millis(retention.replay_for).into(),
                    millis(retention.remember_for).into(),
                ];
                let print = fingerprint.as_ref().map(|print| &print[..]);
                match (&row, says) {
                    // Its row is still there.
                    (Some(_), RowState::Absent) => {
                        params.extend(windows);
                        params.push(print.into());
                        &sql.import_over
                    }
                    (Some(_), _) => {
                        params.extend(windows);
                        &sql.decide
                    }
                    (None, _) => {
                        params.truncate(2);
                        params.extend([owner[..].into(), print.into()]);
                        params.extend(windows);
                        params.push(i64::from(slot_of(self.key.as_ref())).into());
                        &sql.import
                    }
                }
            }
        };
        match keys.change_by(connection, sql, &params).await? {
            true => Ok(Ok(())),
            false => Err(changed()),
        }
    }

    /// Whether the decision fits the key's state.
    fn fits(&self, row: Option<&Row>, says: &RowState) -> Answer {
        let not = |state| Err(StoreError::NotApplicable { state });
        if let Some(seen) = self.seen {
            match (says, row.and_then(Row::token)) {
                (RowState::Absent, _) | (_, None) => return not("absent"),
                (_, Some(token)) if token == seen => {}
                _ => return not("not what it was when it was looked at"),
            }
        }
        match (&self.decision, says) {
            (_, RowState::Held) if !self.force => {
                Err(StoreError::NeedsForce { state: "in flight" })
            }
            (Decision::Complete { .. }, RowState::Completed) => Err(StoreError::AlreadyCompleted),
            (Decision::Complete { fingerprint: None, .. }, RowState::Absent) => {
                not("absent, and an import needs the request's fingerprint")
            }
            (Decision::Complete { .. }, _) => Ok(()),
            (_, RowState::Absent) => not("absent"),
            (Decision::Replace { response, .. }, RowState::Completed) => {
                match row.is_some_and(|row| row.replay_until <= row.now) && response.is_some() {
                    true => not("completed, and its answer is not replayed any more"),
                    false => Ok(()),
                }
            }
            (Decision::Replace { .. }, _) => not("not completed"),
            (Decision::Free, RowState::Completed) => not("completed"),
            (Decision::Forget, RowState::Completed) if !self.force => {
                Err(StoreError::NeedsForce { state: "completed" })
            }
            _ => Ok(()),
        }
    }
}

fn changed() -> SqlError {
    SqlError::new(SqlErrorKind::Again, "the key changed while it was decided")
}

/// The state of a row's key as others see it; `None`: the key is absent.
pub(crate) fn entry(row: Row, key: OwnedKey) -> Option<Entry> {
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
