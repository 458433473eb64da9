//! Positions and epochs at the end of what a header may say.

use super::{footer::SegmentHeader, *};
use crate::{
    fingerprint::Fingerprint,
    key::Scope,
    limits::{BASE_MAX, COUNT_MAX, POSITION_MAX},
    storage::{Fault, SimStorage, Storage},
    token::Token,
};

const STORE: u64 = 9;
const BYTES: u64 = 64 << 10;

fn slot(disk: &SimStorage, number: u32) -> Arc<Slot> {
    Arc::new(Slot::create(disk, number, BYTES, STORE).unwrap())
}

fn header(slot: &Slot) -> SegmentHeader {
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    slot.file.read_at(0, &mut bytes).unwrap();
    SegmentHeader::decode(&bytes).expect("the next opening refuses it")
}

#[test]
fn the_last_positions_are_given_out_and_then_no_more() {
    let disk = SimStorage::new(1);
    let frame_max = largest_frame(4096) as u64;
    let shared = Shared {
        life: 7,
        frame_max,
        buffered: false,
        space: Space::default(),
        poison: Arc::default(),
        timings: Default::default(),
    };
    let group = GroupCommit::new(Arc::default(), None);
    let ring = heap_region(64 << 10);
    let appender = Appender::new(MAIN_CLASS, BASE_MAX, ring, group, Arc::default());
    let scope = Scope::global();
    let draft = Draft {
        kind: Kind::Completed,
        key: crate::key::KeyRef::new(&scope, "k").unwrap(),
        fingerprint: Fingerprint::of(["x"]),
        attempt: COUNT_MAX,
        token: Token::new(5).unwrap(),
        time_ms: 1,
        replay_until_ms: 2,
        expires_ms: 3,
        head: b"",
        body: &[7; 4000],
    };
    let append = || {
        let mut frame = Encoded::default();
        frame.draft(&draft);
        let Draft { kind, time_ms, expires_ms, .. } = draft;
        let listing = Listing { hash: 1, kind, time_ms, expires_ms };
        appender.append(&shared, &mut frame, listing, Roll::Any, 1)
    };
    let first = slot(&disk, 1);
    shared.space.give(first.clone(), first.usable(frame_max));
    assert!(matches!(append(), Err(Busy::Segment { .. })));
    assert_eq!(appender.roll(&shared), Ok(true));
    let since = header(&first).active.unwrap();
    assert_eq!(since.base, BASE_MAX - DATA_START);
    let mut placed = 0;
    while let Ok(appended) = append() {
        placed += 1;
        assert_eq!(appender.commit(&shared).unwrap().0, appended.end);
        assert!(appended.end < POSITION_MAX);
        let mut bytes = vec![0; (appended.end - since.base - appended.location.offset()) as usize];
        first.load(appended.location.offset(), &mut bytes);
        let frame = Frame::parse(first.seed(), &bytes).unwrap();
        assert_eq!(frame.header.position, since.base + appended.location.offset());
    }
    assert!(placed > 10);
    let second = slot(&disk, 2);
    shared.space.give(second.clone(), second.usable(frame_max));
    assert!(matches!(append(), Err(Busy::Segment { .. })));
    appender.roll(&shared).unwrap_err();
    let why = shared.poison.why().unwrap();
    assert!(why.contains("positions are used up"), "{why}");
    // The headers that are there were not touched.
    assert_eq!(header(&second).active, None);
    assert_eq!(header(&first).active, Some(since));
}

/// A slot in use for the last time before its epochs end, which holds something.
fn worn(epoch: u32) -> (SimStorage, Slot) {
    let disk = SimStorage::new(u64::from(epoch));
    let file = disk.create(&file_name(1), BYTES).unwrap();
    disk.sync_dir().unwrap();
    let slot = Slot::new(1, epoch, STORE, file).unwrap();
    slot.activate(3, MAIN_CLASS, FIRST_POSITION).unwrap();
    slot.file.write_at(DATA_START, &vec![7; (BYTES - DATA_START) as usize]).unwrap();
    slot.file.sync().unwrap();
    (disk, slot)
}

fn is_empty(slot: &Slot) -> bool {
    let mut bytes = vec![1; (BYTES - DATA_START) as usize];
    slot.file.read_at(DATA_START, &mut bytes).unwrap();
    bytes.iter().all(|byte| *byte == 0)
}

#[test]
fn after_the_last_epoch_a_slot_begins_again_empty() {
    let (_disk, slot) = worn(COUNT_MAX - 2);
    slot.recycle().unwrap();
    assert_eq!((slot.epoch(), is_empty(&slot)), (COUNT_MAX - 1, false));
    assert_eq!(header(&slot).epoch, COUNT_MAX - 1);
    for _ in 0..2 {
        slot.recycle().unwrap();
        assert!(is_empty(&slot));
        assert_eq!((header(&slot).epoch, header(&slot).active), (slot.epoch(), None));
    }
    assert_eq!(slot.epoch(), 2);
}

#[test]
fn a_crash_while_it_begins_again_leaves_it_as_it_was_or_is_repeated() {
    // An earlier version of this library has filled the last one, too.
    for epoch in [COUNT_MAX - 1, COUNT_MAX] {
        for at in 1.. {
            let (disk, slot) = worn(epoch);
            let calls = disk.calls();
            disk.fault_at(calls + at, Fault::Crash);
            let whole = slot.recycle().is_ok();
            for left in [disk.power_cut(), disk.kill()] {
                let file = left.open(&file_name(1)).unwrap();
                let mut bytes = [0; SEGMENT_HEADER_BYTES];
                file.read_at(0, &mut bytes).unwrap();
                let found = SegmentHeader::decode(&bytes).unwrap();
                let slot = Slot::new(1, found.epoch, STORE, file).unwrap();
                match found.active {
                    Some(_) => assert_eq!((found.epoch, is_empty(&slot)), (epoch, false)),
                    None => {
                        slot.confirm_free().unwrap();
                        assert_eq!((slot.epoch(), header(&slot).epoch), (1, 1));
                        assert!(is_empty(&slot));
                    }
                }
            }
            if whole {
                break;
            }
        }
    }
}

#[test]
fn the_last_slot_has_its_place() {
    let disk = SimStorage::new(1);
    let slots = Slots::new();
    slots.add(slot(&disk, crate::limits::SLOTS_MAX));
    assert_eq!(slots.get(crate::limits::SLOTS_MAX).unwrap().number, crate::limits::SLOTS_MAX);
    assert!(slots.get(crate::limits::SLOTS_MAX + 1).is_none());
    assert_eq!(slots.iter().count(), 1);
}
