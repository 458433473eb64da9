//! Ten thousand tasks that wait for one committer: how often each is polled, and whether a
//! thread that polls them ever waits for the disk.

use measure::{
    Args, Folder, Latencies, Machine, time,
    trace::{Trace, TracedStorage},
    work::{RESPONSE_BYTES, key, new_series, print, scope},
};
use onlyonce::{AsyncStore, Begin, Durability, KeyRef, Options, Scope, Store};
use std::{
    future::Future,
    pin::Pin,
    process::ExitCode,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Wake, Waker},
    thread,
    time::{Duration, Instant},
};

const HELP: &str = "\
Many tasks on a small executor of this program claim and complete, each one key after the other.

    --tasks N        (10000)
    --threads N      of the executor (2)
    --seconds N      (20)
    --quick          the same as --seconds 2
    --durability D   synced or completions (synced)
    --dir DIR        for the store

Passes if
  a task is polled at most 1.1 times for each commit that it waits for, and once to begin: 2 polls
  more or less a pair with synced, 1 with completions; with a thundering herd it would be hundreds;
  no thread of the executor makes a call to the disk that can wait: a sync, a read, a write of
  anything but a claim's cell, or one that makes or removes files.
";

/// A poll for each commit that is waited for, and one in ten that finds nothing new.
const SPARE_POLLS: f64 = 1.1;
const EXECUTOR: &str = "executor";

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A task, which is in the queue once for any number of wakes.
struct Task {
    work: Mutex<Option<Work>>,
    queued: AtomicBool,
    executor: Arc<Executor>,
}

#[derive(Default)]
struct Executor {
    queue: Mutex<Vec<Arc<Task>>>,
    came: Condvar,
    polls: AtomicU64,
    wakes: AtomicU64,
    alive: AtomicU64,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.executor.wakes.fetch_add(1, Ordering::Relaxed);
        if !self.queued.swap(true, Ordering::SeqCst) {
            let executor = Arc::clone(&self.executor);
            executor.queue.lock().unwrap().push(self);
            executor.came.notify_one();
        }
    }
}

impl Executor {
    fn spawn(self: &Arc<Self>, work: Work) {
        self.alive.fetch_add(1, Ordering::SeqCst);
        let (work, queued) = (Mutex::new(Some(work)), AtomicBool::new(true));
        let task = Arc::new(Task { work, queued, executor: Arc::clone(self) });
        self.queue.lock().unwrap().push(task);
    }

    /// Polls what is queued until no task lives.
    fn run(&self) {
        while self.alive.load(Ordering::SeqCst) > 0 {
            let batch = {
                let queue = self.queue.lock().unwrap();
                let idle =
                    |queue: &mut Vec<_>| queue.is_empty() && self.alive.load(Ordering::SeqCst) > 0;
                std::mem::take(&mut *self.came.wait_while(queue, idle).unwrap())
            };
            batch.into_iter().for_each(|task| self.poll(&task));
        }
        self.came.notify_all();
    }

    fn poll(&self, task: &Arc<Task>) {
        task.queued.store(false, Ordering::SeqCst);
        let waker = Waker::from(Arc::clone(task));
        let mut work = task.work.lock().unwrap();
        let Some(future) = work.as_mut() else { return };
        self.polls.fetch_add(1, Ordering::Relaxed);
        if future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            *work = None;
            if self.alive.fetch_sub(1, Ordering::SeqCst) == 1 {
                let _queue = self.queue.lock().unwrap();
                self.came.notify_all();
            }
        }
    }
}

#[derive(Default)]
struct Seen {
    latencies: Mutex<Latencies>,
}

async fn pairs(store: AsyncStore<Store>, scope: Scope, until: Instant, seen: Arc<Seen>) {
    let (series, mut own) = (new_series(), Latencies::default());
    for i in 0.. {
        let began = Instant::now();
        if began >= until {
            break;
        }
        let key = key(series, i);
        let begun = store.begin(KeyRef::new(&scope, &key).expect("36 bytes"), print()).await;
        let Begin::Execute(mut claim) = begun.expect("the store works") else {
            panic!("a new key is known")
        };
        claim.complete(&[7; RESPONSE_BYTES]).await.expect("the store works");
        own.add(began.elapsed());
    }
    seen.latencies.lock().unwrap().merge(&own);
}

fn main() -> ExitCode {
    let names = ["--tasks", "--threads", "--seconds", "--durability", "--dir"];
    let args = Args::read(HELP, &names, &["--quick"]);
    let (durability, commits) = match args.text("--durability").unwrap_or("synced") {
        "synced" => (Durability::Synced, 2.0),
        "completions" => (Durability::SyncedCompletions, 1.0),
        other => args.stop(&format!("{other}: no such durability")),
    };
    let tasks = args.number("--tasks", 10_000);
    let seconds = args.number("--seconds", if args.has("--quick") { 2 } else { 20 });
    let folder = Folder::new("tasks", args.text("--dir"));
    println!("{}", Machine::of(folder.path()));
    let trace = Trace::default();
    let disk = TracedStorage::open(folder.path(), trace.clone()).expect("the directory");
    let options = Options::new().durability(durability).max_claims(4 * tasks as u32);
    let store = options.capacity(64 << 30).open_on(Arc::new(disk)).expect("the store opens");
    trace.take();

    let (executor, seen) = (Arc::new(Executor::default()), Arc::new(Seen::default()));
    let began = Instant::now();
    let until = began + Duration::from_secs(seconds);
    for _ in 0..tasks {
        let work = pairs(AsyncStore::new(store.clone()), scope(), until, Arc::clone(&seen));
        executor.spawn(Box::pin(work));
    }
    thread::scope(|scope| {
        for _ in 0..args.number("--threads", 2) {
            let thread = thread::Builder::new().name(EXECUTOR.into());
            thread.spawn_scoped(scope, || executor.run()).expect("a thread");
        }
    });
    let took = began.elapsed();
    let latencies = std::mem::take(&mut *seen.latencies.lock().unwrap());
    let (found, polls) = (latencies.quantiles(), executor.polls.load(Ordering::Relaxed));
    let pairs = found.count as f64;
    println!("{tasks} tasks, {durability:?}: {:.0} pairs/s", pairs / took.as_secs_f64());
    println!(
        "a pair takes {} (p50), {} (p99), {} (most)",
        time(found.p50_ns as f64),
        time(found.p99_ns as f64),
        time(found.max_ns as f64)
    );
    let each = |count: u64| count as f64 / pairs;
    let most = commits * SPARE_POLLS;
    // Each task was polled once to begin.
    let polled = each(polls.saturating_sub(tasks));
    println!(
        "a pair is polled {polled:.2} times and woken {:.2} times (at most {most:.1})",
        each(executor.wakes.load(Ordering::Relaxed))
    );
    let no_herd = polled <= most;
    let never_blocked = disk_calls(&trace);
    let passed = no_herd && never_blocked;
    println!("{}", if passed { "PASS" } else { "FAIL" });
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints which calls to the disk the executor's threads made, and how many the store's own.
fn disk_calls(trace: &Trace) -> bool {
    let calls = trace.take();
    let mut kinds: Vec<_> = calls.iter().map(|call| call.what).collect();
    kinds.sort_unstable();
    kinds.dedup();
    println!("{:<50}{:>12}{:>14}{:>12}", "calls to the disk", "executor", "own threads", "longest");
    let mut never_blocked = true;
    for kind in kinds {
        let of_kind = || calls.iter().filter(|call| call.what == kind);
        let by_executor = of_kind().filter(|call| &*call.thread == EXECUTOR).count();
        let longest = of_kind().map(|call| call.ended - call.began).max().unwrap_or_default();
        println!(
            "{kind:<50}{by_executor:>12}{:>14}{:>12}",
            of_kind().count() - by_executor,
            time(longest.as_nanos() as f64)
        );
        never_blocked &= by_executor == 0 || kind == "writing the claims";
    }
    never_blocked
}
