//! A queue consumer whose messages take effect once, though the queue delivers them at least once.
//!
//! The message's id is the key. A message is acknowledged only after its claim is complete;
//! whatever happens before that, the queue delivers it again, and then
//!
//! - a completed one is acknowledged, nothing else;
//! - an interrupted one is **settled** where its effect can be looked up (a row with
//!   `derive_key` in a unique column), and **parked** for a person where it can't (a mail);
//! - one that another consumer has in hand is left to it.
//!
//! Run it: `cargo run --example queue_consumer`.

use onlyonce::{Claim, Fingerprint, KeyRef, OnceError, Outcome, Scope, Settled, Store};
use std::{
    collections::{BTreeMap, VecDeque},
    error::Error,
    panic::resume_unwind,
    process::ExitCode,
    sync::{Mutex, mpsc},
    thread,
};

/// What a message asks for.
#[derive(Clone, Debug)]
enum Task {
    /// Take one of these from the stock: a row in our database.
    Take(&'static str),
    /// Send a mail: it can't be found out whether it went out.
    Mail(&'static str),
}

#[derive(Clone, Debug)]
struct Message {
    id: &'static str,
    task: Task,
}

/// What a consumer did with a delivery.
#[derive(Debug, PartialEq)]
enum Did {
    /// Executed it.
    Executed,
    /// Found it done.
    FoundDone,
    /// Left it to the consumer that has it.
    LeftIt,
    /// Put it aside for a person.
    Parked,
}

/// Where a consumer dies.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Dies {
    No,
    BeforeTheEffect,
    AfterTheEffect,
    BeforeTheAcknowledgement,
}

/// A queue that delivers at least once.
#[derive(Default)]
struct Queue {
    waiting: Mutex<VecDeque<Message>>,
    unacknowledged: Mutex<Vec<Message>>,
    parked: Mutex<Vec<Message>>,
}

impl Queue {
    fn deliver(&self) -> Option<Message> {
        let message = self.waiting.lock().unwrap().pop_front()?;
        self.unacknowledged.lock().unwrap().push(message.clone());
        Some(message)
    }

    fn acknowledge(&self, message: &Message) {
        self.unacknowledged.lock().unwrap().retain(|other| other.id != message.id);
    }

    /// What was not acknowledged in time is delivered again.
    fn time_passes(&self) {
        self.waiting.lock().unwrap().extend(self.unacknowledged.lock().unwrap().drain(..));
    }

    fn is_empty(&self) -> bool {
        self.waiting.lock().unwrap().is_empty() && self.unacknowledged.lock().unwrap().is_empty()
    }
}

/// The world that messages change.
#[derive(Default)]
struct World {
    /// The stock's rows, by a unique column.
    taken: Mutex<BTreeMap<String, &'static str>>,
    /// The mails that went out.
    mails: Mutex<Vec<&'static str>>,
}

impl World {
    fn take(&self, unique: String, what: &'static str) -> Result<(), Box<dyn Error>> {
        match self.taken.lock().unwrap().insert(unique, what) {
            None => Ok(()),
            Some(_) => Err("the unique column has this value already".into()),
        }
    }
}

/// Handles one delivery. `half_way` runs between effect and completion.
fn consume(
    store: &Store,
    world: &World,
    queue: &Queue,
    message: &Message,
    dies: Dies,
    half_way: impl FnOnce(),
) -> Result<Did, Box<dyn Error>> {
    let scope = Scope::of(["shop-7", "queue", "orders"]);
    let key = KeyRef::new(&scope, message.id)?;
    let ran = store
        .once(key, Fingerprint::of([format!("{:?}", message.task)]))
        // Asked only when an earlier attempt was interrupted and its holder is gone.
        .settle(|claim: &Claim| match message.task {
            Task::Take(_)
                if world.taken.lock().unwrap().contains_key(&claim.derive_key("take")) =>
            {
                Settled::Happened(b"taken".to_vec())
            }
            Task::Take(_) => Settled::NothingHappened,
            Task::Mail(_) => Settled::Unknown,
        })
        .run::<Box<dyn Error>>(|claim| {
            die_if(dies == Dies::BeforeTheEffect);
            match message.task {
                Task::Take(what) => world.take(claim.derive_key("take"), what)?,
                Task::Mail(whom) => world.mails.lock().unwrap().push(whom),
            }
            half_way();
            die_if(dies == Dies::AfterTheEffect);
            Ok(b"taken".to_vec())
        });
    die_if(dies == Dies::BeforeTheAcknowledgement);
    match ran {
        // Completed, and on the disk: now, and not before, the queue may forget it.
        Ok(ran) => {
            queue.acknowledge(message);
            match ran {
                Outcome::Executed(_) => Ok(Did::Executed),
                Outcome::Replayed(_) => Ok(Did::FoundDone),
            }
        }
        Err(OnceError::InFlight { .. }) => Ok(Did::LeftIt),
        // It can't be found out, or the id was used for another message: a person must look.
        Err(OnceError::Interrupted(_) | OnceError::Mismatch) => {
            queue.parked.lock().unwrap().push(message.clone());
            queue.acknowledge(message);
            Ok(Did::Parked)
        }
        // Not acknowledged: the queue delivers it again.
        Err(error) => Err(error.to_string().into()),
    }
}

/// A panic without the noise.
fn die_if(so: bool) {
    if so {
        resume_unwind(Box::new("the consumer dies"));
    }
}

/// One message, delivered until it is acknowledged, to a first consumer that dies. Returns what
/// the last one did.
fn deliver_until_done(
    (store, world, queue): (&Store, &World, &Queue),
    message: Message,
    dies: Dies,
) -> Result<Did, Box<dyn Error>> {
    println!("{} {:?}, the first consumer dies: {dies:?}", message.id, message.task);
    queue.waiting.lock().unwrap().push_back(message);
    let mut dies = dies;
    loop {
        let message = queue.deliver().ok_or("acknowledged, and yet not done")?;
        let consumer = thread::scope(|scope| {
            let consume = || {
                let did = consume(store, world, queue, &message, dies, || ());
                did.map_err(|error| error.to_string())
            };
            scope.spawn(consume).join()
        });
        match consumer {
            Err(_) => println!("  delivered; the consumer died, nothing acknowledged"),
            Ok(did) => {
                let did = did?;
                println!("  delivered; the consumer {did:?}");
                if queue.is_empty() {
                    return Ok(did);
                }
            }
        }
        dies = Dies::No;
        queue.time_passes();
    }
}

/// One message, delivered to a second consumer while the first is at work.
fn deliver_twice_at_once(
    (store, world, queue): (&Store, &World, &Queue),
    message: &Message,
) -> Result<(Did, Did), Box<dyn Error>> {
    println!("{} {:?}, delivered to two consumers at once", message.id, message.task);
    let (tell_working, working) = mpsc::channel();
    let (tell_go_on, go_on) = mpsc::channel::<()>();
    let (first, second) = thread::scope(|scope| {
        let first = scope.spawn(move || {
            let half_way = || {
                let _ = tell_working.send(());
                let _ = go_on.recv();
            };
            let did = consume(store, world, queue, message, Dies::No, half_way);
            did.map_err(|error| error.to_string())
        });
        let _ = working.recv();
        let second = consume(store, world, queue, message, Dies::No, || ());
        drop(tell_go_on);
        (first.join(), second)
    });
    let (first, second) = (first.map_err(|_| "the first consumer died")??, second?);
    println!("  the first consumer {first:?}, the second {second:?}");
    Ok((first, second))
}

fn expect(so: bool, what: &str) -> Result<(), Box<dyn Error>> {
    if !so {
        return Err(format!("this should be so: {what}").into());
    }
    println!("  as it should be: {what}");
    Ok(())
}

fn story() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path())?;
    let (world, queue) = (World::default(), Queue::default());
    let all = (&store, &world, &queue);
    let take = |id, what| Message { id, task: Task::Take(what) };

    let did = deliver_until_done(all, take("m1", "book"), Dies::No)?;
    expect(did == Did::Executed, "executed, then acknowledged")?;
    let did = deliver_until_done(all, take("m2", "lamp"), Dies::BeforeTheAcknowledgement)?;
    expect(did == Did::FoundDone, "completed is completed: only acknowledged")?;
    let did = deliver_until_done(all, take("m3", "desk"), Dies::AfterTheEffect)?;
    expect(did == Did::FoundDone, "settled: the row is there, it happened")?;
    let did = deliver_until_done(all, take("m4", "vase"), Dies::BeforeTheEffect)?;
    expect(did == Did::Executed, "settled: no row, nothing had happened, so it runs")?;
    let mail = Message { id: "m5", task: Task::Mail("ann") };
    let did = deliver_until_done(all, mail, Dies::AfterTheEffect)?;
    expect(did == Did::Parked, "it can't be found out whether the mail went out: parked")?;
    let did = deliver_twice_at_once(all, &take("m6", "sofa"))?;
    expect(did == (Did::Executed, Did::LeftIt), "one executes, the other leaves it alone")?;

    println!("In the end");
    let mut taken: Vec<_> = world.taken.lock().unwrap().values().copied().collect();
    taken.sort_unstable();
    println!("  taken from the stock: {taken:?}");
    expect(taken == ["book", "desk", "lamp", "sofa", "vase"], "everything once")?;
    expect(*world.mails.lock().unwrap() == ["ann"], "one mail")?;
    let parked: Vec<_> = queue.parked.lock().unwrap().iter().map(|message| message.id).collect();
    expect(parked == ["m5"] && queue.is_empty(), "one message is parked, none is left")?;
    store.close()?;
    Ok(())
}

fn main() -> ExitCode {
    match story() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
