//! The command, asked about a table.

use crate::servers::*;
use onlyonce::*;
use serde_json::Value;
use std::{
    path::PathBuf,
    process::{Command, Output},
};

/// As a user runs it, with the connection string where other users don't see it.
fn onlyonce(dsn: &str, words: &[&str]) -> Output {
    let built = PathBuf::from(env!("CARGO_BIN_EXE_onlyonce"));
    let mut command = Command::new(built);
    command.args(words).args(["--dsn", "-"]).env("ONLYONCE_DSN", dsn).env("USER", "kim");
    command.output().unwrap()
}

#[track_caller]
fn lines(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

#[test]
fn a_table_is_asked_as_a_directory_is() {
    block_on(async {
        let Some(server) = Server::shared() else { return };
        let database = server.database().await;
        let plain = options(&server.dsn(&database)).connect().await.unwrap();
        let store = AsyncStore::new(plain.clone());
        let claim = async |name| match store.begin(key(name), print()).await.unwrap() {
            Begin::Execute(claim) => claim,
            other => panic!("{other:?}"),
        };
        claim("done").await.complete(b"answer \xff").await.unwrap();
        for name in ["one", "two", "three", "four"] {
            drop(claim(name).await);
            assert_eq!(plain.drain(PATIENCE).await, 0);
        }
        let dsn = format!("{} password=tiptop", server.dsn(&database));
        let scope = lines(&onlyonce(&dsn, &["list", "--json", "--state", "completed"]))[0]["scope"]
            .as_str()
            .unwrap()
            .to_owned();

        let info = onlyonce(&dsn, &["info"]);
        let text = String::from_utf8_lossy(&info.stdout).into_owned();
        assert!(text.contains("interrupted: 4") && text.contains("nothing is wrong"), "{info:?}");
        assert!(!text.contains("connections"), "{text}");
        let stats = &lines(&onlyonce(&dsn, &["info", "--json"]))[0];
        assert_eq!((&stats["backend"], &stats["now"]["records"]), (&"postgres".into(), &1.into()));
        let listed = lines(&onlyonce(&dsn, &["list", "--json"]));
        let names: Vec<_> = listed.iter().map(|key| key["key"].as_str().unwrap()).collect();
        assert_eq!(names, ["one", "two", "three", "four", "done"]);
        let raw = onlyonce(&dsn, &["get", &scope, "done", "--raw"]);
        assert_eq!(raw.stdout, b"answer \xff", "{raw:?}");

        // Of what was seen, and nothing else.
        let seen = lines(&onlyonce(&dsn, &["get", &scope, "one", "--json"]))[0]["token"].clone();
        let resolve = |seen: &str| {
            let note = ["--note", "INC-7", "--seen", seen];
            onlyonce(&dsn, &[&["resolve", &scope, "one"], &note[..], &["free"]].concat())
        };
        assert_eq!(resolve("7").status.code(), Some(9));
        let freed = resolve(&seen.to_string());
        assert!(freed.status.success(), "{freed:?}");
        assert!(plain.get(key("one")).await.unwrap().is_none());
        let many = ["resolve-many", "--prefix", "t", "--yes", "--json"];
        let complete = ["complete", "--response", "by hand"];
        let done = onlyonce(&dsn, &[&many[..], &complete].concat());
        assert!(done.status.success(), "{done:?}");
        for name in ["two", "three"] {
            let entry = plain.get(key(name)).await.unwrap().unwrap();
            assert!(matches!(entry.state, State::Completed(_)), "{entry:?}");
        }
        let kept = lines(&onlyonce(&dsn, &["decisions", "--json"]));
        assert_eq!(kept.len(), 3);
        let first = ["actor", "note", "decision", "key"].map(|name| kept[0][name].clone());
        assert_eq!(first, ["kim", "INC-7", "free", "one"]);

        // An export is what an import takes: into a store in files.
        let exported = onlyonce(&dsn, &["export"]);
        assert_eq!(lines(&exported).len(), 4);
        let dir = tempfile::tempdir().unwrap();
        let (file, into) = (dir.path().join("keys"), dir.path().join("store"));
        std::fs::write(&file, &exported.stdout).unwrap();
        let mut import = Command::new(env!("CARGO_BIN_EXE_onlyonce"));
        let import = import.arg("import").arg("--create").args([&into, &file]).output().unwrap();
        assert!(import.status.success(), "{import:?}");
        let embedded = Store::open(&into).unwrap();
        let State::Completed(record) = embedded.get(key("done")).unwrap().unwrap().state else {
            panic!("not completed")
        };
        assert_eq!(record.response(), Some(&b"answer \xff"[..]));
        let four = embedded.get(key("four")).unwrap().unwrap();
        assert!(matches!(four.state, State::Interrupted { .. }), "{four:?}");

        // A whole scope.
        let erase = |more: &[&str]| {
            onlyonce(&dsn, &[&["erase", "--scope", &scope, "--json"], more].concat())
        };
        let counted = &lines(&erase(&[]))[0];
        assert_eq!((&counted["keys"], &counted["decisions"]), (&4.into(), &3.into()));
        assert_eq!(plain.entries(Filter::ALL, None, 10).await.unwrap().entries.len(), 4);
        let erased = &lines(&erase(&["--yes"]))[0];
        assert_eq!((&erased["keys"], &erased["decisions"]), (&5.into(), &3.into()));
        assert!(plain.entries(Filter::ALL, None, 10).await.unwrap().entries.is_empty());

        // A password is not printed, whatever is wrong.
        for bad in [
            "host=127.0.0.1 port=1 user=u password=tiptop dbname=d",
            "host=127.0.0.1 user=u password=tiptop sslmode=maybe",
            "host=127.0.0.1 user=u password=tiptop unknown=1",
            "postgres://u:tiptop@127.0.0.1:1/d",
            "postgres://u:tiptop@127.0.0.1:none/d",
            "",
        ] {
            for (words, env) in [(vec!["info", "--dsn", bad], ""), (vec!["--dsn=-", "info"], bad)] {
                let mut command = Command::new(env!("CARGO_BIN_EXE_onlyonce"));
                let failed = command.args(&words).env("ONLYONCE_DSN", env).output().unwrap();
                assert!(!failed.status.success(), "{failed:?}");
                let said = [failed.stdout, failed.stderr].concat();
                assert!(!String::from_utf8_lossy(&said).contains("tiptop"), "{words:?}");
            }
        }
        let gone = format!("{} password=tiptop", server.dsn("postgres"));
        let none = onlyonce(&gone, &["info"]);
        assert_eq!(none.status.code(), Some(3), "{none:?}");
        let two = onlyonce(&dsn, &["info", "--url", "http://127.0.0.1:1"]);
        assert_eq!(two.status.code(), Some(2), "{two:?}");
    });
}
