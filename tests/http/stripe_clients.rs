//! H37: Stripe's own clients, for Node and for Python, against a service whose refusals have the shape of
//! Stripe's, and whose answers get lost. Skipped, with a line, where `.ci/clients` has not installed
//! them.

use crate::service::*;

use bytes::Bytes;
use http::Request;
use onlyonce::{
    Store,
    http::{BoxError, KeyScope, ProblemDetails},
};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
};
use tokio::sync::Semaphore;
use tower::{ServiceExt, service_fn};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn installed(what: &str) -> PathBuf {
    root().join("target/clients").join(what)
}

/// Runs a client against a service of its own: three charges, of which each is made once.
async fn charges_by(command: impl FnOnce(&str) -> Command) {
    let (store, gate) = (store(), Arc::new(Semaphore::new(0)));
    let made = Mutex::new(0);
    let charges = handler({
        let gate = gate.clone();
        move |request: Request<Bytes>| {
            let number = {
                let mut made = made.lock().unwrap();
                *made += 1;
                *made
            };
            let slow = request.body().starts_with(b"amount=999");
            let gate = gate.clone();
            async move {
                if slow {
                    gate.acquire().await.unwrap().forget();
                }
                let body = format!("{{\"id\":\"ch_{number}\",\"object\":\"charge\"}}");
                with(answer(200, body), "content-type", "application/json")
            }
        }
    });
    let layer = onlyonce::http::IdempotencyLayer::<Store>::new(store.clone(), KeyScope::Global)
        .problem_body(ProblemDetails::stripe);
    let inner = behind(&layer, &charges);
    let tries: Arc<Mutex<HashMap<String, u32>>> = Arc::default();
    let (losing, runs, told) = (tries.clone(), charges.clone(), layer.clone());
    // The first answer for a key is lost, with its connection; that of a slow charge while it is made.
    let lossy = service_fn(move |request: Request<hyper::body::Incoming>| {
        let key =
            String::from_utf8_lossy(request.headers()["idempotency-key"].as_bytes()).into_owned();
        let slow = key.starts_with("slow");
        let nth = {
            let mut tries = losing.lock().unwrap();
            let nth = tries.entry(key).or_default();
            *nth += 1;
            *nth
        };
        let (inner, runs, gate, told) = (inner.clone(), runs.clone(), gate.clone(), told.clone());
        async move {
            let mut answering = tokio::spawn(inner.oneshot(request));
            if slow && nth == 1 {
                until(|| runs.runs() == 3).await;
                return Err(BoxError::from("lost while it was made"));
            }
            let answer = (&mut answering).await.unwrap()?;
            let refused = told.outcomes().iter().any(|(name, n)| *name == "in-flight" && *n > 0);
            if slow && refused {
                gate.add_permits(1);
            }
            if nth == 1 && answer.status().is_success() {
                return Err(BoxError::from("lost"));
            }
            Ok(answer)
        }
    });
    let address = serve(lossy).await;
    let mut command = command(&address.to_string());
    let ended = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(ended.status.success(), "{}{}", said(&ended.stdout), said(&ended.stderr));
    assert_eq!((charges.runs(), store.stats().completed), (3, 3));
    assert_eq!(store.stats().interrupted, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn for_node() {
    let packages = installed("node");
    if !packages.join("node_modules/stripe").is_dir() {
        println!("skipped: Stripe's client for Node is not here; .ci/clients installs it");
        return;
    }
    charges_by(|address| {
        let (host, port) = address.split_once(':').unwrap();
        let mut node = Command::new("node");
        node.arg(root().join("tests/http/stripe_client.mjs")).arg(packages).args([host, port]);
        node
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn for_python() {
    let packages = installed("python");
    if !packages.join("stripe").is_dir() {
        println!("skipped: Stripe's client for Python is not here; .ci/clients installs it");
        return;
    }
    charges_by(|address| {
        let mut python = Command::new("python3");
        python.arg(root().join("tests/http/stripe_client.py")).arg(format!("http://{address}"));
        python.env("PYTHONPATH", packages);
        python
    })
    .await;
}
