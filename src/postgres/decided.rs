//! Operators' decisions, read again.

use super::{
    row::{print_of, reason},
    store::PostgresStore,
    terms::millis,
};
use crate::{
    decisions::{Decision, Outcome, Verdict, Was, WasState},
    error::StoreError,
    key::{KeyRef, OwnedKey},
    token::Token,
};

/// Which decisions are read.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    pub scope: Option<Vec<u8>>,
    pub key: Option<Vec<u8>>,
    pub prefix: Vec<u8>,
    /// Only those with smaller numbers.
    pub before: Option<i64>,
    pub limit: u32,
}

impl PostgresStore {
    /// Returns the decisions that operators have taken, about one key or about all, newest first, as
    /// far as they are kept: at most `limit`. Each was carried out; one that was refused is not
    /// kept. Imports of absent keys are not among them.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if no server answers before the deadline.
    pub async fn decisions(
        &self,
        key: Option<KeyRef<'_>>,
        limit: u32,
    ) -> Result<Vec<Decision>, StoreError> {
        let of = |name: fn(&KeyRef<'_>) -> Vec<u8>| key.as_ref().map(name);
        let (scope, key) = (of(|key| key.scope().to_vec()), of(|key| key.key().to_vec()));
        self.decided(Wanted { scope, key, limit, ..Wanted::default() }).await
    }

    pub(super) async fn decided(&self, wanted: Wanted) -> Result<Vec<Decision>, StoreError> {
        let inner = self.inner().clone();
        let read = async move {
            let (mut tries, limit) = (inner.tries(), i64::from(wanted.limit));
            let kept = millis(inner.options.decisions_kept);
            let Wanted { scope, key, prefix, before, .. } = wanted;
            loop {
                let params: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
                    [&scope, &key, &prefix, &kept, &limit, &before];
                match inner.query(&tries, &inner.sql.decisions, &params).await {
                    Ok(rows) => {
                        // A kind of a later version is passed over.
                        let decisions = rows.iter().map(decision).filter_map(Result::transpose);
                        return decisions
                            .collect::<Result<_, _>>()
                            .map_err(|error| StoreError::Unavailable { what: error.to_string() });
                    }
                    Err(trouble) => tries.again(trouble).await?,
                }
            }
        };
        self.spawn(read).await
    }
}

/// A row; `None` for what this version doesn't know.
fn decision(row: &tokio_postgres::Row) -> Result<Option<Decision>, tokio_postgres::Error> {
    let number: i64 = row.try_get(0)?;
    let (at_ms, token): (i64, i64) = (row.try_get(1)?, row.try_get(10)?);
    let verdict = match row.try_get::<_, i16>(4)? {
        1 => Verdict::Complete,
        2 => Verdict::Free,
        3 => Verdict::Forget,
        4 => Verdict::Replace,
        _ => return Ok(None),
    };
    let why: Option<i16> = row.try_get(8)?;
    let state = match row.try_get::<_, i16>(7)? {
        1 => WasState::InFlight,
        2 => match why.and_then(reason) {
            Some(reason) => WasState::Interrupted(reason),
            None => return Ok(None),
        },
        3 => WasState::Completed,
        _ => return Ok(None),
    };
    let token = u64::try_from(token).ok().and_then(Token::new);
    let (Some(token), Some(key)) = (token, key(row.try_get(5)?, row.try_get(6)?)) else {
        return Ok(None);
    };
    let bytes = |at| row.try_get::<_, Option<Vec<u8>>>(at);
    Ok(Some(Decision {
        number: u64::try_from(number).unwrap_or(0),
        at_ms: u64::try_from(at_ms).unwrap_or(0),
        actor: row.try_get(2)?,
        note: row.try_get(3)?,
        verdict,
        key,
        was: Was {
            state,
            fingerprint: print_of(row.try_get(9)?),
            token,
            attempts: u32::try_from(row.try_get::<_, i32>(11)?).unwrap_or(0),
            checkpoint: bytes(12)?,
            head: bytes(13)?.unwrap_or_default(),
            answer: bytes(14)?,
        },
        head: bytes(15)?.unwrap_or_default(),
        answer: bytes(16)?,
        outcome: Outcome::Done,
    }))
}

fn key(scope: &[u8], key: &[u8]) -> Option<OwnedKey> {
    KeyRef::from_parts(scope, key).ok().map(|key| key.owned())
}
