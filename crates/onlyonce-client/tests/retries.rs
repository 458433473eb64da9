//! What is sent again, under which key and when, by a service that plays its part and a clock that
//! is moved by waiting.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use onlyonce_client::{
    AnswerBody, Intention, Key, KeyFault, KeyedLayer, Policy, SendError, Sent, Timer, Trouble,
};
use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Future, pending, ready},
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::{Duration, SystemTime},
};
use tower::{Layer, ServiceExt, service_fn};

/// Time that passes when it is waited for, but not under a try that never ends.
#[derive(Clone, Default)]
struct Waited {
    now: Arc<Mutex<Duration>>,
    sleeps: Arc<Mutex<Vec<Duration>>>,
}

/// The wall's time at the start.
fn start() -> SystemTime {
    httpdate::parse_http_date("Wed, 21 Oct 2026 07:28:00 GMT").unwrap()
}

impl Timer for Waited {
    fn now(&self) -> Duration {
        *self.now.lock().unwrap()
    }

    fn wall(&self) -> SystemTime {
        start() + self.now()
    }

    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let timer = self.clone();
        // Only a sleep that is polled passes.
        Box::pin(async move {
            *timer.now.lock().unwrap() += time;
            timer.sleeps.lock().unwrap().push(time);
        })
    }
}

/// What the service does with a request.
#[derive(Clone)]
enum Does {
    Answer(u16, &'static [(&'static str, &'static str)], &'static str),
    /// An answer that breaks off after these bytes.
    BreakOff(&'static str),
    Refuse,
    Hang,
}

enum Played {
    Whole(Full<Bytes>),
    Broken(Option<Bytes>),
}

impl Body for Played {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut *self {
            Played::Whole(body) => {
                Pin::new(body).poll_frame(context).map_err(|error: Infallible| match error {})
            }
            Played::Broken(data) => Poll::Ready(Some(match data.take() {
                Some(data) => Ok(Frame::data(data)),
                None => Err(io::Error::other("the connection was reset")),
            })),
        }
    }
}

/// The keys that came, with a request's body.
type Came = Arc<Mutex<Vec<(Option<String>, Bytes)>>>;
type Got = Result<Response<AnswerBody<Played>>, SendError<io::Error>>;

/// Sends a request to a service that does these things, one after the other, and the last for ever.
async fn sent(policy: Policy, script: Vec<Does>, request: Request<Full<Bytes>>) -> (Got, Came) {
    let came = Came::default();
    let seen = came.clone();
    let script = Arc::new(Mutex::new(VecDeque::from(script)));
    let service = service_fn(move |request: Request<Full<Bytes>>| {
        let (seen, script) = (seen.clone(), script.clone());
        async move {
            let key = request.headers().get("idempotency-key");
            let key = key.map(|key| key.to_str().unwrap().to_owned());
            assert!(request.headers().get_all("idempotency-key").iter().count() < 2);
            let body = request.into_body().collect().await.unwrap().to_bytes();
            seen.lock().unwrap().push((key, body));
            let does = {
                let mut script = script.lock().unwrap();
                if script.len() > 1 { script.pop_front().unwrap() } else { script[0].clone() }
            };
            match does {
                Does::Answer(status, fields, body) => {
                    let mut answer = Response::builder().status(status);
                    for (name, value) in fields {
                        answer = answer.header(*name, *value);
                    }
                    Ok(answer.body(Played::Whole(Full::from(body))).unwrap())
                }
                Does::BreakOff(body) => Ok(Response::new(Played::Broken(Some(body.into())))),
                Does::Refuse => Err(io::Error::other("refused")),
                Does::Hang => pending().await,
            }
        }
    });
    let got = KeyedLayer::new(policy).layer(service).oneshot(request).await;
    (got, came)
}

fn post() -> Request<Full<Bytes>> {
    Request::post("http://shop/orders").body(Full::from("one book")).unwrap()
}

fn policy(timer: &Waited) -> Policy {
    Policy::new().timer(timer.clone())
}

const CREATED: Does = Does::Answer(201, &[], "order 7");

/// Everything that came has this one key and body.
fn one_key(came: &Came, times: usize) -> String {
    let came = came.lock().unwrap();
    assert_eq!(came.len(), times, "{came:?}");
    let (key, body) = came[0].clone();
    assert!(came.iter().all(|one| *one == (key.clone(), body.clone())), "{came:?}");
    assert_eq!(body, "one book");
    key.expect("a key")
}

#[tokio::test]
async fn one_key_for_all_tries() {
    let timer = Waited::default();
    let script = vec![
        Does::Refuse,
        Does::BreakOff("order"),
        Does::Hang,
        Does::Answer(409, &[("retry-after", "1"), ("idempotency-retryable", "true")], ""),
        Does::Answer(503, &[], ""),
        CREATED,
    ];
    let (got, came) = sent(policy(&timer), script, post()).await;
    let got = got.unwrap();
    let key = one_key(&came, 6);
    assert_eq!(got.status(), 201);
    let Sent { key: told, tries, .. } = got.extensions().get::<Sent>().unwrap().clone();
    assert_eq!((told.to_string(), tries), (key, 6));
    assert_eq!(got.into_body().collect().await.unwrap().to_bytes(), "order 7");
}

#[tokio::test]
async fn each_intention_has_its_own() {
    let timer = Waited::default();
    let mut keys = Vec::new();
    for _ in 0..2 {
        let (got, came) = sent(policy(&timer), vec![CREATED], post()).await;
        got.unwrap();
        keys.push(one_key(&came, 1));
    }
    assert_ne!(keys[0], keys[1]);
}

#[tokio::test]
async fn the_caller_s_key_is_taken() {
    let timer = Waited::default();
    let script = || vec![Does::Refuse, CREATED];
    let mut request = post();
    request.headers_mut().insert("idempotency-key", "mine".parse().unwrap());
    let (got, came) = sent(policy(&timer), script(), request).await;
    got.unwrap();
    assert_eq!(one_key(&came, 2), "mine");
    let mut request = post();
    *request.method_mut() = http::Method::PUT;
    request.extensions_mut().insert(Key::new("also mine").unwrap());
    let (got, came) = sent(policy(&timer), script(), request).await;
    got.unwrap();
    assert_eq!(one_key(&came, 2), "\"also mine\"");
}

#[tokio::test]
async fn nothing_is_sent_again_without_a_key() {
    let timer = Waited::default();
    for script in [Does::Refuse, Does::Answer(503, &[("retry-after", "1")], "")] {
        let mut request = post();
        *request.method_mut() = http::Method::PUT;
        let (got, came) = sent(policy(&timer), vec![script], request).await;
        assert!(got.map_or(true, |answer| answer.status() == 503));
        assert_eq!(*came.lock().unwrap(), [(None, Bytes::from("one book"))]);
    }
    assert_eq!(timer.now(), Duration::ZERO);
}

#[tokio::test]
async fn what_is_final_is_not_asked_again() {
    let timer = Waited::default();
    let json = ("content-type", "application/problem+json");
    static FINAL: [(&str, &str); 1] = [("idempotency-retryable", "false")];
    let interrupted = Box::leak(Box::new([json]));
    for does in [
        Does::Answer(500, &FINAL, ""),
        Does::Answer(409, interrupted, r#"{"retryable": false}"#),
        Does::Answer(422, &[], ""),
        Does::Answer(409, &[], "a conflict of the service's own"),
    ] {
        let (got, came) = sent(policy(&timer), vec![does], post()).await;
        assert!(got.unwrap().status().as_u16() >= 409);
        one_key(&came, 1);
    }
    assert_eq!(timer.now(), Duration::ZERO);
}

#[tokio::test]
async fn waits_are_at_least_as_long_as_asked() {
    let timer = Waited::default();
    let script = vec![
        Does::Answer(503, &[("retry-after", "8")], ""),
        Does::Answer(429, &[("retry-after", "Wed, 21 Oct 2026 07:28:30 GMT")], ""),
        Does::Refuse,
        CREATED,
    ];
    let (got, _) = sent(policy(&timer), script, post()).await;
    got.unwrap();
    let sleeps = timer.sleeps.lock().unwrap().clone();
    let between = |at: usize, least: f64, most: f64| {
        let seconds = sleeps[at].as_secs_f64();
        assert!(least <= seconds && seconds <= most, "{sleeps:?}");
    };
    between(0, 8.0, 10.0);
    // Until the date, from the time that has passed.
    let left = 30.0 - sleeps[0].as_secs_f64();
    between(1, left - 0.001, left * 1.25);
    // The third: 100 ms, doubled twice, half of it random.
    between(2, 0.2, 0.4);
}

#[tokio::test]
async fn the_deadline_holds_over_all() {
    let timer = Waited::default();
    let busy = Does::Answer(503, &[("retry-after", "20")], "busy");
    let (got, came) = sent(policy(&timer), vec![busy], post()).await;
    // The last answer is the caller's to judge.
    let got = got.unwrap();
    assert_eq!(
        (got.status(), got.extensions().get::<Sent>().unwrap().tries),
        (StatusCode::SERVICE_UNAVAILABLE, 3)
    );
    one_key(&came, 3);
    assert!(timer.now() < Duration::from_secs(60));

    let timer = Waited::default();
    let (got, came) = sent(policy(&timer), vec![Does::Hang], post()).await;
    let error = got.unwrap_err();
    assert!(matches!(error.trouble(), Trouble::TimedOut), "{error}");
    assert_eq!(error.key().unwrap().to_string(), one_key(&came, error.tries() as usize));
    assert!(timer.now() <= Duration::from_secs(60), "{:?}", timer.now());

    let timer = Waited::default();
    let (got, came) = sent(policy(&timer).tries(2), vec![Does::Refuse], post()).await;
    assert!(matches!(got.unwrap_err().trouble(), Trouble::Client(_)));
    one_key(&came, 2);
}

#[tokio::test]
async fn large_answers_and_streams_come_as_they_are() {
    let timer = Waited::default();
    let (got, came) =
        sent(policy(&timer).max_answer(3), vec![Does::BreakOff("order 7")], post()).await;
    let mut body = got.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "order 7");
    assert!(body.frame().await.unwrap().is_err());
    one_key(&came, 1);
    let events = Does::Answer(200, &[("content-type", "text/event-stream")], "data: 1\n\n");
    let (got, _) = sent(policy(&timer), vec![events], post()).await;
    assert_eq!(got.unwrap().into_body().collect().await.unwrap().to_bytes(), "data: 1\n\n");
}

#[tokio::test]
async fn an_intention_needs_a_memory() {
    let mut request = post();
    request.extensions_mut().insert(Intention::new("order-1"));
    let (got, came) = sent(policy(&Waited::default()), vec![CREATED], request).await;
    let error = got.unwrap_err();
    assert!(matches!(error.trouble(), Trouble::Key(KeyFault::NoMemory)), "{error}");
    assert!(came.lock().unwrap().is_empty());
    let _ = ready(()).await;
}

#[cfg(feature = "store")]
mod remembered {
    use super::*;
    use onlyonce::{Options, Store};
    use onlyonce_client::Memory;

    fn named(name: &str, body: &'static str) -> Request<Full<Bytes>> {
        let request = Request::post("http://shop/orders").extension(Intention::new(name));
        request.body(Full::from(body)).unwrap()
    }

    async fn key_of(store: &Store, name: &str) -> String {
        let timer = Waited::default();
        let policy = policy(&timer).memory(Memory::new(store.clone()));
        let (got, came) = sent(policy, vec![Does::Refuse, CREATED], named(name, "one book")).await;
        got.unwrap();
        one_key(&came, 2)
    }

    #[tokio::test]
    async fn a_name_has_one_key_also_in_a_later_process() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Options::new().open(dir.path()).unwrap();
        let store = open();
        let first = key_of(&store, "order-1").await;
        assert_eq!(key_of(&store, "order-1").await, first);
        assert_ne!(key_of(&store, "order-2").await, first);
        store.close().unwrap();
        let store = open();
        assert_eq!(key_of(&store, "order-1").await, first);
        let policy = policy(&Waited::default()).memory(Memory::new(store.clone()));
        let (got, came) = sent(policy, vec![CREATED], named("order-1", "two books")).await;
        let error = got.unwrap_err();
        assert!(matches!(error.trouble(), Trouble::Key(KeyFault::OtherRequest)), "{error}");
        assert!(came.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_client_that_died_before_it_sent_holds_no_name() {
        use onlyonce::{Begin, Fingerprint, KeyRef, Scope};
        let store = Store::in_memory().unwrap();
        let scope = Scope::of(["onlyonce-client"]);
        let name = KeyRef::new(&scope, "order-1").unwrap();
        let request = ["POST", "http://shop/orders", "one book"];
        let Begin::Execute(claim) = store.begin(name, Fingerprint::of(request)).unwrap() else {
            panic!("not new")
        };
        drop(claim);
        let first = key_of(&store, "order-1").await;
        assert_eq!(key_of(&store, "order-1").await, first);
    }
}
