//! A consumer of a real broker, for the test to kill.
//!
//!     consume fill KIND URL COUNT            publishes COUNT messages, each of them twice
//!     consume run KIND URL FOLDER            consumes until it is killed
//!     consume left KIND URL                  prints how many messages are not acknowledged
//!
//! The effect of a message is a line in FOLDER/effects. A message whose body begins with `mail` has an
//! effect that can't be looked up; FOLDER/parked gets a line for each parked message.

#![forbid(unsafe_code)]

mod nats;
mod rabbitmq;
mod redis_streams;
mod table;

use anyhow::{Context, Result, bail};
use onlyonce::{AsyncStore, Claim, Options, Store, WorkError};
use onlyonce_queue::{Consumer, Delivery, Fate, Verdict};
use std::{
    env,
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::sleep;

/// Half of the time that a message takes: before its effect, and after it.
const WORK: Duration = Duration::from_millis(5);

/// The consumer of a process, and the world that its messages change.
pub struct Worker {
    consumer: Consumer<Store>,
    folder: PathBuf,
}

impl Worker {
    fn open(folder: &Path) -> Result<Self> {
        // The process that was killed a moment ago may still hold the store.
        let options = Options::new().wait_for_owner(Duration::from_secs(10)).max_attempts(1000);
        let store = options.open(folder.join("keys")).context("opening the store")?;
        let second = Duration::from_millis(200);
        let consumer = Consumer::new(store, "orders").again(second, second);
        Ok(Worker { consumer, folder: folder.to_owned() })
    }

    /// Handles a delivery; what to tell the broker.
    pub async fn handle(&self, id: &[u8], body: &[u8]) -> Verdict {
        let line = String::from_utf8_lossy(body).into_owned();
        let settle = async |_: &Claim<AsyncStore<Store>>| match self.is_done(&line) {
            Ok(_) if line.starts_with("mail") => Fate::Unknowable,
            Ok(true) => Fate::Happened,
            Ok(false) => Fate::NothingHappened,
            Err(_) => Fate::AskLater,
        };
        let work = async |_: &mut Claim<AsyncStore<Store>>| {
            sleep(WORK).await;
            append(&self.folder.join("effects"), &line)?;
            sleep(WORK).await;
            Ok::<_, WorkError<std::io::Error>>(())
        };
        let verdict = self.consumer.handle(Delivery { id, body, nth: None }, settle, work).await;
        if let Verdict::Park { .. } = &verdict {
            append(&self.folder.join("parked"), &line).expect("the folder is writable");
        }
        verdict
    }

    fn is_done(&self, line: &str) -> std::io::Result<bool> {
        match std::fs::read_to_string(self.folder.join("effects")) {
            Ok(effects) => Ok(effects.lines().any(|done| done == line)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// One write, which a killed process has made or not.
fn append(path: &Path, line: &str) -> std::io::Result<()> {
    let mut file: File = OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(format!("{line}\n").as_bytes())
}

/// The messages: ids, and bodies of which a few are mails.
pub fn messages(count: u32) -> impl Iterator<Item = (String, String)> {
    (0..count).map(|nth| {
        let kind = if nth % 10 == 0 { "mail" } else { "order" };
        (format!("message-{nth}"), format!("{kind} {nth}"))
    })
}

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<_> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["fill", kind, url, count] => {
            let count = count.parse()?;
            match kind {
                "rabbitmq" => rabbitmq::fill(url, count).await,
                "nats" => nats::fill(url, count).await,
                "redis" => redis_streams::fill(url, count).await,
                "table" => table::fill(url, count).await,
                _ => bail!("no broker {kind}"),
            }
        }
        ["run", kind, url, folder] => {
            let worker = Worker::open(Path::new(folder))?;
            match kind {
                "rabbitmq" => rabbitmq::run(url, &worker).await,
                "nats" => nats::run(url, &worker).await,
                "redis" => redis_streams::run(url, &worker).await,
                "table" => table::run(url, &worker).await,
                _ => bail!("no broker {kind}"),
            }
        }
        ["left", kind, url] => {
            let left = match kind {
                "rabbitmq" => rabbitmq::left(url).await?,
                "nats" => nats::left(url).await?,
                "redis" => redis_streams::left(url).await?,
                "table" => table::left(url).await?,
                _ => bail!("no broker {kind}"),
            };
            println!("{left}");
            Ok(())
        }
        _ => bail!("fill KIND URL COUNT, run KIND URL FOLDER or left KIND URL"),
    }
}
