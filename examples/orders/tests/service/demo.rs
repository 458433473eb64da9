//! The demo itself, small; on a PostgreSQL cluster too, where one can be started.

use std::process::Command;

#[test]
fn the_demo_proves_its_point() {
    let dir = tempfile::tempdir().unwrap();
    let demo = Command::new(env!("CARGO_BIN_EXE_orders"))
        .args(["demo", "--orders", "200", "--kills", "2", "--dir"])
        .arg(dir.path())
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&demo.stdout);
    assert!(demo.status.success(), "{output}{}", String::from_utf8_lossy(&demo.stderr));
    assert!(output.contains("VERDICT: every key has exactly one order"), "{output}");
}

#[test]
fn the_demo_with_keys_and_orders_in_one_sqlite_database() {
    let dir = tempfile::tempdir().unwrap();
    let demo = Command::new(env!("CARGO_BIN_EXE_orders"))
        .args(["demo", "--backend", "sqlite-tx", "--orders", "150", "--kills", "2", "--dir"])
        .arg(dir.path())
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&demo.stdout);
    assert!(demo.status.success(), "{output}{}", String::from_utf8_lossy(&demo.stderr));
    assert!(output.contains("VERDICT: every key has exactly one order"), "{output}");
}

#[test]
fn the_demo_kills_a_cluster_s_primary() {
    let installed = std::fs::read_dir("/usr/lib/postgresql").is_ok_and(|mut found| {
        found.any(|entry| entry.is_ok_and(|entry| entry.path().join("bin/initdb").exists()))
    });
    if !installed {
        println!("skipped: no PostgreSQL server is installed here (.ci/install-postgres does)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let demo = Command::new(env!("CARGO_BIN_EXE_orders"))
        .args(["demo", "--backend", "postgres", "--orders", "120", "--kills", "1", "--dir"])
        .arg(dir.path())
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&demo.stdout);
    let log = std::fs::read_to_string(dir.path().join("server.log")).unwrap_or_default();
    let errors = String::from_utf8_lossy(&demo.stderr);
    assert!(demo.status.success(), "{output}{errors}{log}");
    assert!(output.contains("VERDICT: every key has exactly one order"), "{output}");
}
