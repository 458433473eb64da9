//! Three servers, of which a commit waits for two; without a manager of failovers: the test is
//! the manager.

use super::*;

/// A primary and its standbys.
pub struct Cluster {
    pub nodes: [Server; 3],
    pub primary: usize,
}

const NAMES: [&str; 3] = ["n1", "n2", "n3"];

impl Cluster {
    pub async fn start(bin: &'static Path) -> Self {
        Self::start_with(bin, "").await
    }

    pub async fn start_with(bin: &'static Path, config: &str) -> Self {
        let first = Server::start_with(bin, config);
        let (second, third) = (first.standby("n2"), first.standby("n3"));
        let cluster = Cluster { nodes: [first, second, third], primary: 0 };
        cluster.replicate("ANY 1 (n2, n3)", 2).await;
        cluster
    }

    pub fn primary(&self) -> &Server {
        &self.nodes[self.primary]
    }

    /// Commits wait from now on, and so many standbys follow.
    async fn replicate(&self, names: &str, standbys: u32) {
        let primary = self.primary();
        primary.configure("synchronous_standby_names", names).await;
        let count = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum'";
        until(async || {
            primary.sql("postgres", count).await.as_deref() == Some(&standbys.to_string())
        })
        .await;
    }

    /// All hosts.
    pub fn dsn(&self, database: &str) -> String {
        let ports = self.nodes.each_ref().map(|node| node.port.to_string()).join(",");
        format!("host=127.0.0.1,127.0.0.1,127.0.0.1 port={ports} user=postgres dbname={database}")
    }

    pub fn options(&self, database: &str) -> PostgresOptions {
        let dsn = self.dsn(database);
        PostgresOptions::new(dsn, Replication::Replicated).sweep_every(None).max_response(4096)
    }

    /// The standbys don't hear the primary any more, and what it had sent them they have read.
    pub async fn part(&self) {
        for i in (0..3).filter(|&i| i != self.primary) {
            let node = &self.nodes[i];
            // Nobody listens there.
            node.configure("primary_conninfo", "host=127.0.0.1 port=1 connect_timeout=1").await;
            let hears = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'";
            until(async || node.sql("postgres", hears).await.as_deref() == Some("0")).await;
        }
    }

    /// The standbys hear the primary again.
    pub async fn rejoin(&self) {
        for i in (0..3).filter(|&i| i != self.primary) {
            let conninfo = self.primary().conninfo(NAMES[i]);
            self.nodes[i].configure("primary_conninfo", &conninfo).await;
        }
    }

    /// The primary is dead. Once no standby hears it any more, the one that has received most has
    /// every acknowledged commit: it becomes the primary. It replicates to nobody yet.
    pub async fn promote(&mut self) {
        let left: Vec<usize> = (0..3).filter(|&i| i != self.primary).collect();
        for &i in &left {
            let hears = "SELECT count(*) FROM pg_stat_wal_receiver";
            let node = &self.nodes[i];
            until(async || node.sql("postgres", hears).await.as_deref() == Some("0")).await;
        }
        let received = async |i: usize| {
            let received = "SELECT coalesce(pg_last_wal_receive_lsn(), '0/0') - '0/0'::pg_lsn";
            let lsn = self.nodes[i].sql("postgres", received).await.unwrap();
            lsn.parse::<u64>().unwrap()
        };
        let further = match received(left[0]).await >= received(left[1]).await {
            true => left[0],
            false => left[1],
        };
        let promoted = self.nodes[further].sql("postgres", "SELECT pg_promote()").await;
        assert_eq!(promoted.as_deref(), Some("t"));
        self.primary = further;
    }

    /// The other standby follows the new primary, whose commits wait for it.
    pub async fn follow(&self, dead: usize) {
        let other = 3 - dead - self.primary;
        let conninfo = self.primary().conninfo(NAMES[other]);
        self.nodes[other].configure("primary_conninfo", &conninfo).await;
        self.replicate(&format!("ANY 1 ({})", NAMES[other]), 1).await;
    }

    /// The processes by which the standbys hear the primary.
    pub async fn receivers(&self) -> Vec<rustix::process::Pid> {
        let mut pids = Vec::new();
        for i in (0..3).filter(|&i| i != self.primary) {
            let pid = self.nodes[i].sql("postgres", "SELECT pid FROM pg_stat_wal_receiver").await;
            let pid = pid.unwrap().parse().unwrap();
            pids.push(rustix::process::Pid::from_raw(pid).unwrap());
        }
        pids
    }
}
