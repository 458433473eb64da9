//! The cluster whose primary is killed: one of the demo's own, of three servers on this machine,
//! or one that the user has.

use anyhow::{Context, bail, ensure};
use std::process::Stdio;
use tempfile::TempDir;
use tokio::process::Command;

/// Starts, fails over and stops three servers.
const SCRIPT: &str = include_str!("cluster.sh");

/// A PostgreSQL cluster.
pub struct Cluster {
    /// The demo's own: its directory.
    own: Option<TempDir>,
    dsn: String,
    kill_with: Option<String>,
}

impl Cluster {
    /// The user's, whose primary is killed so many times by this command.
    pub fn given(kill_with: Option<String>, kills: u32) -> anyhow::Result<Self> {
        if kills > 0 && kill_with.is_none() {
            bail!("killing the primary of a given cluster needs --kill-with (or --kills 0)");
        }
        Ok(Cluster { own: None, dsn: String::new(), kill_with })
    }

    /// A new one: three servers, of which a commit waits for two.
    pub async fn start() -> anyhow::Result<Self> {
        println!("starting three PostgreSQL servers");
        let dir = tempfile::Builder::new()
            .prefix("onlyonce-demo-cluster-")
            .tempdir()
            .context("creating a directory for the cluster")?;
        let mut cluster = Cluster { own: Some(dir), dsn: String::new(), kill_with: None };
        let told = cluster.script("start").await?;
        cluster.dsn = told.lines().last().context("no connection string")?.to_owned();
        Ok(cluster)
    }

    /// How to reach it.
    pub fn dsn(&self) -> &str {
        &self.dsn
    }

    /// kill -9, and a standby takes the primary's place.
    pub async fn kill_primary(&self) -> anyhow::Result<()> {
        if self.own.is_some() {
            return self.script("failover").await.map(drop);
        }
        let kill_with = self.kill_with.as_ref().context("checked at the start")?;
        let status = Command::new("sh").args(["-c", kill_with]).status().await?;
        ensure!(status.success(), "{kill_with}: {status}");
        Ok(())
    }

    async fn script(&self, verb: &str) -> anyhow::Result<String> {
        let dir = self.own.as_ref().expect("only the demo's own").path();
        let output = Command::new("bash")
            .args(["-c", SCRIPT, "cluster.sh", verb])
            .arg(dir)
            .stdin(Stdio::null())
            .output()
            .await
            .context("running bash")?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the cluster can't {verb}: {told}{errors}");
        Ok(told)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(dir) = &self.own {
            let stop = ["-c", SCRIPT, "cluster.sh", "stop"];
            let _ = std::process::Command::new("bash").args(stop).arg(dir.path()).status();
        }
    }
}
