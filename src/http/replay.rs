//! Replaying stored answers.

use super::{
    body::ResponseBody,
    config::Core,
    decide::{Decision, Left, in_flight},
    keep::Place,
    outcome::Outcome,
    problem::{Problem, ProblemResponse, RETRYABLE, said},
    stored::{Kind, Stored},
};
use crate::{
    key::OwnedKey,
    record::Record,
    spi::IdempotencyStore,
    store::async_store::AsyncStore,
    store::claim::{Begin, Claim},
};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, header};
use http_body::Body;

/// Marks an answer that was not made by executing this request.
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// How many seconds the key is remembered.
pub(super) const EXPIRES_IN: HeaderName = HeaderName::from_static("idempotency-expires-in");

impl<S: IdempotencyStore> Core<S> {
    /// The answer of a completed key.
    pub async fn replay<R: Body<Data = Bytes>>(
        &self,
        key: &OwnedKey,
        record: Record,
    ) -> Response<ResponseBody<R>> {
        let (age, expires) = (self.age(&record), self.expires_in(&record));
        if record.response().is_none() {
            return self.not_retained(key, &record);
        }
        let Some(mut stored) = self.unpack_response(key, &record) else {
            return self.say(Problem::Failed.because("the stored answer can't be read"));
        };
        match stored.kind {
            Kind::Whole => {}
            Kind::HeadOnly => return self.not_retained(key, &record),
            Kind::Reference => {
                let Some(find) = &self.config.dereference else {
                    return self.not_retained(key, &record);
                };
                match (find.0)(std::mem::take(&mut stored.body)).await {
                    Ok(Some(body)) => stored.body = body,
                    Ok(None) => return self.not_retained(key, &record),
                    Err(error) => {
                        tracing::error!(%error, "a body kept elsewhere could not be found");
                        let why = "executed earlier; the stored answer can't be read now";
                        let trouble = Problem::Unavailable.because(why);
                        let wait = super::problem::with_jitter(std::time::Duration::from_secs(2));
                        return self.say(trouble.after(wait));
                    }
                }
            }
        }
        self.came(Outcome::Replayed);
        let status = stored.status;
        let mut answer = replayed(stored, age, status.is_server_error().then_some(false));
        answer.headers_mut().insert(EXPIRES_IN, number(expires));
        answer
    }

    /// The age of a record, in seconds.
    pub fn age(&self, record: &Record) -> u64 {
        match record.age() {
            Some(age) => age.as_secs(),
            None => self.config.clock.wall_ms().saturating_sub(record.completed_at()) / 1000,
        }
    }

    /// How long a record is remembered from now on, in seconds.
    pub fn expires_in(&self, record: &Record) -> u64 {
        let window = record.expires_at().saturating_sub(record.completed_at()) / 1000;
        window.saturating_sub(self.age(record))
    }

    fn unpack_response(&self, key: &OwnedKey, record: &Record) -> Option<Stored> {
        self.config.unpack(key, Place::Record, Bytes::from_owner(Whole(record.clone())))
    }

    /// What is kept of a record's answer.
    pub fn unpack_record(&self, key: &OwnedKey, record: &Record) -> Option<Stored> {
        match record.response() {
            Some(_) => self.unpack_response(key, record),
            None => {
                let head = Bytes::copy_from_slice(record.head());
                self.config.unpack(key, Place::Record, head)
            }
        }
    }

    /// The answer that an interrupted holder left; if it can't be read, `trouble`.
    pub async fn replay_left<R: Body<Data = Bytes>>(
        &self,
        key: &OwnedKey,
        left: Left,
        trouble: ProblemResponse,
    ) -> Response<ResponseBody<R>> {
        let unpacked = self.config.unpack(key, Place::Left, Bytes::from_owner(left.answer));
        match unpacked.filter(|stored| stored.kind == Kind::Whole) {
            Some(stored) => {
                self.came(Outcome::LeftReplayed);
                replayed(stored, left.age.as_secs(), Some(trouble.retryable))
            }
            None => self.say(trouble),
        }
    }

    /// It is done, and its answer isn't kept.
    fn not_retained<R: Body<Data = Bytes>>(
        &self,
        key: &OwnedKey,
        record: &Record,
    ) -> Response<ResponseBody<R>> {
        let why = "this request was executed, and its answer is not kept; don't send it again";
        let trouble = Problem::NotRetained.because(why);
        let head = Bytes::copy_from_slice(record.head());
        let head = self.config.unpack(key, Place::Record, head);
        self.say(match head {
            Some(head) => {
                trouble.original(head.status, head.headers.get(header::LOCATION).cloned())
            }
            None => trouble,
        })
    }

    /// The answer for the key of a claim that has ended, by its holder or otherwise.
    pub async fn standing<R: Body<Data = Bytes>>(
        &self,
        key: &OwnedKey,
        claim: &Claim<AsyncStore<S>>,
    ) -> Response<ResponseBody<R>> {
        let fingerprint = claim.ticket().fingerprint;
        let begun = self.store.begin_with(key.as_ref(), fingerprint, self.config.terms()).await;
        match begun {
            Ok(Begin::Replay(record)) => return self.replay(key, record).await,
            Ok(Begin::InFlight(pending)) => return self.say(in_flight(&pending)),
            Ok(Begin::Interrupted(stuck)) => match self.interrupted(&stuck) {
                Decision::Left(left, trouble) => {
                    return self.replay_left(key, left, trouble).await;
                }
                Decision::Refuse(trouble) => return self.say(trouble),
                Decision::Execute(..) | Decision::Replay(_) => {}
            },
            // Freed by an operator: it stays so.
            Ok(Begin::Execute(free)) => drop(free.release().await),
            Ok(Begin::Mismatch { .. }) | Err(_) => {}
        }
        let why = "the request was executed, and its outcome could not be recorded";
        self.say(Problem::NotRecorded.because(why))
    }
}

/// A stored answer. `retryable`: whether a retry may get another one, if that is to be said.
fn replayed<R: Body<Data = Bytes>>(
    stored: Stored,
    age: u64,
    retryable: Option<bool>,
) -> Response<ResponseBody<R>> {
    let Stored { status, headers, trailers, body, .. } = stored;
    let mut answer = Response::new(ResponseBody::whole(body, trailers));
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    let headers = answer.headers_mut();
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    headers.insert(header::AGE, number(age));
    if let Some(retryable) = retryable {
        headers.insert(RETRYABLE, said(retryable));
    }
    answer
}

/// A number in a header. (That of the crate `http` allocates twice.)
fn number(mut number: u64) -> HeaderValue {
    let (mut digits, mut at) = ([0; 20], 20);
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return HeaderValue::from_bytes(&digits[at..]).expect("digits are visible");
        }
    }
}

/// A record's response as bytes that keep it.
struct Whole(Record);

impl AsRef<[u8]> for Whole {
    fn as_ref(&self) -> &[u8] {
        self.0.response().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_full() {
        for value in [0, 7, 10, 86_400, u64::MAX] {
            assert_eq!(number(value), value.to_string().as_str());
        }
    }
}
