//! H30: what can't work is told when a layer is put around a service.

use crate::service::*;

use http::Method;
use onlyonce::http::{Fingerprints, KeySource, Policy};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

#[test]
fn wrong_ones_are_refused_before_any_request() {
    let store = store();
    let second = Duration::from_secs(1);
    let twice = Fingerprints::new().or_older(Fingerprints::new().host(false));
    let wrong = [
        (layer(&store).retention(second), "at least the lease"),
        (layer(&store).lease(24 * HOUR).retention(HOUR), "at least the lease"),
        (layer(&store).lease(31 * 24 * HOUR), "30 days"),
        (layer(&store).retention(11 * 366 * 24 * HOUR), "ten years"),
        (layer(&store).max_response(1 << 30), "max_response"),
        (layer(&store).methods(Vec::<Method>::new()), "no method"),
        (layer(&store).paths(["orders"]), "doesn't begin with /"),
        (layer(&store).paths(["/a/*/b"]), "before its end"),
        (layer(&store).policy(Policy::default().path("a*", Policy::default())), "begin with /"),
        (layer(&store).fingerprint(twice), "two definitions"),
        (layer(&store).fingerprint(Fingerprints::new().json_only(["a"])), "JSON pointer"),
        (layer(&store).key(KeySource::default().min_bytes(256)), "at most 255"),
    ];
    for (layer, why) in wrong {
        let wrong = layer.check().unwrap_err().to_string();
        assert!(wrong.contains(why), "{wrong}");
        let built = catch_unwind(AssertUnwindSafe(|| behind(&layer, &counter())));
        let told = built.expect_err("it was built");
        assert_eq!(*told.downcast::<String>().unwrap(), wrong);
    }
    assert_eq!(store.stats().granted, 0);
}

#[test]
fn what_works_is_not() {
    let store = store();
    let older = Fingerprints::new().host(false);
    let rules = Fingerprints::new().scheme(2).or_older(older);
    let all = layer(&store)
        .paths(["/orders", "/quotes/*", "*"])
        .max_response(64 << 10)
        .lease(HOUR)
        .retention(HOUR)
        .fingerprint(rules);
    assert_eq!(all.check(), Ok(()));
    // Of a store that is closed nothing is known.
    store.close().unwrap();
    assert_eq!(all.max_response(1).check(), Ok(()));
}
