//! The path of a request to its handler, for any framework: the order of its checks.

use super::{
    attempt::Attempt,
    body::{RequestBody, ResponseBody},
    config::Core,
    decide::{Asked, Decision, Left, Named},
    grpc::is_grpc,
    outcome::{Outcome, span},
    running::Run,
};
use crate::{spi::IdempotencyStore, store::async_store::AsyncStore, store::claim::Claim};
use bytes::Bytes;
use http::{HeaderMap, Response, request::Parts};
use http_body::Body;

/// What follows for a request that the layer covers.
pub(super) enum Admitted<S: IdempotencyStore, B, R: Body> {
    /// It has no key, and needs none.
    Pass(RequestBody<B>),
    /// Nothing is executed, and this is its answer.
    Answered(Response<ResponseBody<R>>),
    Execute(Box<ToExecute<S>>),
}

/// A request whose handler runs under this claim. An earlier holder may have left an answer.
pub(super) struct ToExecute<S: IdempotencyStore> {
    pub asked: Asked,
    pub claim: Claim<AsyncStore<S>>,
    pub left: Option<Left>,
    /// Dropped last, when everything is recorded: the handler counts as running until then.
    pub _run: Run,
}

impl<S: IdempotencyStore> Core<S> {
    /// Whether a request is the layer's; counted if not.
    pub fn covers(&self, parts: &Parts) -> bool {
        // The extension is there if an outer layer handles this request.
        let covered = self.config.covers(parts) && parts.extensions.get::<Attempt>().is_none();
        if !covered {
            self.came(Outcome::Passed);
        }
        covered
    }

    /// The same for one request, with its span.
    pub fn of_request(&self, headers: &HeaderMap) -> Self {
        Core { span: span!(), grpc: is_grpc(headers), ..self.clone() }
    }

    /// Reads and checks a request, claims its key, and says what follows.
    pub async fn admit<B, R>(&self, parts: &Parts, body: B) -> Admitted<S, B, R>
    where
        B: Body<Data = Bytes>,
        R: Body<Data = Bytes>,
    {
        let (key, whole) = match self.key(parts) {
            Ok(Named::By(key)) => {
                let whole = self.read(key.scope(), parts, body).await;
                (Some(key), whole)
            }
            Ok(Named::InBody(scope)) => Box::pin(self.read_and_find(&scope, parts, body)).await,
            Ok(Named::Not) => {
                self.came(Outcome::Passed);
                return Admitted::Pass(RequestBody::through(body));
            }
            Err(trouble) => return Admitted::Answered(self.say(trouble)),
        };
        let asked = match (key, whole) {
            (Some(key), Ok(whole)) => self.asked(key, parts, whole),
            (None, Ok(whole)) => {
                self.came(Outcome::Passed);
                return Admitted::Pass(whole.body());
            }
            (_, Err(trouble)) => return Admitted::Answered(self.say(trouble)),
        };
        Admitted::Answered(match self.decide(parts, &asked).await {
            Decision::Execute(claim, left, run) => {
                let admitted = ToExecute { asked, claim, left, _run: run };
                return Admitted::Execute(Box::new(admitted));
            }
            Decision::Replay(record) => self.replay(&asked.request.key, record).await,
            Decision::Left(left, trouble) => {
                Box::pin(self.replay_left(&asked.request.key, left, trouble)).await
            }
            Decision::Refuse(trouble) => self.say(trouble),
        })
    }
}
