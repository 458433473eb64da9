//! `bench` measures and leaves nothing behind; `completions` writes a script that a shell takes.

use crate::command::*;
use std::{fs, process::Command};

#[test]
fn bench_tells_figures_with_their_limits() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["bench", path(dir.path()), "--seconds", "0.02", "--callers", "4"];
    let json = run(&[&args[..], &["--json"]].concat()).json();
    assert!(json["sync_us"].as_f64().unwrap() > 0.0);
    let rows = json["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 5);
    for row in rows {
        assert!(row["per_second"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["limit_per_second"].as_f64().unwrap() > 0.0, "{row}");
    }
    let text = run(&args).ok();
    for row in rows {
        assert!(text.contains(row["name"].as_str().unwrap()), "{text}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "something is left behind");
}

#[test]
fn completions_are_a_script() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]).ok();
        assert!(script.contains("onlyonce") && script.contains("salvage"), "{shell}");
    }
    let script = run(&["completions", "bash"]).ok();
    if let Ok(mut bash) = Command::new("bash").args(["-n", "-c", &script]).spawn() {
        assert!(bash.wait().unwrap().success());
    }
}

#[test]
fn help_names_the_exit_codes() {
    let help = run(&["--help"]).ok();
    for code in 0..=10 {
        assert!(help.contains(&format!("{code} ")), "{code}: {help}");
    }
    assert!(run(&["--version"]).ok().contains(env!("CARGO_PKG_VERSION")));
}
