//! `once` with answers that are values: stored as JSON. Feature `json`.

use crate::{
    record::Record,
    spi::IdempotencyStore,
    store::Store,
    store::async_store::AsyncStore,
    store::claim::Claim,
    store::once::{Once, OnceError, Outcome, Settle, SettleAsync, Settled, WorkError},
};
use serde::{Serialize, de::DeserializeOwned};

/// The answer to a request that took effect, as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answered<T> {
    /// The answer.
    pub value: T,
    /// The request was executed before.
    pub replayed: bool,
}

impl Settled {
    /// An earlier attempt took effect, and this value is its answer, for
    /// [`run_json`](Once::run_json).
    ///
    /// # Errors
    /// The value can't be written as JSON.
    pub fn happened_json<T: Serialize>(value: &T) -> Result<Self, serde_json::Error> {
        serde_json::to_vec(value).map(Settled::Happened)
    }
}

impl<F: Settle> Once<'_, Store, F> {
    /// Runs `work` like [`run`](Self::run), and stores its answer as JSON. A retry gets the value
    /// again, read from the JSON: a service that changes the type must still read what older
    /// versions of it have stored.
    ///
    /// ```
    /// # use onlyonce::{Fingerprint, KeyRef, OnceError, Scope, Store, WorkError};
    /// # let dir = tempfile::tempdir()?;
    /// # let store = Store::open(dir.path())?;
    /// #[derive(Debug)]
    /// enum Trouble {
    ///     Json(serde_json::Error),
    ///     Refused(OnceError<Store, Box<Trouble>>),
    /// }
    /// # impl From<serde_json::Error> for Box<Trouble> {
    /// #     fn from(error: serde_json::Error) -> Self { Box::new(Trouble::Json(error)) }
    /// # }
    /// # impl From<OnceError<Store, Box<Trouble>>> for Box<Trouble> {
    /// #     fn from(error: OnceError<Store, Box<Trouble>>) -> Self { Box::new(Trouble::Refused(error)) }
    /// # }
    /// # fn insert(_: &str) -> Result<u64, Box<Trouble>> { Ok(7) }
    /// fn order(store: &Store, key: KeyRef<'_>) -> Result<(String, u64), Box<Trouble>> {
    ///     let once = store.once(key, Fingerprint::of(["book"]));
    ///     let answer = once.run_json(|claim| {
    ///         let number = insert(&claim.derive_key("order"))?;
    ///         Ok::<_, WorkError<Box<Trouble>>>(("order".to_owned(), number))
    ///     })?;
    ///     Ok(answer.value)
    /// }
    /// let scope = Scope::of(["tenant-7"]);
    /// let key = KeyRef::new(&scope, "8e03978e")?;
    /// assert_eq!(order(&store, key).unwrap(), order(&store, key).unwrap());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As with [`run`](Self::run). [`OnceError::Unreadable`]: the request was executed, and its
    /// answer is not retained, or is no JSON of this type. An answer that can't be written as JSON
    /// is [`WorkError::Unknown`]: the work has run.
    pub fn run_json<T, E>(
        self,
        work: impl FnOnce(&mut Claim<Store>) -> Result<T, WorkError<E>>,
    ) -> Result<Answered<T>, OnceError<Store, E>>
    where
        T: Serialize + DeserializeOwned,
        E: From<serde_json::Error>,
    {
        let mut value = None;
        let ran = self.run(|claim| written(work(claim)?, &mut value))?;
        answered(ran, value)
    }
}

impl<S: IdempotencyStore, F: SettleAsync<S>> Once<'_, AsyncStore<S>, F> {
    /// Runs `work` like [`run`](Self::run), and stores its answer as JSON. A retry gets the value
    /// again, read from the JSON: a service that changes the type must still read what older
    /// versions of it have stored.
    ///
    /// # Errors
    /// As with [`run`](Self::run). [`OnceError::Unreadable`]: the request was executed, and its
    /// answer is not retained, or is no JSON of this type. An answer that can't be written as JSON
    /// is [`WorkError::Unknown`]: the work has run.
    pub async fn run_json<T, E>(
        self,
        work: impl AsyncFnOnce(&mut Claim<AsyncStore<S>>) -> Result<T, WorkError<E>>,
    ) -> Result<Answered<T>, OnceError<AsyncStore<S>, E>>
    where
        T: Serialize + DeserializeOwned,
        E: From<serde_json::Error>,
    {
        let mut value = None;
        let kept = &mut value;
        let ran = self.run(async move |claim| written(work(claim).await?, kept)).await?;
        answered(ran, value)
    }
}

/// The JSON of a value, which is kept.
fn written<T: Serialize, E: From<serde_json::Error>>(
    value: T,
    kept: &mut Option<T>,
) -> Result<Vec<u8>, WorkError<E>> {
    let json = serde_json::to_vec(&value).map_err(|error| WorkError::Unknown(error.into()))?;
    *kept = Some(value);
    Ok(json)
}

fn answered<T: DeserializeOwned, S: IdempotencyStore, E>(
    ran: Outcome,
    value: Option<T>,
) -> Result<Answered<T>, OnceError<S, E>> {
    let record = match (ran, value) {
        (Outcome::Replayed(record), _) => record,
        (Outcome::Executed(_), Some(value)) => return Ok(Answered { value, replayed: false }),
        (Outcome::Executed(_), None) => unreachable!("the work has kept its value"),
    };
    match read(&record) {
        Ok(value) => Ok(Answered { value, replayed: true }),
        Err(why) => Err(OnceError::Unreadable { record, why }),
    }
}

fn read<T: DeserializeOwned>(record: &Record) -> Result<T, String> {
    let response = record.response().ok_or("the answer is not retained")?;
    serde_json::from_slice(response).map_err(|error| error.to_string())
}
