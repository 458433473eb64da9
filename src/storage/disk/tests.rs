//! Mistakes that only a real directory can show.

use std::{io::ErrorKind, os::unix::fs::MetadataExt};

use super::*;

fn fresh() -> (tempfile::TempDir, DiskStorage) {
    let directory = tempfile::tempdir().unwrap();
    let storage = DiskStorage::open(directory.path()).unwrap();
    (directory, storage)
}

#[test]
fn missing_directories_are_created() {
    let (directory, _) = fresh();
    let deep = directory.path().join("a/b/c");
    DiskStorage::open(&deep).unwrap().create("x", 8).unwrap();
    assert!(deep.join("x").is_file());
    DiskStorage::open(&deep).unwrap().open("x").unwrap();
}

#[test]
fn a_directory_whose_name_is_not_known_to_be_durable_is_made_again() {
    let (directory, _) = fresh();
    let deep = directory.path().join("a/b/c");
    for failing in ["", "a", "a/b"] {
        let failing = directory.path().join(failing);
        let synced = create_durably(&deep, |path| match path == failing {
            true => Err(ErrorKind::Other.into()),
            false => sync_directory(path),
        });
        synced.unwrap_err();
        // (What is above it was there already, or is durable.)
        let left = std::fs::read_dir(&failing).unwrap().count();
        assert_eq!(left, 0, "{}", failing.display());
    }
    create_durably(&deep, sync_directory).unwrap();
    assert!(deep.is_dir());
}

#[test]
fn a_path_that_is_a_file_is_refused() {
    let (directory, storage) = fresh();
    storage.create("x", 8).unwrap();
    let file = directory.path().join("x");
    for path in [file.clone(), file.join("below")] {
        let error = DiskStorage::open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotADirectory);
        assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
    }
    assert!(DiskStorage::open("").is_err());
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let (directory, storage) = fresh();
    let absolute = directory.path().join("absolute");
    std::fs::write(&absolute, "stays").unwrap();
    for name in ["", ".", "..", "a/b", absolute.to_str().unwrap(), "a\0b"] {
        assert_eq!(storage.create(name, 8).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(storage.open(name).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(storage.remove(name).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}

#[test]
fn only_regular_files_are_opened() {
    let (directory, storage) = fresh();
    std::fs::create_dir(directory.path().join("directory")).unwrap();
    std::os::unix::fs::symlink("pipe", directory.path().join("link")).unwrap();
    let pipe = directory.path().join("pipe");
    // There is no `mknodat` on every Unix system.
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for name in ["directory", "link", "pipe"] {
        let error = storage.open(name).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        assert!(storage.create(name, 8).is_err(), "{name}");
    }
    let mut names = storage.list().unwrap();
    names.sort();
    assert_eq!(names, ["link", "pipe"]);
}

#[test]
fn a_second_opener_is_refused_until_the_first_is_gone() {
    let (directory, first) = fresh();
    let lock = first.lock().unwrap();
    let second = DiskStorage::open(directory.path()).unwrap();
    let error = second.lock().err().unwrap();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert!(error.to_string().contains(directory.path().to_str().unwrap()), "{error}");
    drop(first);
    assert!(second.lock().is_err(), "the lock is the guard's, not the storage's");
    drop(lock);
    second.lock().unwrap();
}

#[test]
fn a_copy_of_the_descriptor_does_not_keep_the_lock() {
    let (_directory, storage) = fresh();
    let lock = storage.take_lock().unwrap();
    // A child process has such a copy between fork and exec.
    let _copy = lock.descriptor.try_clone().unwrap();
    drop(lock);
    storage.lock().unwrap();
}

#[test]
fn a_forked_child_does_not_end_its_parents_lock() {
    let (_directory, storage) = fresh();
    let mut childs = storage.take_lock().unwrap();
    let _parents = childs.descriptor.try_clone().unwrap();
    childs.process += 1;
    drop(childs);
    assert_eq!(storage.lock().err().unwrap().kind(), ErrorKind::WouldBlock);
}

#[test]
fn blocks_are_allocated() {
    let (directory, storage) = fresh();
    storage.create("x", 1 << 20).unwrap();
    let blocks = std::fs::metadata(directory.path().join("x")).unwrap().blocks();
    assert!(blocks * 512 >= 1 << 20, "{blocks} blocks");
}

#[test]
fn where_nothing_can_be_allocated_zeros_are_written() {
    let (directory, _) = fresh();
    let path = directory.path().join("x");
    let len = 2 * ZERO_PIECE as u64 + 1000;
    write_zeros(&File::create(&path).unwrap(), 0, len).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), len);
    assert!(std::fs::metadata(&path).unwrap().blocks() * 512 >= len);
}

#[test]
fn a_shrunk_file_is_an_error_and_not_a_signal() {
    let (directory, storage) = fresh();
    let file = storage.create("x", 8192).unwrap();
    let outside = File::options().write(true).open(directory.path().join("x")).unwrap();
    outside.set_len(4096).unwrap();
    assert_eq!(file.map().unwrap_err().kind(), ErrorKind::InvalidData);
    assert_eq!(file.map_mut().unwrap_err().kind(), ErrorKind::InvalidData);
    let error = file.read_at(4000, &mut [0; 200]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    assert_eq!(storage.open("x").unwrap().size(), 4096);
}

#[test]
fn a_directory_that_is_renamed_stays_the_same_place() {
    let (directory, _) = fresh();
    let (old, new) = (directory.path().join("old"), directory.path().join("new"));
    let storage = DiskStorage::open(&old).unwrap();
    std::fs::rename(&old, &new).unwrap();
    storage.create("x", 8).unwrap();
    storage.sync_dir().unwrap();
    assert!(new.join("x").is_file());
}

/// On a tmpfs with a limit, allocating more than the limit fails at once and allocates nothing.
#[test]
fn a_full_disk_leaves_nothing_behind() {
    let Ok(directory) = tempfile::tempdir_in("/dev/shm") else {
        return;
    };
    let storage = DiskStorage::open(directory.path()).unwrap();
    let answer = fs::fstatfs(&storage.directory).unwrap();
    if answer.f_type as u32 != 0x0102_1994 || answer.f_blocks == 0 {
        return;
    }
    assert!(!storage.write_through, "a tmpfs writes in place");
    storage.create("x", 4096).unwrap();
    for name in ["x", "y"] {
        let error = storage.create(name, 1 << 46).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    assert!(storage.list().unwrap().is_empty());
}

#[test]
fn stores_can_be_write_calls() {
    let (_directory, mut storage) = fresh();
    storage.write_through = true;
    let file = storage.create("x", 4096).unwrap();
    let writer = file.map_mut().unwrap();
    assert!(format!("{writer:?}").contains("write-through"));
    writer.store(8, &[7; 16]).unwrap();
    writer.store_word(24, 9).unwrap();
    assert_eq!(file.map().unwrap().load_word(16), 0x0707_0707_0707_0707);
    assert_eq!(writer.load_word(24), 9);
}

#[test]
fn the_holder_of_a_lock_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let storage = DiskStorage::open(dir.path()).unwrap();
    let looker = DiskStorage::open_read_only(dir.path()).unwrap();
    assert_eq!(looker.locked_by(), None);
    let lock = storage.lock().unwrap();
    if cfg!(target_os = "linux") {
        assert_eq!(looker.locked_by(), Some(std::process::id()));
    }
    drop(lock);
    assert_eq!(looker.locked_by(), None);
}

#[test]
fn the_kernel_s_list_of_locks_is_understood() {
    let locks = "1: POSIX  ADVISORY  WRITE 9 fd:01:131 0 EOF\n\
                 2: FLOCK  ADVISORY  WRITE 77 fd:01:131 0 EOF\n\
                 2: -> FLOCK  ADVISORY  WRITE 78 fd:01:131 0 EOF\n\
                 3: FLOCK  ADVISORY  READ  79 00:2a:132 0 EOF\n";
    assert_eq!(holder(locks, (0xfd, 1), 131), Some(77));
    assert_eq!(holder(locks, (0xfd, 2), 131), None);
    assert_eq!(holder(locks, (0, 0x2a), 132), None);
    assert_eq!(holder("nonsense", (0, 0), 0), None);
}

#[test]
fn who_only_looks_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let error = DiskStorage::open_read_only(&missing).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(!missing.exists());
    let file = DiskStorage::open(dir.path()).unwrap().create("a", 4096).unwrap();
    file.write_at(0, b"abc").unwrap();
    let looker = DiskStorage::open_read_only(dir.path()).unwrap();
    let seen = looker.open("a").unwrap();
    let mut bytes = [0; 3];
    seen.read_at(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"abc");
    assert!(seen.write_at(0, b"x").is_err());
    assert!(seen.map_mut().is_err());
    assert!(looker.create("b", 1).is_err());
    assert!(looker.remove("a").is_err());
    assert!(dir.path().join("a").exists() && !dir.path().join("b").exists());
}
