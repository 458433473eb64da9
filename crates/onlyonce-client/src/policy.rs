//! How requests get their keys, and how often they are sent.

use crate::{
    error::KeyFault,
    key::{Intention, Key},
    timer::{Timer, TokioTimer},
};
use http::{HeaderName, Method, request::Parts};
use std::{fmt, sync::Arc, time::Duration};

/// Which requests get keys, from where, and how often and how long they are tried. Cheap to clone.
///
/// ```
/// use onlyonce_client::Policy;
/// use std::time::Duration;
///
/// let policy = Policy::new()
///     .deadline(Duration::from_secs(30))
///     .time_for_a_try(Duration::from_secs(5));
/// # let _ = policy;
/// ```
#[derive(Clone)]
#[must_use]
pub struct Policy {
    pub(crate) header: HeaderName,
    pub(crate) methods: Arc<[Method]>,
    pub(crate) deadline: Duration,
    pub(crate) tries: u32,
    pub(crate) try_time: Duration,
    pub(crate) first_wait: Duration,
    pub(crate) longest_wait: Duration,
    pub(crate) max_answer: usize,
    pub(crate) timer: Arc<dyn Timer>,
    #[cfg(feature = "store")]
    pub(crate) memory: Option<crate::memory::Memory>,
}

impl Default for Policy {
    fn default() -> Self {
        Policy::new()
    }
}

impl Policy {
    /// Makes a policy with the defaults that are named at each method.
    pub fn new() -> Self {
        Policy {
            header: HeaderName::from_static("idempotency-key"),
            methods: Arc::new([Method::POST, Method::PATCH]),
            deadline: Duration::from_secs(60),
            tries: 10,
            try_time: Duration::from_secs(15),
            first_wait: Duration::from_millis(100),
            longest_wait: Duration::from_secs(10),
            max_answer: 4 << 20,
            timer: Arc::new(TokioTimer),
            #[cfg(feature = "store")]
            memory: None,
        }
    }

    /// Sets the header that carries the key. Default: `Idempotency-Key`.
    pub fn header(mut self, name: HeaderName) -> Self {
        self.header = name;
        self
    }

    /// Returns the header that carries the key.
    pub fn header_name(&self) -> &HeaderName {
        &self.header
    }

    /// Sets the methods whose requests get a key if they have none. Requests of other methods without
    /// a key are sent once, as they are. Default: POST and PATCH.
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.methods = methods.into_iter().collect();
        self
    }

    /// Sets the time for all tries of a request and the waits between them; when it is over, the
    /// caller gets what the last try got. Default: 60 s.
    pub fn deadline(mut self, time: Duration) -> Self {
        self.deadline = time;
        self
    }

    /// Sets how often a request is sent, at least once. Default: 10.
    pub fn tries(mut self, tries: u32) -> Self {
        self.tries = tries.max(1);
        self
    }

    /// Sets the time for one try, to the end of its answer's body. Default: 15 s.
    pub fn time_for_a_try(mut self, time: Duration) -> Self {
        self.try_time = time;
        self
    }

    /// Sets the wait after a first try whose answer names none; it doubles with each try, up to
    /// `longest`. The half of each is random. Default: 100 ms and 10 s.
    pub fn waits(mut self, first: Duration, longest: Duration) -> Self {
        (self.first_wait, self.longest_wait) = (first, longest.max(first));
        self
    }

    /// Sets the size in bytes up to which an answer's body is read before the caller gets it, so
    /// that one that breaks off is asked for again. The rest of a larger body comes as it is.
    /// Default: 4 MiB.
    pub fn max_answer(mut self, bytes: usize) -> Self {
        self.max_answer = bytes;
        self
    }

    /// Sets the clock and the waits. Default: tokio's.
    pub fn timer(mut self, timer: impl Timer) -> Self {
        self.timer = Arc::new(timer);
        self
    }

    /// Sets the memory in which an [`Intention`] finds its key, also in a later process. Default:
    /// none; a request that names an intention is then refused.
    #[cfg(feature = "store")]
    pub fn memory(mut self, memory: crate::memory::Memory) -> Self {
        self.memory = Some(memory);
        self
    }

    /// Returns the key of a request: the one in its header; or the [`Key`] in its extensions; or the
    /// one that is remembered for the [`Intention`] in its extensions; or a new one, if its method
    /// needs one. Call it once for an intention, outside of all retries.
    pub async fn key_of(&self, parts: &Parts, body: &[u8]) -> Result<Option<Key>, KeyFault> {
        if let Some(value) = parts.headers.get(&self.header) {
            return Ok(Some(Key::sent(value.clone())));
        }
        if let Some(key) = parts.extensions.get::<Key>() {
            return Ok(Some(key.clone()));
        }
        if let Some(intention) = parts.extensions.get::<Intention>() {
            return self.remembered(intention, parts, body).await.map(Some);
        }
        Ok(self.methods.contains(&parts.method).then(Key::random))
    }

    #[cfg(feature = "store")]
    async fn remembered(
        &self,
        intention: &Intention,
        parts: &Parts,
        body: &[u8],
    ) -> Result<Key, KeyFault> {
        let Some(memory) = &self.memory else { return Err(KeyFault::NoMemory) };
        memory
            .key_of(
                intention,
                [parts.method.as_str().as_bytes(), parts.uri.to_string().as_bytes(), body],
            )
            .await
    }

    #[cfg(not(feature = "store"))]
    async fn remembered(&self, _: &Intention, _: &Parts, _: &[u8]) -> Result<Key, KeyFault> {
        Err(KeyFault::NoMemory)
    }

    /// The time before another try, after `tries` of them.
    pub(crate) fn wait(&self, tries: u32, after: Option<Duration>) -> Duration {
        let doubled = self.first_wait.saturating_mul(1 << (tries - 1).min(20));
        let own = doubled.min(self.longest_wait);
        match after {
            // Never sooner than asked for, and not all at once.
            Some(asked) => {
                let spread = (asked / 4).clamp(self.first_wait / 2, Duration::from_secs(5));
                asked.saturating_add(part(spread))
            }
            None => own / 2 + part(own / 2),
        }
    }
}

/// A random part of `time`.
fn part(time: Duration) -> Duration {
    let mut random = [0; 4];
    getrandom::fill(&mut random).expect("the system gives random bytes");
    time.mul_f64(f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX))
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("header", &self.header)
            .field("methods", &self.methods)
            .field("deadline", &self.deadline)
            .field("tries", &self.tries)
            .field("try_time", &self.try_time)
            .finish_non_exhaustive()
    }
}
