//! Looking at keys without claiming them, and an operator's decisions about them.

use super::{
    begin::first,
    inner::Inner,
    op::check_lengths,
    row::{Owner, Row, RowState, ms, stored},
    store::PostgresStore,
    terms::millis,
    tries::Backoff,
    trouble::DbError,
};
use crate::{
    decisions::{By, Standing, Verdict},
    engine::entries::{Entry, Filter},
    engine::resolve::{OTHER_TOKEN, Resolution, ResolveOptions},
    error::{BeginError, StoreError},
    inspect::Item,
    key::{KeyRef, OwnedKey},
    options::check_retention,
    record::Retention,
    spi::Found,
    store::sharded::slot_of,
    token::Token,
};
use tokio_postgres::types::ToSql;

pub(super) use crate::sql::operator::entry;

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
pub(super) struct Decision {
    what: What,
    /// Of the request, for an absent key.
    fingerprint: Option<Vec<u8>>,
    actor: String,
    note: String,
}

enum What {
    Complete { head: Vec<u8>, response: Option<Vec<u8>>, retention: Option<Retention> },
    Free,
    Forget,
    Replace { head: Vec<u8>, response: Option<Vec<u8>> },
}

impl PostgresStore {
    /// Returns what is known of a key; `None` if it is absent. Claims and changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if no server answers before the deadline.
    pub async fn get(&self, key: KeyRef<'_>) -> Result<Option<Entry>, StoreError> {
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
    /// [`StoreError::Unavailable`] if no server answers before the deadline.
    pub async fn entries(
        &self,
        filter: Filter,
        after: Option<OwnedKey>,
        rows: u32,
    ) -> Result<Page, StoreError> {
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

    /// The same with everything that the table has of each key, for the command's `export`.
    #[doc(hidden)]
    pub async fn items(
        &self,
        after: Option<OwnedKey>,
        rows: u32,
    ) -> Result<(Vec<Item>, Option<OwnedKey>), StoreError> {
        let inner = self.inner().clone();
        let listed = async move {
            let (mut tries, rows) = (inner.tries(), i64::from(rows.max(1)));
            let (scope, key) =
                after.as_ref().map_or((&[][..], &[][..]), |after| (after.scope(), after.key()));
            loop {
                match inner.query(&tries, &inner.sql.list, &[&scope, &key, &rows]).await {
                    Ok(found) => return items(&found, rows),
                    Err(trouble) => tries.again(trouble).await?,
                }
            }
        };
        self.spawn(listed).await
    }

    /// Records an operator's decision about a key, under a new token: a holder is fenced, and
    /// waiters are woken. It is committed when this returns.
    ///
    /// A key in flight, and forgetting a completed one, needs [`ResolveOptions::force`].
    ///
    /// # Errors
    /// [`StoreError::NeedsForce`], [`StoreError::NotApplicable`] or
    /// [`StoreError::AlreadyCompleted`] if the decision doesn't fit the
    /// key's state; [`StoreError::ResponseTooLarge`] or [`StoreError::TooLong`] for a response that
    /// can't be stored; [`StoreError::Unavailable`] if no server answers before the deadline.
    pub async fn resolve(
        &self,
        key: KeyRef<'_>,
        resolution: Resolution<'_>,
    ) -> Result<(), StoreError> {
        self.resolve_with(key, resolution, ResolveOptions::new()).await
    }

    /// Resolves like [`resolve`](Self::resolve): forced, only if the key still has the token that was
    /// seen, which every attempt and every decision changes, or with a name and a note. All
    /// decisions about keys that are there are kept, in the same statement as their effect. See
    /// [`decisions`](Self::decisions).
    ///
    /// # Errors
    /// As with [`resolve`](Self::resolve), and [`StoreError::NotApplicable`] if the key has another
    /// token by now, or is absent.
    pub async fn resolve_with(
        &self,
        key: KeyRef<'_>,
        resolution: Resolution<'_>,
        options: ResolveOptions<'_>,
    ) -> Result<(), StoreError> {
        let ResolveOptions { force, seen, by } = options;
        let decision = Decision::of(resolution, by, self.inner().options.max_response)?;
        self.carry_out(key.owned(), decision, force, seen).await
    }

    /// The same with what is decided owned.
    pub(super) async fn carry_out(
        &self,
        key: OwnedKey,
        decision: Decision,
        force: bool,
        seen: Option<Token>,
    ) -> Result<(), StoreError> {
        let inner = self.inner().clone();
        let decided = async move {
            let (owner, mut tries) = (Owner::new(), inner.tries());
            loop {
                let case = Case { key: &key, decision: &decision, owner, seen };
                match inner.try_resolve(&tries, &case, force).await {
                    Ok(answer) => {
                        inner.confirm(&mut tries).await?;
                        inner.told(&key);
                        inner.surveyed.forget_pages();
                        return answer;
                    }
                    Err(trouble) => tries.again(trouble).await?,
                }
            }
        };
        self.spawn(decided).await
    }
}

impl What {
    fn verdict(&self) -> Verdict {
        match self {
            What::Complete { .. } => Verdict::Complete,
            What::Free => Verdict::Free,
            What::Forget => Verdict::Forget,
            What::Replace { .. } => Verdict::Replace,
        }
    }
}

impl Decision {
    pub(super) fn of(
        resolution: Resolution<'_>,
        by: By<'_>,
        limit: usize,
    ) -> Result<Self, StoreError> {
        let checked = |head: &[u8], response: Option<&[u8]>| {
            check_lengths(head, response.unwrap_or_default(), limit)?;
            Ok::<_, StoreError>((head.to_vec(), response.map(<[u8]>::to_vec)))
        };
        let mut fingerprint = None;
        let verdict = match resolution {
            Resolution::Complete { fingerprint: print, completion } => {
                fingerprint = print.map(|print| stored(&print).to_vec());
                let (head, response) = checked(completion.head, completion.response)?;
                What::Complete { head, response, retention: completion.retention }
            }
            Resolution::Free => What::Free,
            Resolution::Forget => What::Forget,
            Resolution::Replace { head, response } => {
                let (head, response) = checked(head, response)?;
                What::Replace { head, response }
            }
        };
        // What PostgreSQL's text can't contain.
        let (actor, note) = by.kept();
        let [actor, note] = [actor, note].map(|text| text.replace('\0', "\u{fffd}"));
        Ok(Decision { what: verdict, fingerprint, actor, note })
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
        force: bool,
    ) -> Result<Result<(), StoreError>, DbError> {
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
                _ => Some(OTHER_TOKEN),
            };
            if let Some(state) = state {
                return refused(StoreError::NotApplicable { state });
            }
        }
        let (standing, known) = match &says {
            RowState::Absent => (Standing::Absent, case.decision.fingerprint.is_some()),
            RowState::Held => (Standing::InFlight, true),
            RowState::Interrupted(_) => (Standing::Interrupted, true),
            RowState::Completed => (Standing::Completed, true),
        };
        if let Some(refusal) = case.decision.what.verdict().refusal(standing, force, known) {
            return refused(refusal);
        }
        match (&case.decision.what, row) {
            (What::Complete { head, response, retention }, row) => {
                let own = row.as_ref().filter(|_| standing != Standing::Absent).map(|row| {
                    Retention { replay_for: ms(row.replay_ms), remember_for: ms(row.remember_ms) }
                });
                let retention = retention.or(own).unwrap_or(self.options.retention);
                if let Err(what) = check_retention(retention, 1) {
                    return refused(StoreError::Terms { what });
                }
                let (replay, remember) =
                    (millis(retention.replay_for), millis(retention.remember_for));
                let more: [&(dyn ToSql + Sync); 4] = [head, response, &replay, &remember];
                match row.filter(|_| standing != Standing::Absent) {
                    Some(row) => self.decide(tries, case, &row, &self.sql.decide, &more).await,
                    None => self.import(tries, case, &more).await,
                }
            }
            (What::Replace { head, response }, Some(row)) => {
                if response.is_some() && row.replay_until <= row.now {
                    let state = "completed, and its answer is not replayed any more";
                    return refused(StoreError::NotApplicable { state });
                }
                self.decide(tries, case, &row, &self.sql.replace, &[head, response]).await
            }
            (What::Free | What::Forget, Some(row)) => {
                let verdict = case.decision.what.verdict() as i16;
                self.decide(tries, case, &row, &self.sql.free, &[&verdict]).await
            }
            (_, None) => unreachable!("refused by the verdict's rules"),
        }
    }

    /// Completes an absent key.
    async fn import(
        &self,
        tries: &Backoff,
        case: &Case<'_>,
        more: &[&(dyn ToSql + Sync); 4],
    ) -> Result<Result<(), StoreError>, DbError> {
        let (scope, key) = (case.key.scope(), case.key.key());
        let (owner, slot) = (case.owner.0.to_vec(), slot_of(case.key.as_ref()) as i16);
        let print = &case.decision.fingerprint;
        let [head, response, replay, remember] = more;
        let params: [&(dyn ToSql + Sync); 9] =
            [&scope, &key, &owner, print, *head, *response, *replay, *remember, &slot];
        changed(self.execute(tries, &self.sql.import, &params).await?)
    }

    /// Changes the row that was read, and notes the decision.
    async fn decide(
        &self,
        tries: &Backoff,
        case: &Case<'_>,
        row: &Row,
        sql: &str,
        more: &[&(dyn ToSql + Sync)],
    ) -> Result<Result<(), StoreError>, DbError> {
        let (scope, key, owner) = (case.key.scope(), case.key.key(), case.owner.0.to_vec());
        let Decision { actor, note, .. } = case.decision;
        let mut params: Vec<&(dyn ToSql + Sync)> =
            vec![&scope, &key, &row.token, &owner, &row.state, &row.step, actor, note];
        params.extend_from_slice(more);
        changed(self.execute(tries, sql, &params).await?)
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
fn changed(rows: u64) -> Result<Result<(), StoreError>, DbError> {
    match rows {
        0 => Err(DbError::Again("the key changed while it was decided".into())),
        _ => Ok(Ok(())),
    }
}

fn page(rows: &[tokio_postgres::Row], filter: &Filter, most: i64) -> Result<Page, StoreError> {
    let mut entries = Vec::new();
    let mut last = None;
    for listed in rows {
        let (row, key) = listed_row(listed)?;
        last = Some(key.clone());
        entries.extend(entry(row, key).filter(|entry| filter.wants(&entry.state)));
    }
    let next = last.filter(|_| rows.len() as i64 == most);
    Ok(Page { entries, next })
}

fn items(
    rows: &[tokio_postgres::Row],
    most: i64,
) -> Result<(Vec<Item>, Option<OwnedKey>), StoreError> {
    let mut items = Vec::new();
    let mut last = None;
    for listed in rows {
        let (row, key) = listed_row(listed)?;
        last = Some(key.clone());
        let retention =
            Retention { replay_for: ms(row.replay_ms), remember_for: ms(row.remember_ms) };
        let at = if row.state == 3 { row.ended_at } else { row.started_at };
        let at_ms = u64::try_from(at).unwrap_or(0);
        items.extend(entry(row, key).map(|entry| Item {
            fingerprint: entry.fingerprint,
            entry,
            at_ms,
            retention,
        }));
    }
    Ok((items, last.filter(|_| rows.len() as i64 == most)))
}

/// A row of a listing, and its key.
pub(super) fn listed_row(listed: &tokio_postgres::Row) -> Result<(Row, OwnedKey), DbError> {
    let of = |error: tokio_postgres::Error| DbError::of(&error);
    let (scope, key): (&[u8], &[u8]) =
        (listed.try_get(25).map_err(of)?, listed.try_get(26).map_err(of)?);
    let key = KeyRef::from_parts(scope, key);
    let key = key.map_err(|error| DbError::Refused(error.to_string()))?;
    Ok((first(std::slice::from_ref(listed))?.expect("there is one"), key.owned()))
}
