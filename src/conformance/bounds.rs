//! Keys, responses, sizes and terms at their bounds.

use super::{Subject, words::*};
use crate::{
    error::{BeginError, ClaimError},
    key::{KeyRef, Scope},
    limits::{CHECKPOINT_BYTES_MAX, HEAD_BYTES_MAX},
    record::Retention,
    spi::{ClaimOp, Completion, Found, IdempotencyStore, Terms},
};
use std::time::Duration;

pub(super) async fn keys<S: Subject>(bench: &Bench<'_, S>) {
    // Apart from the suite's other keys by what is random in them.
    let apart = bench.key();
    let every_byte: Vec<u8> = (0..=255).filter(|&byte| byte != b'!').collect();
    let part = |bytes: &[u8]| [apart.key(), bytes].concat();
    let scope = |bytes: &[u8]| Scope::new([&apart.scope()[..20], bytes].concat()).expect("short");
    let longest = vec![0; 255];
    let pairs: Vec<(Scope, Vec<u8>)> = vec![
        (scope(b"a"), part(b"bc")),
        (scope(b"ab"), [b"", &part(b"c")[..]].concat()),
        (scope(b"a"), part(b"BC")),
        (scope(b"a"), part(b"bc ")),
        (scope(b"a"), part(b"bc\0")),
        (scope(b"A"), part(b"bc")),
        (scope(b""), part(b"\xff\xfe")),
        (scope(b"a"), every_byte),
        (scope(b"a"), longest),
        (scope(b"a"), vec![0; 254]),
    ];
    let mut held = Vec::new();
    for (scope, key) in &pairs {
        let request = bench.request_for(KeyRef::new(scope, key).expect("a key").owned());
        let ticket = bench.claim(&request).await.ticket;
        held.push((request, ticket));
    }
    for (n, (_, ticket)) in held.iter().enumerate() {
        assert_eq!(bench.write(ticket, complete(&[n as u8])).await, Ok(()));
    }
    for (n, (request, _)) in held.iter().enumerate() {
        assert_eq!(replayed(bench.begin(request).await).response(), Some(&[n as u8][..]));
    }
}

pub(super) async fn responses<S: Subject>(bench: &Bench<'_, S>) {
    let every_byte: Vec<u8> = (0..=255).collect();
    for response in [&b""[..], b"\0", &every_byte, &[0; 1000]] {
        for head in [&b""[..], b"\0\xff"] {
            let (request, ticket) = bench.brought(By::Begin).await;
            let done = Completion { head, response: Some(response), retention: None };
            assert_eq!(bench.write(&ticket, ClaimOp::Complete(done)).await, Ok(()));
            for _ in 0..2 {
                let record = replayed(bench.begin(&request).await);
                assert_eq!((record.head(), record.response()), (head, Some(response)));
                assert_eq!(record.token(), ticket.token);
            }
        }
    }
}

pub(super) async fn sizes<S: Subject>(bench: &Bench<'_, S>) {
    let most = bench.facts.max_response;
    let mut request = bench.request();
    request.terms.reserve = Some(most);
    let ticket = bench.claim(&request).await.ticket;
    let (most, bytes) = (most as usize, vec![7; most as usize + 1]);
    for verb in [complete(&bytes), ClaimOp::Fail(&bytes)] {
        let refused = Err(ClaimError::ResponseTooLarge { len: most + 1, limit: most });
        assert_eq!(bench.write(&ticket, verb).await, refused);
    }
    let long = vec![7; HEAD_BYTES_MAX + 1];
    let headed = ClaimOp::Complete(Completion { head: &long, ..Completion::default() });
    let (len, limit) = (HEAD_BYTES_MAX + 1, HEAD_BYTES_MAX);
    let refused = Err(ClaimError::TooLong { what: "the head", len, limit });
    assert_eq!(bench.write(&ticket, headed).await, refused);
    let long = vec![7; CHECKPOINT_BYTES_MAX + 1];
    let (len, limit) = (CHECKPOINT_BYTES_MAX + 1, CHECKPOINT_BYTES_MAX);
    let refused = Err(ClaimError::TooLong { what: "the checkpoint", len, limit });
    assert_eq!(bench.write(&ticket, ClaimOp::Checkpoint(&long)).await, refused);
    // The claim is still held, and what fits is stored.
    assert_eq!(bench.is(&request).await, Is::InFlight);
    assert_eq!(bench.write(&ticket, ClaimOp::Checkpoint(&long[1..])).await, Ok(()));
    assert_eq!(bench.write(&ticket, complete(&bytes[1..])).await, Ok(()));
    assert_eq!(replayed(bench.begin(&request).await).response(), Some(&bytes[1..]));
    // A claim's own reserve counts, the head included; without a response there is always room.
    let mut request = bench.request();
    request.terms.reserve = Some(3);
    let ticket = bench.claim(&request).await.ticket;
    let done = Completion { head: b"ab", response: Some(b"cd"), retention: None };
    let refused = Err(ClaimError::ResponseTooLarge { len: 4, limit: 3 });
    assert_eq!(bench.write(&ticket, ClaimOp::Complete(done)).await, refused);
    let short = Completion { head: b"a longer head", ..Completion::default() };
    assert_eq!(bench.write(&ticket, ClaimOp::Complete(short)).await, Ok(()));
}

pub(super) async fn terms<S: Subject>(bench: &Bench<'_, S>) {
    let day = Duration::from_secs(24 * 3600);
    let (short, ten_years) = (Some(Retention::of(LEASE - MS)), Retention::of(day * 366 * 10));
    let with = |lease, retention, reserve| Terms { lease, retention, reserve, ..Terms::default() };
    let windows = Some(Retention { replay_for: HOUR * 2, remember_for: HOUR });
    let refused = [
        with(Some(Duration::ZERO), None, None),
        with(Some(day * 30 + MS), Some(ten_years), None),
        with(Some(LEASE), short, None),
        with(Some(LEASE), windows, None),
        with(Some(LEASE), Some(Retention::of(day * 366 * 10 + MS)), None),
        with(Some(LEASE), None, Some(bench.facts.max_response + 1)),
    ];
    for terms in refused {
        let mut request = bench.request();
        request.terms = terms;
        let error = bench.store().begin(&request).await.expect_err("terms that can't be kept");
        assert!(matches!(error, BeginError::Terms { .. }), "{terms:?}: {error:?}");
    }
    let (request, ticket) = bench.brought(By::Begin).await;
    for retention in [Retention::of(Duration::ZERO), Retention::of(day * 366 * 10 + MS)] {
        let done = Completion { retention: Some(retention), ..Completion::default() };
        let error = bench.write(&ticket, ClaimOp::Complete(done)).await;
        assert!(matches!(error, Err(ClaimError::Terms { .. })), "{retention:?}: {error:?}");
    }
    assert_eq!(bench.is(&request).await, Is::InFlight);
    let mut longest = bench.request();
    longest.terms = with(Some(day * 30), Some(ten_years), Some(0));
    let ticket = bench.claim(&longest).await.ticket;
    assert_eq!((ticket.lease, ticket.reserve), (day * 30, 0));
    assert_eq!(bench.write(&ticket, complete(b"")).await, Ok(()));
    let record = replayed(bench.begin(&longest).await);
    assert_eq!(u128::from(record.expires_at() - record.completed_at()), (day * 3660).as_millis());
}

pub(super) async fn schemes<S: Subject>(bench: &Bench<'_, S>) {
    let mut request = bench.request();
    request.fingerprint = bench.print().with_scheme(7);
    let ticket = bench.claim(&request).await.ticket;
    let mut newer = request.clone();
    newer.fingerprint = bench.print().with_scheme(8);
    for _ in 0..2 {
        let found = bench.begin(&newer).await;
        assert!(matches!(found, Found::Mismatch { scheme: 7 }), "{found:?}");
        assert_eq!(bench.write(&ticket, complete(RESPONSE)).await, Ok(()));
    }
    assert_eq!(replayed(bench.begin(&request).await).response(), Some(RESPONSE));
}
