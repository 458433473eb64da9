//! The same service over PostgreSQL: axum, orders in transactions, the admin service, metrics.

use crate::server::Server;
use std::{path::Path, process::Command};

const SCRIPT: &str = include_str!("../../src/demo/cluster.sh");

/// Servers on this machine; stopped when dropped.
struct Cluster<'a> {
    dir: &'a Path,
    dsn: String,
}

impl<'a> Cluster<'a> {
    fn start(dir: &'a Path) -> Self {
        let mut start = Command::new("bash");
        let told = start.args(["-c", SCRIPT, "cluster.sh", "start"]).arg(dir).output().unwrap();
        let output = String::from_utf8(told.stdout).unwrap();
        assert!(told.status.success(), "{output}{}", String::from_utf8_lossy(&told.stderr));
        Cluster { dir, dsn: output.lines().last().unwrap().to_owned() }
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        let mut stop = Command::new("bash");
        let _ = stop.args(["-c", SCRIPT, "cluster.sh", "stop"]).arg(self.dir).status();
    }
}

#[test]
fn operators_see_what_a_table_has() {
    let installed = std::fs::read_dir("/usr/lib/postgresql").is_ok_and(|mut found| {
        found.any(|entry| entry.is_ok_and(|entry| entry.path().join("bin/initdb").exists()))
    });
    if !installed {
        println!("skipped: no PostgreSQL server is installed here (.ci/install-postgres does)");
        return;
    }
    let (dir, servers) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cluster = Cluster::start(servers.path());
    let env = [("ORDERS_DSN", &*cluster.dsn), ("ORDERS_ADMIN_TOKEN", "s3cret")];
    let server = Server::start_as(dir.path(), &["--backend", "postgres"], &env);
    for _ in 0..2 {
        let answer = server.order("k", r#"{"item":"book","quantity":1}"#);
        assert_eq!(answer.status, 201);
    }
    let text = String::from_utf8(server.get("/metrics").body).unwrap();
    for line in [
        "onlyonce_begins_total{outcome=\"granted\"} 1",
        "onlyonce_begins_total{outcome=\"replayed\"} 1",
        "onlyonce_ends_total{how=\"completed\"} 1",
        "onlyonce_unreachable 0",
    ] {
        assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
    }
    assert_eq!(server.get("/admin/api/stats").status, 401);
    // Keys are counted again when twenty times as long has passed as it took.
    let mut stats = serde_json::Value::Null;
    crate::server::until("the key to be counted", || {
        let answer = server.get_with("/admin/api/stats", &["Authorization: Bearer s3cret"]);
        stats = serde_json::from_slice(&answer.body).unwrap();
        stats["now"]["records"] == 1
    });
    assert_eq!(stats["backend"], "postgres");
    assert_eq!(stats["durability"], "Replicated");
}
