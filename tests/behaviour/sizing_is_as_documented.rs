//! What a key takes on the disk and in memory is what docs/operations.md says.

use crate::common::*;
use onlyonce::*;
use std::{fs, path::Path};

fn number(cell: &str) -> Option<u64> {
    cell.trim().replace(',', "").parse().ok()
}

/// The rows of the table: bytes of the response, bytes of the record, gigabytes a million.
fn rows() -> Vec<(u64, u64, f64)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().skip_while(|line| !line.starts_with("| response, bytes |")).skip(2);
    let row = |line: &str| {
        let cells: Vec<_> = line.split('|').collect();
        let gigabytes = cells[3].trim().trim_end_matches(" GB").parse().unwrap();
        (number(cells[1]).unwrap(), number(cells[2]).unwrap(), gigabytes)
    };
    lines.take_while(|line| line.starts_with('|')).map(row).collect()
}

#[test]
fn a_record_takes_what_the_table_says() {
    let rows = rows();
    assert_eq!(rows.len(), 5);
    for (response, record, gigabytes) in rows {
        let sim = Sim::with(|options| {
            options.max_response(128 << 10).ring_bytes(1 << 20).capacity(64 << 20)
        });
        let store = sim.open();
        let scope = Scope::new([b's'; 32]).unwrap();
        let free = |store: &Store| store.stats().space_free;
        let before = free(&store);
        for n in 0..5 {
            let name = format!("{n:036}");
            let key = KeyRef::new(&scope, &name).unwrap();
            let mut claim = granted(store.begin(key, print()).unwrap());
            claim.complete(&vec![7; response as usize]).unwrap();
        }
        // Of the account of free space; none of the segments was rolled.
        assert_eq!(before - free(&store), 5 * record, "{response}");
        let computed = (88 + 32 + 36 + response).next_multiple_of(8) + 16;
        assert_eq!(record, computed, "{response}");
        let millions = record as f64 / 1e3;
        assert!((gigabytes - millions).abs() <= 0.06, "{response}: {gigabytes}, {millions}");
    }
}

#[test]
fn the_index_takes_what_the_text_says() {
    let sim = Sim::with(|options| options.durability(Durability::Buffered { max_delay: HOUR }));
    let store = sim.open();
    for n in 0..60_000 {
        store.finish(&n.to_string(), b"");
    }
    let stats = store.stats();
    let each = stats.index_bytes as f64 / stats.records as f64;
    // Small tables are padded; the bounds are those of large ones, and a little.
    assert!((10.0..=23.0).contains(&each), "{each} bytes a record");
}
