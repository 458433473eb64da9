//! Recording a handler's answer: what it means for the key.

use super::{
    body::{Read, ResponseBody},
    execute::{Answered, Recorder, completion, is_overtaken},
    fingerprint::media_type,
    grpc::{self, is_grpc_media},
    keep::{Head, Place},
    replay::REPLAYED,
    seal::StoreReference,
    stored::{self, Kind},
    verdict::{Verdict, is_bodiless},
};
use crate::{
    error::ClaimError, spi::Completion, spi::IdempotencyStore, store::async_store::AsyncStore,
    store::claim::Claim,
};
use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, response::Parts};
use http_body::Body;
use std::{future::Future, pin::Pin};

type Answer<R> = Response<ResponseBody<R>>;

impl<S: IdempotencyStore> Recorder<'_, S> {
    /// Records the answer as the verdict says, and returns the answer for the client.
    pub async fn record<R: Body<Data = Bytes>>(
        &self,
        claim: &mut Claim<AsyncStore<S>>,
        answer: Response<R>,
    ) -> Answer<R> {
        let (mut parts, body) = answer.into_parts();
        if parts.headers.keys().any(|name| *name == REPLAYED) {
            parts.headers.remove(REPLAYED);
        }
        let media = media_type(&parts.headers);
        let (is_grpc, is_stream) = (is_grpc_media(&media), is_stream(&media));
        let given = parts.extensions.get::<Verdict>().copied();
        let passed = matches!(given, Some(Verdict::NothingDone | Verdict::NotRetained));
        let body = if !passed && is_grpc && !parts.headers.contains_key(grpc::STATUS) {
            let room = Self::room(claim, &self.head(&parts));
            let executor = &*self.core.config.executor;
            Answered::Read(Box::pin(grpc::read_unary(body, room, executor)).await)
        } else {
            Answered::Coming(body)
        };
        let verdict = given.unwrap_or_else(|| self.verdict(&mut parts, &body));
        match verdict {
            Verdict::NothingDone => {
                self.nothing_done(claim, || Response::from_parts(parts, body.into_body())).await
            }
            Verdict::Unknown => self.fail(claim, parts, body).await,
            Verdict::NotRetained => self.without_body(claim, parts, body).await,
            Verdict::FinalWithoutEffects => match claim.undo_effects().await {
                Ok(()) => self.ended(claim, parts, body, is_stream).await,
                Err(error) => self.unrecorded(claim, &error).await,
            },
            Verdict::Final => self.ended(claim, parts, body, is_stream).await,
        }
    }

    /// What the policy says of an answer. The status of a call of gRPC may be in its trailers; the
    /// policy sees it in the head.
    fn verdict<R: Body<Data = Bytes>>(&self, parts: &mut Parts, body: &Answered<R>) -> Verdict {
        let ended = matches!(body, Answered::Read(Read::Whole(..)));
        if !ended || parts.status != StatusCode::OK {
            return self.policy.verdict(parts);
        }
        let status = body.trailers().and_then(|trailers| trailers.get(grpc::STATUS));
        let status = status.cloned().unwrap_or(grpc::WITHOUT_STATUS);
        parts.headers.insert(grpc::STATUS, status);
        let verdict = self.policy.verdict(parts);
        parts.headers.remove(grpc::STATUS);
        verdict
    }

    /// The operation has ended, and this is its answer.
    async fn ended<R: Body<Data = Bytes>>(
        &self,
        claim: &mut Claim<AsyncStore<S>>,
        parts: Parts,
        body: Answered<R>,
        is_stream: bool,
    ) -> Answer<R> {
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            let why = "an upgrade can't be replayed; leave its route out of the idempotency layer";
            tracing::error!("{why}");
            return self.without_body(claim, parts, body).await;
        }
        match parts.extensions.get::<StoreReference>().cloned() {
            Some(StoreReference(reference)) => {
                self.by_reference(claim, parts, body, reference).await
            }
            None => self.complete(claim, parts, body, is_stream).await,
        }
    }

    /// Frees the key, and returns the handler's own `answer`. If the key can't be freed, returns an
    /// answer with the key's state instead.
    async fn nothing_done<R: Body<Data = Bytes>>(
        &self,
        claim: &mut Claim<AsyncStore<S>>,
        answer: impl FnOnce() -> Answer<R>,
    ) -> Answer<R> {
        // Retries take over by themselves unless they are refused.
        let stuck = self.attempt.leaves_history() && self.core.config.interrupted.is_refused();
        match claim.give_back().await {
            Ok(()) if stuck => Box::pin(self.core.standing(self.key, claim)).await,
            Ok(()) => answer(),
            Err(error) => self.unrecorded(claim, &error).await,
        }
    }

    /// The part of an answer's head that is stored.
    fn head<'a>(&self, parts: &'a Parts) -> Head<'a> {
        let bodiless = self.head_request || is_bodiless(parts.status);
        let headers = self.core.config.retained.of(&parts.headers, bodiless);
        Head { status: parts.status, headers }
    }

    /// How many bytes of the body there is room for.
    fn room(claim: &Claim<AsyncStore<S>>, head: &Head<'_>) -> usize {
        // Twice, because headers may be in the short head, too.
        (claim.ticket().reserve as usize).saturating_sub(2 * stored::head_len(&head.headers) + 8)
    }

    /// Stores the whole answer, if it ends and fits.
    async fn complete<R: Body<Data = Bytes>>(
        &self,
        claim: &mut Claim<AsyncStore<S>>,
        parts: Parts,
        body: Answered<R>,
        is_stream: bool,
    ) -> Answer<R> {
        let head = self.head(&parts);
        let room = Self::room(claim, &head);
        let is_kept = |body: &R| {
            let endless = is_stream && !body.is_end_stream();
            !endless && body.size_hint().lower() <= room as u64
        };
        if matches!(&body, Answered::Coming(body) if !is_kept(body)) {
            return self.without_body(claim, parts, body).await;
        }
        let (data, trailers) = match body.read(room).await {
            Read::Whole(data, trailers) => (data, trailers),
            Read::TooLarge(data, rest) => {
                let done = self.head_only(claim, &head).await;
                let body = ResponseBody::resumed(data, rest);
                return match done {
                    Ok(()) => Response::from_parts(parts, body),
                    Err(error) => self.unrecorded(claim, &error).await,
                };
            }
            Read::Failed(data, error) => {
                let failed = claim.fail(b"").await;
                let answer = Response::from_parts(parts, ResponseBody::broken(data, error));
                return self.failed(claim, failed, answer).await;
            }
        };
        let done = self.whole(claim, &head, &data, trailers.as_deref()).await;
        match done {
            Ok(()) => Response::from_parts(parts, ResponseBody::whole(data, trailers)),
            Err(error) => self.unrecorded(claim, &error).await,
        }
    }

    async fn whole(
        &self,
        claim: &mut Claim<AsyncStore<S>>,
        head: &Head<'_>,
        data: &Bytes,
        trailers: Option<&HeaderMap>,
    ) -> Result<(), ClaimError> {
        let config = &self.core.config;
        let packed = config.pack(self.key, Place::Record, Kind::Whole, head, trailers, data);
        let Some(packed) = packed else {
            return self.head_only(claim, head).await;
        };
        let short = config.pack_head(self.key, head, false);
        match self.keep(claim, head, completion(&short, Some(&packed))).await {
            Err(ClaimError::ResponseTooLarge { .. }) => self.head_only(claim, head).await,
            done => done,
        }
    }

    /// Stores the reference by which the service finds the body.
    async fn by_reference<R: Body<Data = Bytes>>(
        &self,
        claim: &mut Claim<AsyncStore<S>>,
        parts: Parts,
        body: Answered<R>,
        reference: Bytes,
    ) -> Answer<R> {
        let config = &self.core.config;
        let head = self.head(&parts);
        let packed = config.pack(
            self.key,
            Place::Record,
            Kind::Reference,
            &head,
            body.trailers(),
            &reference,
        );
        let done = match packed {
            Some(packed) => {
                let short = config.pack_head(self.key, &head, false);
                self.keep(claim, &head, completion(&short, Some(&packed))).await
            }
            None => self.head_only(claim, &head).await,
        };
        match done {
            Ok(()) => Response::from_parts(parts, body.into_body()),
            Err(error) => self.unrecorded(claim, &error).await,
        }
    }

    /// Records that it is done, then lets the answer through as it comes.
    async fn without_body<R: Body<Data = Bytes>>(
        &self,
        claim: &mut Claim<AsyncStore<S>>,
        parts: Parts,
        body: Answered<R>,
    ) -> Answer<R> {
        let done = self.head_only(claim, &self.head(&parts)).await;
        match done {
            Ok(()) => Response::from_parts(parts, body.into_body()),
            Err(error) => self.unrecorded(claim, &error).await,
        }
    }

    async fn head_only(
        &self,
        claim: &mut Claim<AsyncStore<S>>,
        head: &Head<'_>,
    ) -> Result<(), ClaimError> {
        let short = self.core.config.pack_head(self.key, head, true);
        self.keep(claim, head, completion(&short, None)).await
    }

    /// Completes the key. A refusal by a handler whose effects can't be committed (its own statement
    /// has failed, which it most probably refuses for) is kept, and they are undone. Any other
    /// answer would be untrue without them.
    async fn keep(
        &self,
        claim: &mut Claim<AsyncStore<S>>,
        head: &Head<'_>,
        completion: Completion<'_>,
    ) -> Result<(), ClaimError> {
        match claim.complete_with(completion).await {
            Err(ClaimError::EffectsFailed { .. })
                if head.status.is_client_error() || head.status.is_server_error() =>
            {
                claim.undo_effects().await?;
                claim.complete_with(completion).await
            }
            done => done,
        }
    }

    /// The client's answer when the handler's could not be recorded. In a box, so that the future of
    /// most requests is small.
    fn unrecorded<'a, R: Body<Data = Bytes> + 'a>(
        &'a self,
        claim: &'a mut Claim<AsyncStore<S>>,
        error: &'a ClaimError,
    ) -> Pin<Box<impl Future<Output = Answer<R>> + 'a>> {
        Box::pin(self.core.unrecorded(self.key, claim, error))
    }

    /// The outcome is unknown; the answer is kept with the interrupted key, if it fits.
    async fn fail<R: Body<Data = Bytes>>(
        &self,
        claim: &mut Claim<AsyncStore<S>>,
        parts: Parts,
        body: Answered<R>,
    ) -> Answer<R> {
        let head = self.head(&parts);
        let read = body.read(Self::room(claim, &head)).await;
        let packed = match &read {
            Read::Whole(data, trailers) => self.core.config.pack(
                self.key,
                Place::Left,
                Kind::Whole,
                &head,
                trailers.as_deref(),
                data,
            ),
            Read::TooLarge(..) | Read::Failed(..) => None,
        };
        let answer = Response::from_parts(parts, read.into_body());
        let failed = claim.fail(&packed.unwrap_or_default()).await;
        self.failed(claim, failed, answer).await
    }

    /// The answer of an attempt whose outcome is unknown.
    async fn failed<R: Body<Data = Bytes>>(
        &self,
        claim: &mut Claim<AsyncStore<S>>,
        failed: Result<(), ClaimError>,
        answer: Answer<R>,
    ) -> Answer<R> {
        match failed {
            Err(error) if is_overtaken(&error) => self.unrecorded(claim, &error).await,
            // Without room for the answer the key is interrupted all the same.
            Ok(()) | Err(_) => answer,
        }
    }
}

/// Whether answers of a media type may never end: event streams, gRPC.
fn is_stream(media: &[u8]) -> bool {
    media == b"text/event-stream"
        || media == b"multipart/x-mixed-replace"
        || is_grpc_media(media)
        || media.starts_with(b"application/grpc-web")
}
