//! Frames, the ring they are appended to, and the groups they become durable in.

use crate::{
    Bench,
    limits::{self, Disk, RING_BYTES, copier, written_file},
    measure::{self, Run, clocked, single},
    plan::{FRAME_BYTES, Plan, RESPONSE_BYTES, key, scope},
};
use onlyonce::{
    KeyRef,
    internals::parts::{Frame, Log},
};
use std::{
    hint::black_box,
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

/// The draining thread of a store is woken when there is so much to drain.
const PIECE_BYTES: usize = 256 << 10;
/// The same in records.
const PIECE: u64 = (PIECE_BYTES / FRAME_BYTES) as u64;
const FILE_BYTES: usize = 64 << 20;

fn draft(frame: &mut Frame, i: u64) {
    let (scope, key) = (scope(), key(1, i));
    let key = KeyRef::new(&scope, &key).unwrap();
    frame.draft(key, black_box(&[7; RESPONSE_BYTES]));
}

pub fn encode(bench: &mut Bench) {
    let Bench { plan, criterion, report } = bench;
    let dir = plan.dir();
    let mut map = limits::hot_map(dir.path());
    let hot = &mut map[..FRAME_BYTES];
    let mut copy = copier::<FRAME_BYTES>(hot);
    let copied = single(criterion, "encode/copy", |n| (0..n).for_each(|_| copy()));
    let sum = || black_box(crc32fast::hash(black_box(&[3; FRAME_BYTES])));
    let summed = single(criterion, "encode/copy + checksum", |n| {
        for _ in 0..n {
            copy();
            sum();
        }
    });
    let (mut frame, mut i) = (Frame::default(), 0);
    let encoded = single(criterion, "encode/frame", |n| {
        for _ in 0..n {
            draft(&mut frame, i);
            assert_eq!(black_box(frame.place(i * FRAME_BYTES as u64)).len(), FRAME_BYTES);
            i += 1;
        }
    });
    report.title("encode: a frame of 1,152 B, again and again in one buffer");
    if let Some(encoded) = encoded {
        report.cost("draft + place", encoded);
        copied.inspect(|limit| report.cost_limit("copy of as many bytes", *limit, encoded));
        summed.inspect(|limit| report.cost_limit("copy + crc32fast of them", *limit, encoded));
    }
}

/// A log of segments that have been written; as large as the store's if it is no test.
fn log(plan: &Plan, dir: &Path) -> Log {
    let segment = if plan.short { 4 << 20 } else { 64 << 20 };
    Log::create(dir, RING_BYTES as u64, 3, segment).unwrap()
}

pub fn append(bench: &mut Bench) {
    let Bench { plan, criterion, report } = bench;
    let dir = plan.dir();
    let mut map = limits::hot_map(dir.path());
    let mut copy = copier::<FRAME_BYTES>(&mut map);
    let copied = single(criterion, "append/copy", |n| (0..n).for_each(|_| copy()));
    drop(copy);
    let file = written_file(&dir.path().join("drained"), FILE_BYTES);
    let mut turn = 0;
    let moved = clocked(criterion, "append/copy + write", |n| {
        by_pieces(n, |records| {
            let piece = map.chunks_exact_mut(PIECE_BYTES).nth(turn % (RING_BYTES / PIECE_BYTES));
            let piece = &mut piece.unwrap()[..records as usize * FRAME_BYTES];
            let at = turn % (FILE_BYTES / PIECE_BYTES) * PIECE_BYTES;
            turn += 1;
            if at == 0 {
                file.sync_data().unwrap();
            }
            let began = Instant::now();
            let mut copy = copier::<FRAME_BYTES>(piece);
            (0..records).for_each(|_| copy());
            drop(copy);
            file.write_all_at(piece, at as u64).unwrap();
            (records, began.elapsed())
        })
    });

    let (log, mut frame) = (log(plan, &dir.path().join("log")), Frame::default());
    draft(&mut frame, 0);
    let mut fill = |most: u64| (0..most).take_while(|_| log.append(&mut frame).is_some()).count();
    let alone = clocked(criterion, "append/ring", |n| {
        by_pieces(n, |records| {
            let began = Instant::now();
            let appended = fill(records);
            let took = began.elapsed();
            log.drain();
            log.recycle();
            (appended as u64, took)
        })
    });
    let drained = clocked(criterion, "append/ring + drain", |n| {
        by_pieces(n, |records| {
            let began = Instant::now();
            let appended = fill(records);
            log.drain();
            let took = began.elapsed();
            log.recycle();
            (appended as u64, took)
        })
    });
    report.title("append: a frame that has been drafted, into the mapped ring");
    if let Some(alone) = alone {
        report.cost("place + copy, drained outside the clock", alone);
        copied.inspect(|limit| report.cost_limit("copy into hot mapped pages", *limit, alone));
    }
    if let Some(drained) = drained {
        report.cost("the same and draining, 227 at a time", drained);
        moved.inspect(|limit| report.cost_limit("the same copy + pwrite of 227", *limit, drained));
    }
}

/// As many records by pieces; `some` says how many of those it was asked for it has done, and how
/// long that took.
fn by_pieces(records: u64, mut some: impl FnMut(u64) -> (u64, Duration)) -> Duration {
    let (mut left, mut took) = (records, Duration::ZERO);
    while left > 0 {
        let (done, time) = some(left.min(PIECE));
        left -= done;
        took += time;
    }
    took
}

pub fn commit(bench: &mut Bench) {
    let Bench { plan, report, .. } = bench;
    let dir = plan.dir();
    let (log, mut frame) = (log(plan, &dir.path().join("log")), Frame::default());
    draft(&mut frame, 0);
    report.title("commit: records appended, then waited for by the one caller, who leads");
    for records in [1, 8, 64] {
        let mut disk = Disk::new(dir.path(), records);
        let mut group = || {
            let end = (0..records).map(|_| append_one(&log, &mut frame)).last();
            log.wait_durable(end.expect("at least one"));
        };
        let [mut syncs, mut groups] = <[Run; 2]>::default();
        // Short turns: the disk has moods.
        for _ in 0..6 * plan.rounds() {
            syncs.add(disk.groups(plan.time(100)));
            groups.add(measure::callers(vec![&mut group], plan.time(100), true));
        }
        report.rate(&format!("groups of {records} record(s)"), &groups);
        report.rate_limit("one pwrite + fdatasync of as many bytes", &syncs, 1.0, &groups);
    }
}

/// Appends; recycles once in a segment.
fn append_one(log: &Log, frame: &mut Frame) -> u64 {
    loop {
        match log.append(frame) {
            Some(end) => return end,
            None => log.recycle(),
        }
    }
}
