//! The same random program on the embedded store and on PostgreSQL: the same answer to every call,
//! but for the tokens' numbers. `SEED=<n>` repeats one program; with `PROGRAMS=<n>` so many from
//! there are run.

use crate::servers::*;
use onlyonce::{
    postgres::PostgresStore,
    spi::{Abandon, ClaimOp, Found, Request, Ticket},
    *,
};
use std::{collections::HashMap, sync::Arc, time::Duration};

/// Calls of one program.
const STEPS: usize = 160;
/// Where both clocks start, in milliseconds.
const T0: u64 = 1_800_000_000_000;
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

struct Dice(u64);

impl Dice {
    /// Below `n`.
    fn roll(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len())]
    }
}

/// One call, the same for both. Tickets and tokens by the order in which they first appeared.
#[derive(Clone, Debug)]
enum Step {
    Begin { key: usize, print: usize, terms: Terms },
    TakeOver { key: usize, print: usize, seen: usize },
    Complete { ticket: usize, done: Done },
    Fail { ticket: usize, answer: &'static [u8] },
    Release { ticket: usize },
    Undo { ticket: usize },
    NothingHappened { ticket: usize },
    Checkpoint { ticket: usize, bytes: &'static [u8] },
    Renew { ticket: usize },
    EnsureDurable { ticket: usize },
    Abandon { ticket: usize, how: Abandon },
    Decide { key: usize, done: Done, named: bool, force: bool },
    Free { key: usize, force: bool },
    Forget { key: usize, force: bool },
    Get { key: usize },
    List,
    Advance(Duration),
    Housekeep,
}

#[derive(Clone, Copy)]
struct Done {
    head: &'static [u8],
    response: Option<&'static [u8]>,
    retention: Option<Retention>,
}

impl std::fmt::Debug for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let response = self.response.map(|response| &response[..response.len().min(3)]);
        write!(f, "{:?} {response:?} {:?}", self.head, self.retention)
    }
}

impl Done {
    fn completion(&self) -> Completion<'static> {
        Completion { head: self.head, response: self.response, retention: self.retention }
    }
}

const KEYS: [&str; 4] = ["a", "b", "c", "d"];
const TOO_LARGE: [u8; 2000] = [7; 2000];

fn prints(n: usize) -> Fingerprint {
    Fingerprint::of(["POST", ["/orders", "/refunds"][n]]).with_scheme(n as u8)
}

fn step(dice: &mut Dice, tokens: usize) -> Step {
    let long = Retention { replay_for: HOUR, remember_for: HOUR * 3 };
    let key = dice.roll(KEYS.len());
    let print = usize::from(dice.roll(8) == 0);
    // Mostly the latest.
    let ticket = match dice.roll(3) {
        0 => dice.roll(tokens.max(1)),
        _ => tokens.saturating_sub(1 + dice.roll(3)),
    };
    let done = Done {
        head: dice.pick(&[&b""[..], b"201"]),
        response: dice.pick(&[
            Some(&b"one"[..]),
            Some(b"one"),
            Some(b"two"),
            None,
            Some(&TOO_LARGE),
        ]),
        retention: dice.pick(&[None, None, Some(Retention::of(SECOND)), Some(long)]),
    };
    let force = dice.roll(2) == 0;
    match dice.roll(36) {
        0..8 => {
            let terms = Terms {
                lease: dice.pick(&[None, Some(SECOND * 10), Some(Duration::ZERO)]),
                retention: dice.pick(&[None, Some(Retention::of(HOUR)), Some(long)]),
                reserve: dice.pick(&[None, Some(1024), Some(1 << 20)]),
                keep_alive: false,
                shared: false,
            };
            let usual = Terms { lease: terms.lease.filter(|l| !l.is_zero()), ..terms };
            let usual = Terms { reserve: usual.reserve.filter(|r| *r < 2000), ..usual };
            let terms = if dice.roll(10) == 0 { terms } else { usual };
            Step::Begin { key, print, terms }
        }
        8..13 => Step::TakeOver { key, print, seen: ticket },
        13..16 => Step::Complete { ticket, done },
        16..18 => Step::Fail { ticket, answer: dice.pick(&[b"500", b"502"]) },
        18 => Step::Release { ticket },
        33 => Step::Undo { ticket },
        34 => Step::NothingHappened { ticket },
        19 => Step::Checkpoint { ticket, bytes: dice.pick(&[&b"half"[..], b"", b"\0\xff"]) },
        20 => Step::Renew { ticket },
        21 => Step::EnsureDurable { ticket },
        22..25 => Step::Abandon { ticket, how: dice.pick(&[Abandon::Dropped, Abandon::Panicked]) },
        25 => Step::Decide { key, done, named: dice.roll(2) == 0, force },
        26 => Step::Free { key, force },
        27 => Step::Forget { key, force },
        28..30 => Step::Get { key },
        30 => Step::List,
        31..33 => Step::Advance(dice.pick(&[
            Duration::from_millis(1),
            SECOND,
            Duration::from_millis(9_999),
            SECOND * 10,
            SECOND * 60,
            HOUR,
            HOUR * 2,
            HOUR * 24 * 7,
        ])),
        _ => Step::Housekeep,
    }
}

/// What the two have in common beyond the trait.
trait Backend: IdempotencyStore {
    async fn decide(
        &self,
        key: KeyRef<'_>,
        how: Resolution<'_>,
        force: bool,
    ) -> Result<(), StoreError>;
    async fn entry(&self, key: KeyRef<'_>) -> Option<Entry>;
    async fn list(&self) -> Vec<Entry>;
    async fn told(&self);
    async fn tidy(&self);
}

impl Backend for Store {
    async fn decide(
        &self,
        key: KeyRef<'_>,
        how: Resolution<'_>,
        force: bool,
    ) -> Result<(), StoreError> {
        self.resolve_with(key, how, ResolveOptions::new().force(force))
    }

    async fn entry(&self, key: KeyRef<'_>) -> Option<Entry> {
        self.get(key).unwrap()
    }

    async fn list(&self) -> Vec<Entry> {
        self.entries(Filter::ALL).map(Result::unwrap).collect()
    }

    async fn told(&self) {}

    async fn tidy(&self) {
        self.housekeep().unwrap();
    }
}

impl Backend for PostgresStore {
    async fn decide(
        &self,
        key: KeyRef<'_>,
        how: Resolution<'_>,
        force: bool,
    ) -> Result<(), StoreError> {
        self.resolve_with(key, how, ResolveOptions::new().force(force)).await
    }

    async fn entry(&self, key: KeyRef<'_>) -> Option<Entry> {
        self.get(key).await.unwrap()
    }

    async fn list(&self) -> Vec<Entry> {
        self.entries(Filter::ALL, None, 100).await.unwrap().entries
    }

    async fn told(&self) {
        assert_eq!(self.drain(SECOND * 20).await, 0);
    }

    async fn tidy(&self) {
        self.sweep().await.unwrap();
    }
}

/// One of the two, and what it has given out.
struct Side<S> {
    store: S,
    /// Those of a key rise; two keys may have the same.
    tokens: HashMap<(OwnedKey, Token), usize>,
    numbered: Vec<(OwnedKey, Token)>,
    tickets: Vec<Option<Ticket>>,
}

impl<S: Backend> Side<S> {
    fn new(store: S) -> Self {
        let (tokens, numbered, tickets) = (HashMap::new(), Vec::new(), Vec::new());
        Side { store, tokens, numbered, tickets }
    }

    /// A token by the order of its first appearance.
    fn number(&mut self, key: KeyRef<'_>, token: Token) -> usize {
        let next = self.numbered.len();
        let named = (OwnedKey::from(key), token);
        let number = *self.tokens.entry(named.clone()).or_insert(next);
        if number == next {
            self.numbered.push(named);
            self.tickets.push(None);
        }
        number
    }

    fn record(&mut self, key: KeyRef<'_>, record: &Record) -> String {
        let token = self.number(key, record.token());
        let (head, response) = (record.head(), record.response());
        let (from, to) = (record.completed_at(), record.expires_at());
        format!("record {token}: {head:?} {response:?} {from} {to}")
    }

    fn found(&mut self, key: KeyRef<'_>, found: Result<Found, BeginError>) -> String {
        match found {
            Ok(Found::Granted(grant)) => {
                let number = self.number(key, grant.ticket.token);
                let Ticket { attempt, retention, lease, reserve, .. } = grant.ticket;
                let (after, checkpoint) = (grant.after, &grant.checkpoint);
                let told = format!(
                    "granted {number}: {attempt} {retention:?} {lease:?} {reserve} {after:?} \
                     {checkpoint:?}"
                );
                self.tickets[number] = Some(grant.ticket);
                told
            }
            Ok(Found::Replay(record)) => self.record(key, &record),
            Ok(Found::InFlight(running)) => {
                format!("{} runs for {:?}", self.number(key, running.token), running.running_for)
            }
            Ok(Found::Interrupted(stuck)) => {
                let number = self.number(key, stuck.token);
                let (reason, gone, attempts) = (stuck.reason, stuck.holder_gone, stuck.attempts);
                let (checkpoint, answer) = (stuck.checkpoint, stuck.answer);
                format!("stuck {number}: {reason:?} {gone} {attempts} {checkpoint:?} {answer:?}")
            }
            Ok(Found::Mismatch { scheme }) => format!("mismatch {scheme}"),
            Err(error) => format!("{error:?}"),
        }
    }

    fn shown(&mut self, entry: Entry) -> String {
        let (number, attempts) = (self.number(entry.key.as_ref(), entry.token), entry.attempts);
        let key = String::from_utf8_lossy(entry.key.key()).into_owned();
        let state = match entry.state {
            State::Completed(record) => self.record(entry.key.as_ref(), &record),
            state => format!("{state:?}"),
        };
        format!("{key} by {number}, {attempts}: {state}")
    }

    async fn take(&mut self, step: &Step, clock: &impl AsyncFn(Duration)) -> String {
        let request = |key: usize, print: usize, terms: Terms| Request {
            key: key_of(key).into(),
            fingerprint: prints(print),
            terms,
        };
        match step.clone() {
            Step::Begin { key, print, terms } => {
                let found = self.store.begin(&request(key, print, terms)).await;
                self.found(key_of(key), found)
            }
            Step::TakeOver { key, print, seen } => {
                let is_its = |named: &&(OwnedKey, Token)| named.0.as_ref() == key_of(key);
                // Mostly what was seen last of this key.
                let last = self.numbered.iter().rev().find(is_its).filter(|_| seen % 4 > 0);
                let seen = self.numbered.get(seen).filter(is_its).or(last);
                let seen = seen.map_or(Token::new(1).unwrap(), |named| named.1);
                let request = request(key, print, Terms::default());
                let found = self.store.take_over(&request, seen).await;
                self.found(key_of(key), found)
            }
            Step::Complete { ticket, done } => {
                self.write(ticket, ClaimOp::Complete(done.completion())).await
            }
            Step::Fail { ticket, answer } => self.write(ticket, ClaimOp::Fail(answer)).await,
            Step::NothingHappened { ticket } => self.write(ticket, ClaimOp::NothingHappened).await,
            Step::Release { ticket } | Step::Undo { ticket } => {
                let verb = match step {
                    Step::Undo { .. } => ClaimOp::Undo,
                    _ => ClaimOp::Release,
                };
                let told = self.write(ticket, verb).await;
                // The handle goes with it.
                if let Some(ticket) = self.tickets.get_mut(ticket).filter(|_| told == "Ok(())") {
                    *ticket = None;
                }
                told
            }
            Step::Checkpoint { ticket, bytes } => {
                self.write(ticket, ClaimOp::Checkpoint(bytes)).await
            }
            Step::Renew { ticket } => self.write(ticket, ClaimOp::Renew).await,
            Step::EnsureDurable { ticket } => self.write(ticket, ClaimOp::EnsureDurable).await,
            Step::Abandon { ticket, how } => {
                // A handle goes once.
                if let Some(ticket) = self.tickets.get_mut(ticket).and_then(Option::take) {
                    self.store.abandon(&ticket, how);
                    self.store.told().await;
                }
                String::new()
            }
            Step::Decide { key, done, named, force } => {
                let fingerprint = named.then(|| prints(0));
                let how = Resolution::Complete { fingerprint, completion: done.completion() };
                format!("{:?}", self.store.decide(key_of(key), how, force).await)
            }
            Step::Free { key, force } => {
                format!("{:?}", self.store.decide(key_of(key), Resolution::Free, force).await)
            }
            Step::Forget { key, force } => {
                format!("{:?}", self.store.decide(key_of(key), Resolution::Forget, force).await)
            }
            Step::Get { key } => match self.store.entry(key_of(key)).await {
                Some(entry) => self.shown(entry),
                None => "absent".into(),
            },
            Step::List => {
                let mut entries = self.store.list().await;
                entries.sort_by(|a, b| a.key.cmp(&b.key));
                entries.into_iter().map(|entry| self.shown(entry) + "\n").collect()
            }
            Step::Advance(by) => {
                clock(by).await;
                String::new()
            }
            Step::Housekeep => {
                self.store.tidy().await;
                String::new()
            }
        }
    }

    async fn write(&mut self, ticket: usize, op: ClaimOp<'_>) -> String {
        match self.tickets.get(ticket) {
            Some(Some(ticket)) => format!("{:?}", self.store.write(ticket, op).await),
            _ => String::new(),
        }
    }
}

fn key_of(n: usize) -> KeyRef<'static> {
    key(KEYS[n])
}

/// Runs one program; what was answered.
async fn compare(server: &Arc<Server>, seed: u64) -> Vec<String> {
    let database = server.database().await;
    let clock = ServerClock::new(server, &database).await;
    let there = clock.options().holder_session(true).max_attempts(2).connect().await.unwrap();
    let here = ManualClock::at(T0);
    let options =
        Options::new().clock(here.clone()).max_response(4096).max_claims(256).max_attempts(2);
    let options = options.ring_bytes(64 << 10).segment_bytes(1 << 20).capacity(64 << 20);
    let disk = storage::SimStorage::new(1);
    let mut embedded = Side::new(options.open_on(Arc::new(disk)).unwrap());
    let mut postgres = Side::new(there);
    let mut dice = Dice(seed | 1);
    let (mut program, mut answers) = (Vec::new(), Vec::new());
    for n in 0..STEPS {
        let step = step(&mut dice, embedded.numbered.len());
        let one = embedded.take(&step, &async |by| here.advance(by)).await;
        let other = postgres.take(&step, &async |by| clock.advance(by).await).await;
        program.push(format!("{step:?}\n    {one}"));
        answers.push(one.clone());
        if one != other {
            panic!(
                "SEED={seed}, call {n}: the embedded store and PostgreSQL differ\n{}\nbut\n    {other}",
                program.join("\n")
            );
        }
    }
    answers
}

/// What a comparison that means something has met.
const MET: [&str; 20] = [
    "granted",
    "record",
    "runs for",
    "stuck",
    "LeasePassed false",
    "Dropped true",
    "Panicked true",
    "GivenBack true",
    "Failed false",
    "Failed true",
    "mismatch 0",
    "AttemptsExhausted",
    "Terms",
    "ResponseTooLarge",
    "Err(Fenced)",
    "Err(DifferentResponse)",
    "Err(AlreadyCompleted)",
    "NeedsForce",
    "NotApplicable",
    "InFlight",
];

#[test]
fn every_answer_is_the_same() {
    block_on_for(Duration::from_secs(300), async {
        let Some(server) = Server::shared() else { return };
        let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
        // The same ones each time, so that what lands does not depend on luck.
        let first = number("SEED").unwrap_or(7);
        let programs = number("PROGRAMS").unwrap_or(if number("SEED").is_some() { 1 } else { 20 });
        let mut answers = Vec::new();
        for n in 0..programs {
            let seed = first.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            println!("SEED={seed}");
            answers.extend(compare(&server, seed).await);
        }
        for met in MET {
            let count = answers.iter().filter(|answer| answer.contains(met)).count();
            println!("{count} x {met}");
            assert!(count > 0 || programs < 20, "none of {} answers has {met}", answers.len());
        }
    });
}
