//! A loss of power leaves of the write-ahead log what was synced, and any part of what came after.
//! With `synchronous = FULL` everything is synced up to the last acknowledged commit.

use super::*;

/// The database as each loss of power leaves it: all orders that were acknowledged before are there,
/// each with its key and its answer, and no order is without them.
#[test]
fn acknowledged_orders_survive_a_loss_of_power() {
    let (_dir, file) = database();
    let keys = manual().keys().unwrap();
    let mut connection = open(&file).unwrap();
    let settled = "PRAGMA wal_checkpoint(TRUNCATE); PRAGMA wal_autocheckpoint = 0;";
    connection.execute_batch(settled).unwrap();
    let before = std::fs::read(&file).unwrap();
    let log = file.with_extension("db-wal");
    let names: Vec<String> = (0..5).map(|n| format!("order-{n}")).collect();
    // Up to where the log was synced at each acknowledgement.
    let mut synced = Vec::new();
    for name in &names {
        let immediate = rusqlite::TransactionBehavior::Immediate;
        let mut tx = connection.transaction_with_behavior(immediate).unwrap();
        let begin = keys.begin_in(&mut tx, key(name), print(), Terms::default());
        let claim = executing(blocking(begin).unwrap());
        tx.execute("INSERT INTO orders VALUES (?1)", [name]).unwrap();
        blocking(keys.complete_in(&mut tx, &claim, done(name.as_bytes()))).unwrap();
        tx.commit().unwrap();
        synced.push(std::fs::metadata(&log).unwrap().len() as usize);
    }
    let written = std::fs::read(&log).unwrap();
    assert_eq!(synced.last(), Some(&written.len()));
    let elsewhere = tempfile::tempdir().unwrap();
    let copy = elsewhere.path().join("service.db");
    let judge = |log: &[u8], acknowledged: usize| {
        std::fs::write(&copy, &before).unwrap();
        std::fs::write(copy.with_extension("db-wal"), log).unwrap();
        let mut database = rusqlite::Connection::open(&copy).unwrap();
        // What is asked now is not to survive.
        database.execute_batch("PRAGMA synchronous = OFF").unwrap();
        let mut there = 0;
        for name in &names {
            let find = "SELECT count(*) FROM orders WHERE request = ?1";
            let orders: i64 = database.query_row(find, [name], |row| row.get(0)).unwrap();
            let mut tx = database.transaction().unwrap();
            let begun = blocking(keys.begin_in(&mut tx, key(name), print(), Terms::default()));
            match begun.unwrap() {
                BeginIn::Replay(record) => {
                    assert_eq!((orders, record.response()), (1, Some(name.as_bytes())));
                    there += 1;
                }
                BeginIn::Execute(_) => assert_eq!(orders, 0, "{name} is without its key"),
                other => panic!("{name}: {other:?}"),
            }
        }
        assert!(there >= acknowledged, "{there} of {acknowledged}");
        drop(database);
        let _ = std::fs::remove_file(copy.with_extension("db-shm"));
    };
    for cut in (0..=written.len()).step_by(1024).chain(synced.iter().copied()) {
        let acknowledged = synced.iter().filter(|end| **end <= cut).count();
        judge(&written[..cut], acknowledged);
        // The tail reached the disk in another order: its first sector is missing.
        let mut torn = written.clone();
        torn[cut..].iter_mut().take(512).for_each(|byte| *byte = 0);
        judge(&torn, acknowledged);
    }
}

/// A connection that doesn't sync its commits can't keep what is promised, and is refused, unless the
/// service says that it may.
#[test]
fn commits_that_are_not_synced_are_refused() {
    let (_dir, file) = database();
    let mut connection = open(&file).unwrap();
    for (setting, refused) in [("OFF", true), ("NORMAL", true), ("FULL", false), ("EXTRA", false)] {
        connection.execute_batch(&format!("PRAGMA synchronous = {setting}")).unwrap();
        let checked = blocking(manual().keys().unwrap().check_in(&mut connection));
        match checked {
            Err(OpenError::Options { what }) => assert!(refused && what.contains("synchronous")),
            checked => assert!(!refused && checked.is_ok(), "{setting}: {checked:?}"),
        }
        let allowed = manual().unsynced_commits(true).keys().unwrap();
        blocking(allowed.check_in(&mut connection)).unwrap();
    }
    block_on(async {
        let unsynced = || {
            let file = file.clone();
            SharedSqlite::new(move || {
                let database = open(&file)?;
                database.execute_batch("PRAGMA synchronous = NORMAL")?;
                Ok(database)
            })
        };
        let refused = manual().connect_with(unsynced()).await.map(drop);
        assert!(matches!(refused, Err(OpenError::Options { .. })), "{refused:?}");
        manual().unsynced_commits(true).connect_with(unsynced()).await.unwrap();
    });
}
