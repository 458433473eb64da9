//! H9, H18, H21: what becomes of keys of which it isn't known whether they took effect.

use crate::service::*;

use bytes::Bytes;
use http::Request;
use onlyonce::{
    AsyncStore, Begin, Filter, Fingerprint, KeyRef, ManualClock, Options, Reason, Scope, Store,
    http::{Attempt, IdempotencyLayer, KeyScope, Settlement},
    storage::SimStorage,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Says the attempt that it runs in, and fails so often.
fn flaky(failures: u64) -> Handler {
    let runs = AtomicU64::new(0);
    handler(move |request: Request<Bytes>| {
        let attempt = request.extensions().get::<Attempt>().unwrap().clone();
        let fails = runs.fetch_add(1, Ordering::SeqCst) < failures;
        async move {
            let after = attempt.after().map(|reason| reason.to_string()).unwrap_or_default();
            let checkpoint = attempt.checkpoint().map(<[u8]>::to_vec).unwrap_or_default();
            let said = format!(
                "{} {} {after} {}",
                attempt.number(),
                attempt.derive_key("x"),
                String::from_utf8(checkpoint).unwrap()
            );
            attempt.save_checkpoint(format!("half of {}", attempt.number())).await.unwrap();
            answer(if fails { 500 } else { 201 }, said)
        }
    })
}

#[tokio::test]
async fn refused_unless_the_holder_left_an_answer() {
    let store = store();
    let orders = flaky(9);
    let service = behind(&layer(&store), &orders);
    let first = send(&service, post("k")).await;
    let second = send(&service, post("k")).await;
    assert_eq!((first.status.as_u16(), first.is_replay()), (500, false));
    assert_eq!((second.status.as_u16(), second.is_replay()), (500, true));
    assert_eq!((first.text(), orders.runs()), (second.text(), 1));
}

/// How old an answer is that an interrupted key has kept.
#[tokio::test]
async fn what_was_left_has_an_age() {
    let clock = ManualClock::at(1_700_000_000_000);
    let store = store_at(&clock);
    let service = behind(&layer(&store), &flaky(9));
    send(&service, post("k")).await;
    clock.advance(Duration::from_secs(90));
    let left = send(&service, post("k")).await;
    assert_eq!((left.status.as_u16(), left.header("age")), (500, Some("90")));
    assert!(left.is_replay());
}

#[tokio::test]
async fn resumed_with_all_that_is_known() {
    let store = store();
    let orders = flaky(2);
    let service = behind(&layer(&store).resume(), &orders);
    let first = send(&service, post("k")).await;
    let [number, derived, ..] = first.text().splitn(3, ' ').collect::<Vec<_>>()[..] else {
        panic!("{first:?}")
    };
    assert_eq!((number, derived.len()), ("1", 32));
    let failed = Reason::Failed.to_string();
    let second = send(&service, post("k")).await;
    assert_eq!(second.text(), format!("2 {derived} {failed} half of 1"));
    let third = send(&service, post("k")).await;
    assert_eq!(third.text(), format!("3 {derived} {failed} half of 2"));
    assert_eq!((third.status.as_u16(), third.is_replay()), (201, false));
    assert!(send(&service, post("k")).await.is_replay());
    assert_eq!(orders.runs(), 3);
}

/// The process dies in the middle, whatever it does, and only so often it is tried again.
#[tokio::test]
async fn not_for_ever() {
    let store = options().max_attempts(2).open_on(Arc::new(SimStorage::new(3))).unwrap();
    let service = behind(&layer(&store).resume(), &flaky(9));
    for attempt in ["1 ", "2 "] {
        let got = send(&service, post("k")).await;
        assert!(got.text().starts_with(attempt) && got.status == 500);
    }
    let left = send(&service, post("k")).await;
    assert!(left.is_replay() && left.text().starts_with("2 "));

    // Or without an answer to be given.
    let store = options().max_attempts(2).open_on(Arc::new(SimStorage::new(4))).unwrap();
    let service = behind(&layer(&store).resume(), &crashing());
    for _ in 0..2 {
        assert_eq!(send(&service, post("k")).await.status, 200);
    }
    let got = send(&service, post("k")).await;
    assert_eq!((got.problem().as_str(), got.retryable()), ("interrupted", false));
}

/// A handler that saved a checkpoint and then did nothing: its key can't be freed, and nobody is told
/// that it is.
#[tokio::test]
async fn the_first_client_hears_what_a_retry_will() {
    let busy = || {
        let runs = AtomicU64::new(0);
        handler(move |request: Request<Bytes>| {
            let attempt = request.extensions().get::<Attempt>().unwrap().clone();
            let first = runs.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                if first {
                    attempt.save_checkpoint("half").await.unwrap();
                    return with(answer(429, "later"), "retry-after", "1");
                }
                answer(201, String::from_utf8(attempt.checkpoint().unwrap().to_vec()).unwrap())
            }
        })
    };
    let (store, orders) = (store(), busy());
    let service = behind(&layer(&store), &orders);
    for _ in 0..3 {
        let got = send(&service, post("k")).await;
        assert_eq!((got.status.as_u16(), got.problem().as_str()), (409, "interrupted"));
        assert!(!got.retryable() && got.header("retry-after").is_none());
    }
    assert_eq!(orders.runs(), 1);
    // Where a retry goes on, that it may come is the truth.
    let (store, orders) = (self::store(), busy());
    let service = behind(&layer(&store).resume(), &orders);
    let got = send(&service, post("k")).await;
    assert_eq!((got.status.as_u16(), got.text()), (429, "later"));
    assert_eq!(send(&service, post("k")).await.text(), "half");
}

/// A handler whose key is interrupted without an answer.
fn crashing() -> Handler {
    handler(|_| async {
        let mut lost = answer(200, "");
        lost.extensions_mut().insert(onlyonce::http::Verdict::Unknown);
        // Larger than can be kept.
        lost.map(|_| {
            use http_body_util::BodyExt;
            let body = http_body_util::Full::new(Bytes::from(vec![b'x'; 100_000]));
            body.map_err(|never| match never {}).boxed_unsync()
        })
    })
}

async fn settled(
    settlement: impl Fn() -> Settlement<AnyBody> + Send + Sync + 'static,
) -> (Got, Got, u64, u64) {
    let store = store();
    let orders = flaky(1);
    let asked = Arc::new(AtomicU64::new(0));
    let layer = layer(&store).settle({
        let asked = asked.clone();
        move |attempt: Attempt, request: Request<Bytes>| {
            asked.fetch_add(1, Ordering::SeqCst);
            assert_eq!((attempt.after(), attempt.number() > 1), (Some(Reason::Failed), true));
            assert_eq!(attempt.checkpoint(), Some(&b"half of 1"[..]));
            assert_eq!(
                (request.body().as_ref(), request.uri().path()),
                (&b"one book"[..], "/orders")
            );
            std::future::ready(settlement())
        }
    });
    let service = behind(&layer, &orders);
    assert_eq!(send(&service, post("k")).await.status, 500);
    let second = send(&service, post("k")).await;
    let third = send(&service, post("k")).await;
    (second, third, orders.runs(), asked.load(Ordering::SeqCst))
}

#[tokio::test]
async fn settled_it_happened() {
    let happened = || with(answer(201, "found"), "location", "/orders/1");
    let (second, third, runs, asked) = settled(move || Settlement::Happened(happened())).await;
    assert_eq!((second.text(), second.is_replay()), ("found", true));
    assert_eq!((third.text(), third.is_replay()), ("found", true));
    assert_eq!(third.header("location"), Some("/orders/1"));
    assert_eq!((runs, asked), (1, 1));
}

#[tokio::test]
async fn settled_nothing_happened() {
    let (second, third, runs, asked) = settled(|| Settlement::NothingHappened).await;
    // None before it had an effect.
    assert!(second.text().starts_with("1 ") && second.status == 201 && !second.is_replay());
    assert!(third.is_replay());
    assert_eq!((runs, asked), (2, 1));
}

#[tokio::test]
async fn settled_unknown() {
    let (second, third, runs, asked) = settled(|| Settlement::Unknown).await;
    // What the holder had left stays with the key.
    for got in [second, third] {
        assert!(got.is_replay() && got.status == 500 && got.text().starts_with("1 "));
    }
    assert_eq!((runs, asked), (1, 1), "not asked again at once");
}

/// A look that does not come to its end leaves the key as it was, however often it is tried.
#[tokio::test]
async fn settling_that_panics() {
    let (store, orders) = (store(), flaky(1));
    let layer = layer(&store).settle(|attempt: Attempt, _| async move {
        assert_eq!((attempt.number(), attempt.after()), (2, Some(Reason::Failed)));
        match attempt.number() {
            2 => panic!("the table is gone"),
            _ => Settlement::<AnyBody>::Unknown,
        }
    });
    let service = behind(&layer, &orders);
    assert_eq!(send(&service, post("k")).await.status, 500);
    assert!(tokio::spawn(send(&service, post("k"))).await.unwrap_err().is_panic());
    // It is left alone for a second.
    let third = send(&service, post("k")).await;
    assert!(third.is_replay() && third.status == 500 && third.text().starts_with("1 "));
    assert_eq!((orders.runs(), store.stats().undone), (1, 1));
}

#[tokio::test]
async fn unknown_without_an_answer() {
    let store = store();
    let settles = layer(&store).settle(|_, _| async { Settlement::<AnyBody>::Unknown });
    let service = behind(&settles, &crashing());
    send(&service, post("k")).await;
    for _ in 0..3 {
        let got = send(&service, post("k")).await;
        assert_eq!((got.status.as_u16(), got.problem().as_str()), (409, "interrupted"));
        assert!(got.retryable());
    }
}

/// The process dies with the handler at work; the next one settles by itself.
#[tokio::test]
async fn after_a_crash() {
    let disk = SimStorage::new(5);
    let store = options().open_on(Arc::new(disk.clone())).unwrap();
    let never = handler(|_| std::future::pending());
    let service = behind(&layer(&store), &never);
    let call = tokio::spawn(send(&service, post("k")));
    until(|| never.runs() == 1).await;
    let store = options().open_on(Arc::new(disk.kill())).unwrap();
    call.abort();
    let orders = counter();
    let refusing = behind(&layer(&store), &orders);
    let got = send(&refusing, post("k")).await;
    assert_eq!((got.problem().as_str(), got.retryable()), ("interrupted", false));
    let settles = layer(&store).settle(|attempt: Attempt, _| async move {
        assert_eq!(attempt.after(), Some(Reason::Crashed));
        Settlement::Happened(answer(201, "found"))
    });
    assert_eq!(send(&behind(&settles, &orders), post("k")).await.text(), "found");
    assert_eq!(orders.runs(), 0);
}

/// Beyond the execution limit the holder is silent. Nothing runs beside it by itself.
#[tokio::test]
async fn a_holder_that_may_live_is_left_alone() {
    let clock = ManualClock::at(1_000_000);
    let limits = Options::new().lease(Duration::from_secs(10));
    let limits = limits.execution_limit(Duration::from_secs(60)).capacity(64 << 20);
    let store = limits.clock(clock.clone()).open_on(Arc::new(SimStorage::new(7))).unwrap();
    let never = handler(|_| std::future::pending());
    let hung = behind(&layer(&store), &never);
    let call = tokio::spawn(send(&hung, post("k")));
    until(|| never.runs() == 1).await;
    let orders = counter();
    let service = behind(&layer(&store).resume(), &orders);
    // Kept alive by the store while the handler runs …
    clock.advance(Duration::from_secs(59));
    assert_eq!(send(&service, post("k")).await.problem(), "in-flight");
    // … up to the limit.
    clock.advance(Duration::from_secs(2));
    let got = send(&service, post("k")).await;
    assert_eq!((got.problem().as_str(), got.retryable()), ("interrupted", true));
    assert_eq!(orders.runs(), 0);
    let daring = behind(&layer(&store).resume().even_if_holder_lives(), &orders);
    assert_eq!(send(&daring, post("k")).await.text(), "order 1");
    call.abort();
}

/// Two retries of one interrupted key: one of them resumes.
#[tokio::test]
async fn one_of_many_resumes() {
    let store = store();
    let service = behind(&layer(&store), &crashing());
    send(&service, post("k")).await;
    let orders = counter();
    let service = behind(&layer(&store).resume().wait(HOUR), &orders);
    let calls: Vec<_> = (0..20).map(|_| tokio::spawn(send(&service, post("k")))).collect();
    for call in calls {
        assert_eq!(call.await.unwrap().text(), "order 1");
    }
    assert_eq!(orders.runs(), 1);
}

/// Other users of the store, such as a queue's consumer, meet the same states.
#[tokio::test]
async fn a_released_claim_goes_to_one_who_waits() {
    let store = store();
    let orders = counter();
    let layer = IdempotencyLayer::new(AsyncStore::new(store.clone()), KeyScope::Global);
    let service: onlyonce::http::Idempotency<Store, _> = behind(&layer.wait(HOUR), &orders);
    let first = handler(|_| async {
        tokio::task::yield_now().await;
        answer(429, "later")
    });
    let busy = behind(&self::layer(&store), &first);
    let call = tokio::spawn(send(&busy, post("k")));
    let rest: Vec<_> = (0..5).map(|_| tokio::spawn(send(&service, post("k")))).collect();
    call.await.unwrap();
    for call in rest {
        assert_eq!(call.await.unwrap().text(), "order 1");
    }
    assert_eq!(orders.runs(), 1);
    assert_eq!(store.entries(Filter::ALL).count(), 1);
    let scope = Scope::global();
    let key = KeyRef::new(&scope, "k").unwrap();
    let begun = store.begin(key, Fingerprint::of(["another"])).unwrap();
    assert!(matches!(begun, Begin::Mismatch { .. }));
}

/// A client that comes back when it is told to, again and again, while nothing can be learned or
/// done, does not use its key up.
#[tokio::test]
async fn obedient_clients_keep_their_keys() {
    for settles in [true, false] {
        let clock = ManualClock::at(1_000_000);
        let store = store_at(&clock);
        let up = Arc::new(AtomicU64::new(0));
        let runs = AtomicU64::new(0);
        let orders = {
            let up = up.clone();
            handler(move |_| {
                // Crashes once, then is too busy until it is up again.
                let first = runs.fetch_add(1, Ordering::SeqCst) == 0;
                let answer = match up.load(Ordering::SeqCst) {
                    _ if first => answer(500, "no database"),
                    0 => with(answer(429, "later"), "retry-after", "5"),
                    _ => answer(201, "order"),
                };
                std::future::ready(answer)
            })
        };
        let layer = if settles {
            let up = up.clone();
            layer(&store).settle(move |_, _| {
                let found = match up.load(Ordering::SeqCst) {
                    0 => Settlement::Unknown,
                    _ => Settlement::Happened(answer(201, "found")),
                };
                std::future::ready(found)
            })
        } else {
            layer(&store).resume()
        };
        let address = serve(behind(&layer, &orders)).await;
        assert_eq!(send_to(address, post("k")).await.status, 500);
        for _ in 0..100 {
            let got = send_to(address, post("k")).await;
            let expected = if settles { 500 } else { 429 };
            assert_eq!(got.status, expected, "{got:?}");
            let wait = got.header("retry-after").map_or(5, |wait| wait.parse().unwrap());
            clock.advance(Duration::from_secs(wait));
        }
        up.store(1, Ordering::SeqCst);
        // Settling rests for up to five minutes after a look that learned nothing.
        clock.advance(Duration::from_secs(300));
        let got = send_to(address, post("k")).await;
        assert_eq!(
            (got.status.as_u16(), got.text()),
            (201, if settles { "found" } else { "order" })
        );
        assert!(send_to(address, post("k")).await.is_replay());
    }
}
