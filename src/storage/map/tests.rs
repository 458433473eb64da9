//! Bounds, alignment, odd lengths, races and forks.

use std::{io::Write, panic::AssertUnwindSafe, panic::catch_unwind};

use proptest::prelude::*;

use super::*;

fn file_of(len: usize) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&vec![0; len]).unwrap();
    file
}

fn panics(act: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(act)).is_err()
}

/// Every kind of region that can be stored to.
fn writable_kinds(len: usize) -> [Region; 3] {
    [
        Region::heap(len),
        Region::writable(&file_of(len), len).unwrap(),
        Region::write_through(&file_of(len), len).unwrap(),
    ]
}

#[test]
fn what_was_stored_is_loaded() {
    for region in writable_kinds(4096) {
        for len in (0..200usize).step_by(8).chain([1024, 4000]) {
            let bytes: Vec<u8> = (0..len).map(|n| (n + len) as u8).collect();
            region.store(96, &bytes).unwrap();
            for part in [len, len.saturating_sub(3), len / 2] {
                let mut found = vec![0; part];
                region.load(96, &mut found);
                assert_eq!(found, bytes[..part], "{region:?}");
            }
        }
        assert_eq!(region.load_word(88), 0, "{region:?}");
    }
}

#[test]
fn words_are_little_endian_bytes() {
    for region in writable_kinds(64) {
        region.store_word(56, 0x0102_0304_0506_0708).unwrap();
        assert_eq!(region.load_word(56), 0x0102_0304_0506_0708);
        let mut bytes = [0; 8];
        region.load(56, &mut bytes);
        assert_eq!(bytes, [8, 7, 6, 5, 4, 3, 2, 1], "{region:?}");
    }
}

#[test]
fn nothing_outside_is_touched() {
    for region in writable_kinds(100) {
        assert!(!panics(|| region.load(96, &mut [0; 4])));
        assert!(!panics(|| region.load(100 / 8 * 8, &mut [])));
        assert!(panics(|| region.load(96, &mut [0; 5])));
        assert!(panics(|| region.load(104, &mut [])));
        assert!(panics(|| region.load(usize::MAX - 7, &mut [0; 16])));
        assert!(panics(|| region.load(4, &mut [0; 8])));
        assert!(panics(|| region.store(96, &[0; 8]).unwrap()));
        assert!(panics(|| region.store(12, &[0; 8]).unwrap()));
        assert!(panics(|| region.store(0, &[0; 7]).unwrap()));
        assert!(panics(|| {
            region.load_word(96);
        }));
        assert!(panics(|| region.store_word(96, 1).unwrap()));
    }
}

#[test]
fn a_view_for_reading_refuses_stores() {
    let region = Region::read_only(&file_of(64), 64).unwrap();
    assert_eq!(region.store(0, &[1; 8]).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    assert_eq!(region.store_word(0, 1).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    assert_eq!(region.load_word(0), 0);
}

#[test]
fn a_store_that_writes_through_fails_as_a_write_does() {
    // A descriptor that cannot be written stands for a disk that is full.
    let named = tempfile::NamedTempFile::new().unwrap();
    named.as_file().set_len(64).unwrap();
    let region = Region::write_through(&File::open(named.path()).unwrap(), 64).unwrap();
    assert!(region.store(0, &[1; 8]).is_err());
    assert!(region.store_word(0, 1).is_err());
    assert_eq!(region.load_word(0), 0);
}

#[test]
fn writing_a_region_reports_the_kernels_error() {
    let named = tempfile::NamedTempFile::new().unwrap();
    let unwritable = File::open(named.path()).unwrap();
    assert!(Region::heap(64).write_to(&unwritable, 0, 0, 64).is_err());
    let too_far = Region::heap(64).write_to(named.as_file(), u64::MAX - 3, 0, 64);
    assert_eq!(too_far.unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn an_empty_region_can_be_made() {
    for region in writable_kinds(0) {
        assert!(region.is_empty());
        region.load(0, &mut []);
        region.store(0, &[]).unwrap();
    }
}

#[test]
fn a_word_publishes_what_was_stored_before_it() {
    let region = Region::heap(4096);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 1..=2_000u64 {
                region.store(64, &turn.to_le_bytes().repeat(20)).unwrap();
                region.store_word(0, turn).unwrap();
            }
        });
        let mut seen = 0;
        while seen < 2_000 {
            seen = region.load_word(0);
            let mut bytes = [0; 160];
            region.load(64, &mut bytes);
            for word in bytes.as_chunks::<8>().0 {
                assert!(u64::from_le_bytes(*word) >= seen);
            }
        }
    });
}

#[test]
fn a_child_notices_that_it_is_one() {
    let mut guard = ForkGuard::new();
    for by_page in [true, false] {
        if !by_page {
            guard.page = None;
        }
        assert!(!guard.is_forked());
        // SAFETY: the child of this process, which has other threads, only loads a word, asks
        // for its number and ends.
        let status = unsafe {
            match libc::fork() {
                0 => libc::_exit(i32::from(guard.is_forked())),
                child => {
                    let mut status = 0;
                    assert_eq!(libc::waitpid(child, &mut status, 0), child);
                    status
                }
            }
        };
        assert_eq!(libc::WEXITSTATUS(status), 1, "by the page: {by_page}");
        assert!(!guard.is_forked());
    }
}

proptest! {
    #[test]
    fn byte_access_is_like_an_array(
        len in 1usize..1200,
        steps in prop::collection::vec((any::<u16>(), any::<u16>(), any::<u8>()), 1..20),
    ) {
        let region = Region::heap(len);
        let mut model = vec![0u8; len];
        let mut dirty = std::collections::BTreeSet::new();
        for (at, count, value) in steps {
            let start = at as usize % len;
            let count = count as usize % (len - start + 1);
            let bytes: Vec<u8> = (0..count).map(|n| value.wrapping_add(n as u8)).collect();
            region.write_bytes(start, &bytes);
            model[start..start + count].copy_from_slice(&bytes);
            dirty.extend((start..start + count).map(|byte| byte / SECTOR_BYTES));

            let mut found = vec![0; count];
            region.read_bytes(start, &mut found);
            prop_assert_eq!(found, bytes);
        }
        let mut all = vec![0; len];
        region.duplicate().load(0, &mut all);
        prop_assert_eq!(all, model);
        for sector in 0..len.div_ceil(SECTOR_BYTES) {
            let bit = region.dirty()[sector / 64].load(Ordering::Relaxed) >> (sector % 64) & 1;
            prop_assert_eq!(bit == 1, dirty.contains(&sector));
        }
    }
}
