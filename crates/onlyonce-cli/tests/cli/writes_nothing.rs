//! Nothing that only reads ever writes: the directory is byte for byte what it was, with the same
//! times of change, whether somebody has the store open or not.

use crate::command::*;
use std::path::Path;

#[track_caller]
fn look(store: &Path, target: &Path) {
    let before = state(store);
    let copies = ["backup", "salvage"].map(|command| {
        let to = target.join(command);
        vec![command.to_owned(), path(store).to_owned(), path(&to).to_owned()]
    });
    let of = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let store_path = path(store);
    let mut commands = vec![
        of(&["info", store_path]),
        of(&["list", store_path]),
        of(&["get", store_path, SCOPE, "order-1"]),
        of(&["get", store_path, SCOPE, "stuck"]),
        of(&["verify", store_path]),
        of(&["export", store_path]),
    ];
    commands.extend(copies);
    for command in commands {
        let args: Vec<&str> = command.iter().map(String::as_str).collect();
        run(&args).ok();
        assert!(state(store) == before, "{command:?} has written");
    }
}

#[test]
fn nobody_has_it_open() {
    let dir = tempfile::tempdir().unwrap();
    filled(&dir.path().join("store"));
    look(&dir.path().join("store"), dir.path());
}

#[test]
fn its_owner_has_it_open() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut held) = fill(&dir.path().join("store"));
    look(&dir.path().join("store"), dir.path());
    // And goes on undisturbed.
    held.complete(b"after all").unwrap();
    claim(&store, "new").complete(b"1").unwrap();
    store.close().unwrap();
}
