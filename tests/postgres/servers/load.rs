//! Clients that race for keys while servers fail, and a witness who knows every answer they got.

use super::{begin_patiently, key, print};
use onlyonce::*;
use std::{
    collections::HashMap,
    fmt::Debug,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinHandle;

/// Leases of the load. Real time: the servers' clocks run.
pub const LEASE: Duration = Duration::from_secs(2);

/// How many clients race for each key.
const RACERS: u64 = 3;

/// What was seen of one key.
#[derive(Default, Debug)]
struct Seen {
    /// Attempts that were granted: number and token.
    granted: Vec<(u32, u64)>,
    acknowledged: Option<Vec<u8>>,
    replayed: Option<Vec<u8>>,
}

/// Everything that clients were told.
#[derive(Default)]
pub struct Witness {
    keys: Mutex<HashMap<String, Seen>>,
    wrong: Mutex<Vec<String>>,
    stop: AtomicBool,
    next: AtomicU64,
    pub errors: AtomicU64,
}

impl Witness {
    pub fn acknowledged(&self) -> usize {
        let keys = self.keys.lock().unwrap();
        keys.values().filter(|seen| seen.acknowledged.is_some()).count()
    }

    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }

    fn granted(&self, name: &str, attempt: u32, token: u64) {
        let mut keys = self.keys.lock().unwrap();
        let seen = keys.entry(name.into()).or_default();
        for &(other, other_token) in &seen.granted {
            if other == attempt || (other < attempt) != (other_token < token) {
                self.wrong(format!("{name}: attempt {attempt} under {token} beside {seen:?}"));
                break;
            }
        }
        if let Some(done) = &seen.acknowledged {
            self.wrong(format!("{name}: granted after {done:?} was acknowledged"));
        }
        seen.granted.push((attempt, token));
    }

    fn acknowledge(&self, name: &str, response: Vec<u8>) {
        let mut keys = self.keys.lock().unwrap();
        let seen = keys.entry(name.into()).or_default();
        if let Some(other) = seen.acknowledged.replace(response.clone()) {
            self.wrong(format!("{name}: {response:?} acknowledged after {other:?}"));
        }
        if seen.replayed.as_ref().is_some_and(|replayed| *replayed != response) {
            self.wrong(format!("{name}: {response:?} acknowledged, but {seen:?} replayed"));
        }
    }

    fn replayed(&self, name: &str, response: &[u8]) {
        let mut keys = self.keys.lock().unwrap();
        let seen = keys.entry(name.into()).or_default();
        for known in seen.acknowledged.iter().chain(&seen.replayed) {
            if known != response {
                self.wrong(format!("{name}: replayed {response:?}, known {known:?}"));
                break;
            }
        }
        seen.replayed = Some(response.to_vec());
    }
}

/// Clients at work.
pub struct Load {
    pub witness: Arc<Witness>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// So many clients, each with this store or one of these.
    pub fn start<S: IdempotencyStore + Debug>(stores: &[S], clients: usize) -> Self {
        let witness = Arc::new(Witness::default());
        let clients = (0..clients).map(|i| {
            let store = AsyncStore::new(stores[i % stores.len()].clone());
            tokio::spawn(client(store, witness.clone()))
        });
        Load { clients: clients.collect(), witness }
    }

    /// Waits for so many more completions to be acknowledged.
    pub async fn acknowledges(&self, more: usize) {
        let before = self.witness.acknowledged();
        super::until(async || self.witness.acknowledged() >= before + more).await;
    }

    /// Waits for so many more calls to fail.
    pub async fn fails(&self, more: u64) {
        let errors = || self.witness.errors.load(Ordering::SeqCst);
        let before = errors();
        super::until(async || errors() >= before + more).await;
    }

    /// Stops the clients and judges: no acknowledged completion lost, no key granted twice, no
    /// wrong response, and no key stuck after the lease.
    pub async fn judge<S: IdempotencyStore + Debug>(self, store: &S) {
        let wrong = self.wrong(store).await;
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    /// The same; what was wrong.
    pub async fn wrong<S: IdempotencyStore + Debug>(self, store: &S) -> Vec<String> {
        self.witness.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            client.await.unwrap();
        }
        let store = AsyncStore::new(store.clone());
        tokio::time::sleep(LEASE).await;
        let names: Vec<String> = self.witness.keys.lock().unwrap().keys().cloned().collect();
        let judges = names.chunks(names.len().div_ceil(8).max(1)).map(|names| {
            let (store, witness, names) = (store.clone(), self.witness.clone(), names.to_vec());
            tokio::spawn(async move {
                for name in &names {
                    finish(&store, name, &witness).await;
                    let replay = begin_patiently(&store, name).await;
                    let Begin::Replay(record) = replay else { panic!("{name}: {replay:?}") };
                    witness.replayed(name, record.response().unwrap());
                }
            })
        });
        for judge in judges.collect::<Vec<_>>() {
            judge.await.unwrap();
        }
        println!(
            "{} keys, {} acknowledged, {} errors",
            names.len(),
            self.witness.acknowledged(),
            self.witness.errors.load(Ordering::SeqCst)
        );
        std::mem::take(&mut *self.witness.wrong.lock().unwrap())
    }
}

async fn client<S: IdempotencyStore + Debug>(store: AsyncStore<S>, witness: Arc<Witness>) {
    while !witness.stop.load(Ordering::SeqCst) {
        let n = witness.next.fetch_add(1, Ordering::SeqCst) / RACERS;
        ask(&store, &format!("k{n}"), &witness).await;
    }
}

async fn ask<S: IdempotencyStore>(store: &AsyncStore<S>, name: &str, witness: &Witness) {
    match store.begin(key(name), print()).await {
        Ok(Begin::Execute(claim)) => work(claim, name, witness).await,
        Ok(Begin::Replay(record)) => witness.replayed(name, record.response().unwrap()),
        Ok(Begin::InFlight(_)) => {}
        Ok(Begin::Interrupted(stuck)) => match stuck.take_over().await {
            Ok(Begin::Execute(claim)) => work(claim, name, witness).await,
            Ok(Begin::Replay(record)) => witness.replayed(name, record.response().unwrap()),
            Ok(_) => {}
            Err(_) => drop(witness.errors.fetch_add(1, Ordering::SeqCst)),
        },
        Ok(Begin::Mismatch { .. }) => witness.wrong(format!("{name}: mismatch")),
        Err(error) => {
            assert!(matches!(error, BeginError::Unavailable { .. }), "{error:?}");
            witness.errors.fetch_add(1, Ordering::SeqCst);
        }
    }
}

async fn work<S: IdempotencyStore>(mut claim: Claim<AsyncStore<S>>, name: &str, witness: &Witness) {
    witness.granted(name, claim.attempt(), claim.token().get());
    let response = format!("{name} by {}", claim.token()).into_bytes();
    match claim.complete(&response).await {
        Ok(()) => witness.acknowledge(name, response),
        Err(ClaimError::Unavailable { .. } | ClaimError::Fenced) => {
            witness.errors.fetch_add(1, Ordering::SeqCst);
        }
        Err(error) => witness.wrong(format!("{name}: {error:?}")),
    }
}

/// Whatever the key is after its lease: it can be brought to an end.
async fn finish<S: IdempotencyStore>(store: &AsyncStore<S>, name: &str, witness: &Witness) {
    for _ in 0..100 {
        match begin_patiently(store, name).await {
            Begin::Replay(_) => return,
            // A dropped claim whose end is still on its way.
            Begin::InFlight(_) => tokio::time::sleep(LEASE / 20).await,
            Begin::Interrupted(stuck) => match stuck.take_over().await {
                Ok(Begin::Execute(claim)) => work(claim, name, witness).await,
                Ok(_) | Err(BeginError::Unavailable { .. }) => {}
                Err(error) => panic!("{name}: {error:?}"),
            },
            // Its claim never reached anybody, or was undone.
            Begin::Execute(claim) => work(claim, name, witness).await,
            Begin::Mismatch { .. } => panic!("{name}: mismatch"),
        }
    }
    panic!("{name} is stuck after its lease");
}
