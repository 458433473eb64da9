//! Inputs to begin with, one or more of each target: `WRITE_SEEDS=1 cargo test --all-features
//! --test fuzz_corpus` writes them.

use super::{files::Files, recover_bytes::template};

/// Target, name, input.
pub type Seed = (&'static str, &'static str, Vec<u8>);

const BEGIN: [u8; 4] = [0, 0, 0, 0];
const COMPLETE: [u8; 4] = [13, 0, 4, 0];

/// Four bytes a call, as in `program`.
fn program(calls: &[[u8; 4]]) -> Vec<u8> {
    let mut bytes = vec![calls.len() as u8];
    bytes.extend(calls.iter().flatten());
    bytes
}

/// Completions of every size and class, a takeover, decisions, restarts.
fn long() -> Vec<u8> {
    let mut calls = Vec::new();
    for n in 0..8 {
        calls.extend([[0, n % 5, 0, n], [13, 0, n, n], [35, n, 0, 0]]);
    }
    calls.extend([[0, 3, 0, 0], [24, 0, 4, 0], [26, 0, 0, 0], [9, 3, 0, 0], [21, 0, 3, 0]]);
    calls.extend([[28, 4, 3, 0x80], [30, 0, 0, 0x80], [34, 0, 0, 0], [37, 0, 0, 0]]);
    calls.extend([[0, 2, 0, 1], [13, 0, 5, 0], [38, 0, 0, 0], [0, 1, 0, 2], [39, 0, 0, 0]]);
    calls.extend([BEGIN, COMPLETE, [33, 0, 0, 0], [27, 0, 0, 0]]);
    program(&calls)
}

/// Two records beside each other and a claim.
fn short() -> Vec<u8> {
    program(&[BEGIN, COMPLETE, [0, 1, 0, 0], [13, 0, 4, 1], [0, 4, 0, 0]])
}

fn join(pieces: &[&[u8]]) -> Vec<u8> {
    pieces.concat()
}

fn number(n: usize, bytes: usize) -> Vec<u8> {
    n.to_le_bytes()[..bytes].to_vec()
}

/// Up to the last byte that isn't zero, in whole units.
fn used(bytes: &[u8], unit: usize) -> &[u8] {
    let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
    &bytes[..end.next_multiple_of(unit).min(bytes.len())]
}

/// All seeds.
pub fn seeds() -> Vec<Seed> {
    let (closed, killed) = (template(false), template(true));
    let mut seeds = programs();
    seeds.extend(stores(closed));
    seeds.extend(parts(false, closed));
    seeds.extend(parts(true, killed));
    let mut wheel = number(1_000_000, 8);
    for n in 0..24 {
        // Two inserts, a cancel, an advance.
        wheel.extend([0, n, 9, 0x80, 0, n / 2, 0, 0x81, 1, n, 0, 2, n / 3, 0, 0x80, 3]);
    }
    seeds.push(("wheel", "seed-mixed", wheel));
    seeds.extend(http());
    seeds
}

/// Those of what the HTTP layer reads.
fn http() -> Vec<Seed> {
    // Version, kind, status; two lines of headers; trailers; body.
    let (link, sum) = (b"\x04link\x03<1>".as_slice(), b"\x05x-sum\x02\x80\xff".as_slice());
    let whole = join(&[&[0], &[1, 0, 201, 0], &[2], link, link, &[1], sum, b"order 1"]);
    let head_only = join(&[&[0], &[1, 2, 200, 0], b"\x01\x08location\x09/orders/1", &[0]]);
    let made = join(&[
        &[1, 201, 0, 2, 4, 3],
        b"link<1>",
        &[4, 200],
        b"link",
        &[0xe4; 200],
        &[1, 5, 1],
        b"x-sum7",
        b"order 1",
    ]);
    vec![
        ("answer", "seed-whole", whole),
        ("answer", "seed-head-only", head_only),
        ("answer", "seed-sealed", vec![0, 1, 0x80, 9, 9]),
        ("answer", "seed-made", made),
        ("key", "seed-bare", b"8e03978e-40d5-43e8-bc93-6894a57f9324".to_vec()),
        ("key", "seed-string", br#" "a\"b c\\" "#.to_vec()),
        ("key", "seed-parameters", br#""k";a=1;b="2""#.to_vec()),
        ("key", "seed-two", b"\"a\", \"b\"".to_vec()),
        ("key", "seed-not-ascii", b"\"\xc3\xa9\"".to_vec()),
        ("key", "seed-longest", [b'k'; 255].to_vec()),
    ]
}

/// Those that start with a program.
fn programs() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (name, setting, fault, at) in [
        ("seed-no-fault", 0, 0, 0),
        ("seed-crash", 0, 1, 90),
        ("seed-short-write", 1, 2, 70),
        ("seed-eio-buffered", 2, 3, 60),
        ("seed-full-tight", 0xc0, 4, 80),
        ("seed-crash-all-collide", 0x30, 1, 120),
    ] {
        let input = join(&[&[setting, fault], &number(at, 2), &[5, 0], &long()]);
        seeds.push(("operations", name, input));
    }
    // setting, end; what, file, at u16, to u16, len u16
    for (name, setting, end, program, damage) in [
        ("seed-flip", 0, 1, short(), [0, 0x11, 64, 0, 0, 0, 3, 0]),
        ("seed-zero", 0, 1, long(), [0x90, 1, 70, 0, 0, 0, 0, 2]),
        ("seed-cut", 1, 0, short(), [28, 1, 9, 1, 0, 0, 0, 0]),
        ("seed-swap", 0, 0, long(), [0xa0, 1, 64, 0, 0, 1, 0, 4]),
        ("seed-copy", 2, 1, long(), [0xa8, 1, 64, 0, 0, 2, 0, 2]),
        ("seed-swap-files", 0, 1, long(), [54, 0x21, 0, 0, 0, 0, 0, 0]),
        ("seed-remove", 0, 0, long(), [56, 1, 0, 0, 0, 0, 0, 0]),
        ("seed-foreign", 0xc0, 1, long(), [60, 1, 0, 0, 0, 0, 0, 0]),
        ("seed-claims", 0, 4, long(), [0x90, 0, 10, 1, 0, 0, 0, 1]),
        ("seed-superblock", 0, 7, short(), [16, 0, 0, 0, 0, 0, 88, 0]),
        ("seed-undamaged", 0x30, 0, long(), [0; 8]),
    ] {
        let damage = if name == "seed-undamaged" { &[][..] } else { &damage };
        let input = join(&[&[setting, end, 7, 0], &program, damage]);
        seeds.push(("recover_mutated", name, input));
    }
    seeds
}

/// Those of `recover_bytes`.
fn stores(closed: &Files) -> Vec<Seed> {
    // Whole files, as far as they fit.
    let mut whole = vec![0];
    for (number_of, name) in super::recover_bytes::NAMES.iter().enumerate() {
        let bytes = &closed[*name];
        let chunk = used(&bytes[..bytes.len().min(60_000)], 8);
        whole.extend([number_of as u8, (bytes.len() / 4096) as u8]);
        whole.extend(number(chunk.len(), 2));
        whole.extend(chunk);
    }
    let one = |flags: u8, piece: &[u8]| join(&[&[flags], piece]);
    vec![
        ("recover_bytes", "seed-whole", whole),
        ("recover_bytes", "seed-closed", vec![1]),
        ("recover_bytes", "seed-killed", vec![3]),
        ("recover_bytes", "seed-nothing", vec![0]),
        ("recover_bytes", "seed-blank-ring", one(3, &[2, 16, 0, 0])),
        ("recover_bytes", "seed-other-life", one(5, &[8, 12, 0, 0, 4, 9, 0, 0, 0])),
        ("recover_bytes", "seed-no-claims", one(1, &[17])),
        ("recover_bytes", "seed-cut-segment", one(7, &[27, 9])),
    ]
}

/// Those of the decoders.
fn parts(killed: bool, files: &Files) -> Vec<Seed> {
    let whole = if killed { "seed-killed" } else { "seed-closed" };
    let repaired = if killed { "seed-killed-repaired" } else { "seed-closed-repaired" };
    let segment = &files["segment-000001"];
    let frames = used(&segment[4096..12_288], 8);
    let len = u32::from_le_bytes(frames[4..8].try_into().unwrap()) as usize;
    let footer = &segment[segment.len() - 48 - 16 * 8..];
    let pages = (segment.len() / 4096 - 1) as u8;
    let superblock = &files["superblock"];
    vec![
        ("frame", whole, join(&[&[0], &frames[..len.next_multiple_of(8)]])),
        ("frame", repaired, join(&[&[1], &frames[..len.next_multiple_of(8)]])),
        ("scan", whole, join(&[&[0], &segment[40..48], &segment[32..36], frames])),
        ("scan", repaired, join(&[&[3], &[8; 8], &[1, 0, 0, 0], frames])),
        ("footer", whole, join(&[&[0, pages], &segment[..64], footer])),
        ("footer", repaired, join(&[&[1, 3], &segment[..64], footer])),
        ("cells", whole, join(&[&[0], &files["claims"][..4096]])),
        ("cells", repaired, join(&[&[1], &files["claims"][..2048]])),
        ("superblock", whole, join(&[&[0], &superblock[..88], &superblock[4096..4184]])),
        ("superblock", repaired, join(&[&[1], &superblock[..88]])),
    ]
}
