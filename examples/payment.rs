//! A payment that is charged once, though its process is killed half way.
//!
//! The payment provider is another company's service, with a memory of its own (here: a file). Like
//! the real ones it takes an idempotency key and charges once for each. It gets
//! `claim.derive_key("charge")`, which is the same at every attempt, and what it answers is saved
//! as a checkpoint, so that the next attempt need not even ask again.
//!
//! Run it: `cargo run --example payment`. It starts itself as a child process, kills that with
//! SIGKILL at three places, and continues where it died.

use onlyonce::{Begin, Fingerprint, KeyRef, Scope, Store};
use std::{
    error::Error,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

/// Where a process dies.
const PLACES: [&str; 3] = ["charged", "checkpointed", "completed"];

/// How a payment was answered.
#[derive(Debug, PartialEq)]
enum Paid {
    /// By this attempt.
    Now(String),
    /// By an earlier one.
    Before(String),
    /// The key belongs to another payment.
    Refused,
    /// Not yet known; ask again later.
    Later,
}

/// Pays `cents` once for each `key`. `reached` is told how far it got.
fn pay(
    store: &Store,
    provider: &Provider,
    key: &str,
    cents: u32,
    reached: impl Fn(&str),
) -> Result<Paid, Box<dyn Error>> {
    let scope = Scope::of(["shop-7", "payments"]);
    let payment = Fingerprint::of(["EUR", &cents.to_string()]);
    let mut begin = store.begin(KeyRef::new(&scope, key)?, payment)?;
    if let Begin::Interrupted(stuck) = begin {
        println!("    attempt {} was interrupted: {}", stuck.attempts(), stuck.reason());
        // A silent holder may still be at work; a dead one is not. And to charge again under the
        // derived key charges nothing, so that going on is safe.
        if !stuck.holder_gone() {
            return Ok(Paid::Later);
        }
        begin = stuck.take_over()?;
    }
    let mut claim = match begin {
        Begin::Execute(claim) => claim,
        Begin::Replay(record) => {
            let receipt = record.response().ok_or("paid, but the receipt is not kept any more")?;
            return Ok(Paid::Before(String::from_utf8(receipt.to_vec())?));
        }
        Begin::InFlight(_) | Begin::Interrupted(_) => return Ok(Paid::Later),
        Begin::Mismatch { .. } => return Ok(Paid::Refused),
    };

    let charge = match claim.checkpoint() {
        Some(charge) => {
            let charge = String::from_utf8(charge.to_vec())?;
            println!("    the checkpoint says that it was charged: {charge}");
            charge
        }
        None => {
            let charge = provider.charge(&claim.derive_key("charge"), cents)?;
            reached("charged");
            claim.save_checkpoint(charge.as_bytes())?;
            charge
        }
    };
    reached("checkpointed");
    let receipt = format!("paid {cents} cents by {charge}");
    claim.complete(receipt.as_bytes())?;
    // Only now may the customer be told.
    reached("completed");
    Ok(Paid::Now(receipt))
}

/// The provider's side: one line for each charge, `key number cents`, and one for each call.
struct Provider(PathBuf);

impl Provider {
    fn charge(&self, key: &str, cents: u32) -> Result<String, Box<dyn Error>> {
        self.write("calls", key)?;
        if let Some(known) = self.lines("charges").iter().find(|line| line.starts_with(key)) {
            let charge = known.split(' ').nth(1).ok_or("a broken line")?.to_owned();
            println!("    provider: I know this key, it was {charge}");
            return Ok(charge);
        }
        let charge = format!("ch_{}", self.lines("charges").len() + 1);
        self.write("charges", &format!("{key} {charge} {cents}"))?;
        println!("    provider: charged {cents} cents, {charge}");
        Ok(charge)
    }

    fn lines(&self, file: &str) -> Vec<String> {
        let text = fs::read_to_string(self.0.join(file)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn write(&self, file: &str, line: &str) -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(self.0.join(file))?;
        writeln!(file, "{line}")?;
        file.sync_all()
    }
}

/// Pays in a process of its own, which is killed where it reaches `place`.
fn pay_and_die(dir: &Path, key: &str, cents: u32, place: &str) -> Result<(), Box<dyn Error>> {
    println!("  a process pays, and is killed where it has {place}");
    let mut child = Command::new(std::env::current_exe()?)
        .arg(dir)
        .args([key, &cents.to_string(), place])
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().ok_or("no output")?;
    for line in BufReader::new(output).lines() {
        match line?.as_str() {
            "KILL ME" => break,
            line => println!("{line}"),
        }
    }
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// What the child does.
fn child(dir: &Path, key: &str, cents: u32, place: &str) -> Result<(), Box<dyn Error>> {
    let (store, provider) = (Store::open(dir.join("store"))?, Provider(dir.to_owned()));
    let paid = pay(&store, &provider, key, cents, |reached| {
        if reached == place {
            println!("KILL ME");
            loop {
                std::thread::park();
            }
        }
    })?;
    Err(format!("it was not killed, but {paid:?}").into())
}

/// Pays here, to the end.
fn pay_again(dir: &Path, key: &str, cents: u32) -> Result<Paid, Box<dyn Error>> {
    println!("  the customer asks again");
    let (store, provider) = (Store::open(dir.join("store"))?, Provider(dir.to_owned()));
    let paid = pay(&store, &provider, key, cents, |_| ())?;
    println!("    {paid:?}");
    store.close()?;
    Ok(paid)
}

fn expect(so: bool, what: &str) -> Result<(), Box<dyn Error>> {
    if !so {
        return Err(format!("this should be so: {what}").into());
    }
    println!("  as it should be: {what}\n");
    Ok(())
}

fn story() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let provider = Provider(dir.to_owned());
    let charges = || provider.lines("charges").len();
    let calls = || provider.lines("calls").len();

    println!("Killed between the charge and the checkpoint");
    pay_and_die(dir, "order-1", 4200, "charged")?;
    let paid = pay_again(dir, "order-1", 4200)?;
    expect(
        paid == Paid::Now("paid 4200 cents by ch_1".into()) && (charges(), calls()) == (1, 2),
        "the provider was called twice and charged once",
    )?;

    println!("Killed between the checkpoint and the completion");
    pay_and_die(dir, "order-2", 100, "checkpointed")?;
    let paid = pay_again(dir, "order-2", 100)?;
    expect(
        paid == Paid::Now("paid 100 cents by ch_2".into()) && (charges(), calls()) == (2, 3),
        "the provider was called once",
    )?;

    println!("Killed between the completion and the answer");
    pay_and_die(dir, "order-3", 999, "completed")?;
    let paid = pay_again(dir, "order-3", 999)?;
    expect(
        paid == Paid::Before("paid 999 cents by ch_3".into()) && (charges(), calls()) == (3, 4),
        "the receipt is replayed",
    )?;

    println!("Another amount under a key that was used");
    let paid = pay_again(dir, "order-3", 1)?;
    expect(paid == Paid::Refused && charges() == 3, "refused, nothing is charged")
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let ended = match args.as_slice() {
        [] => story(),
        [dir, key, cents, place] if PLACES.contains(&place.as_str()) => match cents.parse() {
            Ok(cents) => child(Path::new(dir), key, cents, place),
            Err(error) => Err(format!("{cents} is no number of cents: {error}").into()),
        },
        _ => Err("run it without arguments".into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
