//! The server as a child process: started, killed, started again.

use super::client::Client;
use crate::{
    backend::{Choice, Kind},
    serve::{INTERRUPTED, LISTENING},
};
use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process};
use std::{path::Path, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server.
pub struct Server {
    child: Child,
    address: String,
    dir: std::path::PathBuf,
    choice: Choice,
    interrupted: u64,
}

impl Server {
    /// Starts a server at a free port, and waits until it answers.
    pub async fn start(dir: &Path, choice: &Choice) -> anyhow::Result<Self> {
        let choice = Choice { create: true, ..choice.clone() };
        Self::start_at("127.0.0.1:0", dir, &choice).await
    }

    async fn start_at(listen: &str, dir: &Path, choice: &Choice) -> anyhow::Result<Self> {
        let name = |value: Option<clap::builder::PossibleValue>| {
            value.expect("none is hidden").get_name().to_owned()
        };
        let mut command = Command::new(std::env::current_exe()?);
        if let Some(dsn) = &choice.dsn {
            // Not as an argument: it may hold a password.
            command.env("ORDERS_DSN", dsn);
        }
        command.args(["serve", "--listen", listen, "--dir"]).arg(dir);
        if choice.create {
            command.arg("--create");
        }
        if choice.single_server {
            command.arg("--single-server");
        }
        let mut child = command
            .args(["--backend", &name(choice.backend.to_possible_value())])
            .args(["--durability", &name(choice.durability.to_possible_value())])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(complaints(dir, choice)?)
            .kill_on_drop(true)
            .spawn()
            .context("starting the server")?;
        let output = child.stdout.take().expect("it is piped");
        let (address, interrupted) =
            timeout(PATIENCE, greeting(output)).await.context("the server doesn't start")??;
        let client = Client::new(&address);
        timeout(PATIENCE, client.answers()).await.context("the server doesn't answer")??;
        let (dir, choice) = (dir.to_owned(), Choice { create: false, ..choice.clone() });
        Ok(Server { child, address, dir, choice, interrupted })
    }

    /// Starts it again where it was, after it was killed or stopped.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        *self = Self::start_at(&self.address, &self.dir, &self.choice).await?;
        Ok(())
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// How many requests it found at its start that had been interrupted half way.
    pub fn found_interrupted(&self) -> u64 {
        self.interrupted
    }

    /// Kills it as a crash does: SIGKILL, no last words.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the server ended by itself: {status}");
        }
        self.child.kill().await.context("killing the server")
    }

    /// Asks it to stop, and waits until it has.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let id = self.child.id().context("the server ended by itself")?;
        let id = Pid::from_raw(id.try_into()?).context("a process id")?;
        kill_process(id, Signal::TERM).context("stopping the server")?;
        let status =
            timeout(PATIENCE, self.child.wait()).await.context("the server doesn't stop")??;
        ensure!(status.success(), "the server stopped badly: {status}");
        Ok(())
    }
}

/// Where the server complains. That a database whose primary is killed takes no orders is nothing
/// to be read on a terminal.
fn complaints(dir: &Path, choice: &Choice) -> anyhow::Result<Stdio> {
    if choice.backend != Kind::Postgres {
        return Ok(Stdio::inherit());
    }
    let log = dir.join("server.log");
    let open = std::fs::File::options().create(true).append(true).open(&log);
    Ok(open.with_context(|| format!("opening {}", log.display()))?.into())
}

/// Reads where the server listens and what it found; whatever it says later is read and dropped.
async fn greeting(output: tokio::process::ChildStdout) -> anyhow::Result<(String, u64)> {
    let mut lines = BufReader::new(output).lines();
    let mut line = async || lines.next_line().await?.context("the server ended at once");
    let first = line().await?;
    let address = first.strip_prefix(LISTENING).context("no address")?;
    let second = line().await?;
    let interrupted = second
        .strip_suffix(INTERRUPTED)
        .and_then(|line| line.rsplit(' ').next())
        .context("no number of interrupted requests")?
        .parse()?;
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok((address.to_owned(), interrupted))
}
