//! The contract, held against both implementations by the same code.

use std::{collections::BTreeSet, io::ErrorKind, sync::Arc};

use super::*;

/// Runs `test` over a real directory and over a simulated disk.
fn on_both(test: impl Fn(&dyn Storage)) {
    let directory = tempfile::tempdir().unwrap();
    test(&DiskStorage::open(directory.path()).unwrap());
    test(&SimStorage::new(1));
}

fn kind<T>(answer: io::Result<T>) -> ErrorKind {
    match answer {
        Ok(_) => panic!("this succeeded"),
        Err(error) => error.kind(),
    }
}

fn read(file: &Arc<dyn StorageFile>, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xEE; len];
    file.read_at(offset, &mut bytes).unwrap();
    bytes
}

#[test]
fn a_created_file_is_zero_and_has_its_size() {
    on_both(|storage| {
        for len in [0, 1, 8, 511, 4096, 100_001] {
            let file = storage.create("a", len).unwrap();
            assert_eq!(file.size(), len);
            assert_eq!(read(&file, 0, len as usize), vec![0; len as usize]);
            assert_eq!(storage.open("a").unwrap().size(), len);
        }
    });
}

#[test]
fn creating_replaces() {
    on_both(|storage| {
        let old = storage.create("a", 64).unwrap();
        old.write_at(0, &[1; 64]).unwrap();
        let file = storage.create("a", 32).unwrap();
        assert_eq!(read(&file, 0, 32), [0; 32]);
        // It is another file: the name was written again.
        assert_eq!(read(&old, 0, 64), [1; 64]);
        assert_eq!(storage.list().unwrap(), ["a"]);
    });
}

#[test]
fn what_is_absent_is_not_found() {
    on_both(|storage| {
        assert_eq!(kind(storage.open("a")), ErrorKind::NotFound);
        assert_eq!(kind(storage.remove("a")), ErrorKind::NotFound);
    });
}

#[test]
fn names_come_and_go() {
    on_both(|storage| {
        for name in ["a", "b", "c"] {
            storage.create(name, 8).unwrap();
        }
        storage.remove("b").unwrap();
        storage.sync_dir().unwrap();
        let names = storage.list().unwrap();
        assert_eq!(BTreeSet::from_iter(names), BTreeSet::from(["a".into(), "c".into()]));
    });
}

#[test]
fn a_removed_file_can_be_used_by_who_has_it_open() {
    on_both(|storage| {
        let file = storage.create("a", 8).unwrap();
        storage.remove("a").unwrap();
        file.write_at(0, b"12345678").unwrap();
        assert_eq!(read(&file, 0, 8), b"12345678");
        file.sync().unwrap();
    });
}

#[test]
fn files_never_grow() {
    on_both(|storage| {
        let file = storage.create("a", 100).unwrap();
        let region = file.map().unwrap();
        for (offset, len) in [(100, 1), (99, 2), (0, 101), (101, 0), (u64::MAX, 1)] {
            assert_eq!(kind(file.write_at(offset, &vec![1; len])), ErrorKind::InvalidInput);
            assert_eq!(kind(file.read_at(offset, &mut vec![0; len])), ErrorKind::InvalidInput);
            if len <= 100 {
                let answer = file.write_region(offset, &region, 0, len);
                assert_eq!(kind(answer), ErrorKind::InvalidInput);
            }
        }
        assert_eq!(kind(file.write_region(0, &region, 101, 1)), ErrorKind::InvalidInput);
        let longer = storage.create("longer", 200).unwrap();
        assert_eq!(kind(longer.write_region(0, &region, 0, 101)), ErrorKind::InvalidInput);
        assert_eq!(kind(longer.write_region(101, &region, 50, 100)), ErrorKind::InvalidInput);
        file.write_at(100, &[]).unwrap();
        assert_eq!(storage.open("a").unwrap().size(), 100);
        assert_eq!(read(&file, 0, 100), [0; 100]);
    });
}

#[test]
fn writes_show_in_maps_and_stores_in_reads() {
    on_both(|storage| {
        let file = storage.create("a", 8192).unwrap();
        let (view, writer) = (file.map().unwrap(), file.map_mut().unwrap());
        assert_eq!((view.len(), writer.len()), (8192, 8192));

        file.write_at(4093, b"across a page").unwrap();
        let mut bytes = [0; 18];
        view.load(4088, &mut bytes);
        assert_eq!(&bytes, b"\0\0\0\0\0across a page");

        writer.store(16, b"sixteen bytes...").unwrap();
        writer.store_word(8, 0x0807_0605_0403_0201).unwrap();
        assert_eq!(read(&file, 8, 24), b"\x01\x02\x03\x04\x05\x06\x07\x08sixteen bytes...");
        assert_eq!(view.load_word(8), 0x0807_0605_0403_0201);
        assert_eq!(read(&storage.open("a").unwrap(), 20, 4), b"een ");
    });
}

#[test]
fn a_region_is_written_at_any_offset() {
    on_both(|storage| {
        let ring = storage.create("ring", 4096).unwrap();
        let segment = storage.create("segment", 9001).unwrap();
        let content: Vec<u8> = (0..4096).map(|n| (n % 251) as u8).collect();
        ring.write_at(0, &content).unwrap();
        let region = ring.map().unwrap();
        let round = content.repeat(2);
        let ranges = [(0, 0, 4096), (8192, 8, 800), (9000, 4095, 1), (3, 5, 7), (1, 4095, 4096)];
        for (offset, from, len) in ranges.into_iter().chain([(70, 4000, 500), (5, 4096, 3)]) {
            segment.write_region(offset, &region, from, len).unwrap();
            assert_eq!(read(&segment, offset, len), round[from..from + len]);
        }
        segment.write_region(0, &region, 4096, 0).unwrap();
    });
}

#[test]
fn a_region_of_one_storage_is_written_to_another() {
    let content: Vec<u8> = (0..1000).map(|n| (n % 7) as u8).collect();
    let directory = tempfile::tempdir().unwrap();
    let disk = DiskStorage::open(directory.path()).unwrap().create("a", 1000).unwrap();
    let sim = SimStorage::new(1).create("a", 1000).unwrap();
    disk.write_at(0, &content).unwrap();
    sim.write_region(0, &disk.map().unwrap(), 0, 1000).unwrap();
    disk.write_at(0, &[0; 1000]).unwrap();
    disk.write_region(0, &sim.map().unwrap(), 0, 1000).unwrap();
    assert_eq!(read(&disk, 0, 1000), content);
}

#[test]
fn one_opener_has_the_lock() {
    on_both(|storage| {
        let lock = storage.lock().unwrap();
        assert_eq!(kind(storage.lock()), ErrorKind::WouldBlock);
        drop(lock);
        let lock = storage.lock().unwrap();
        assert_eq!(kind(storage.lock()), ErrorKind::WouldBlock);
        drop(lock);
    });
}

#[test]
fn a_view_outlives_its_file_and_storage() {
    let view = {
        let directory = tempfile::tempdir().unwrap();
        let storage = DiskStorage::open(directory.path()).unwrap();
        let file = storage.create("a", 4096).unwrap();
        file.write_at(0, b"still here").unwrap();
        file.map().unwrap()
    };
    let mut bytes = [0; 10];
    view.load(0, &mut bytes);
    assert_eq!(&bytes, b"still here");
}
