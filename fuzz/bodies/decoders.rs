//! Any bytes to the decoders of the files' parts. Everywhere the first byte is flags (1: make the
//! checksums right, so that what is behind them is reached).

use super::{
    files::{self, Files, Home},
    input::Input,
};
use onlyonce::internals::fuzzing::{self, SEED};

fn repaired(name: &str, bytes: Vec<u8>, flags: u8) -> Vec<u8> {
    let mut files = Files::from([(name.to_owned(), bytes)]);
    if flags & 1 != 0 {
        files::repair(&mut files);
    }
    files.remove(name).unwrap()
}

fn home() -> Home {
    let (store, slot, epoch) = SEED;
    Home { store, slot, epoch, base: 0 }
}

/// A frame: read, and written again.
pub fn frame(bytes: &[u8]) {
    let mut input = Input(bytes);
    let flags = input.byte();
    let mut bytes = input.0.to_vec();
    let made = flags & 1 != 0 && files::frame(&mut bytes, &home()).is_some();
    let read = fuzzing::frame(&bytes);
    // Nothing else is asked of a frame than a key and a token.
    let complete = made && bytes[12] != 5 && bytes[16] > 0 && token(&bytes);
    assert!(read || !complete, "a whole frame is refused");
}

fn token(frame: &[u8]) -> bool {
    let token = u64::from_le_bytes(frame[24..32].try_into().unwrap());
    onlyonce::Token::new(token).is_some()
}

/// Frames among other bytes. Flag 2: they say that they are where they are. Then: base u64,
/// life u32.
pub fn scan(bytes: &[u8]) {
    let mut input = Input(bytes);
    let flags = input.byte();
    // No segment begins further on: its header would be refused.
    let (base, life) = (input.number::<8>() >> 2, input.number::<4>() as u32);
    let mut bytes = input.0.to_vec();
    let mut at = 0;
    while flags & 1 != 0 && at + 88 <= bytes.len() {
        if flags & 2 != 0 && (1..=5).contains(&bytes[at + 12]) {
            let position = base.wrapping_add(at as u64).to_le_bytes();
            bytes[at + 56..at + 64].copy_from_slice(&position);
            bytes[at + 68..at + 72].copy_from_slice(&life.to_le_bytes());
        }
        at += files::frame(&mut bytes[at..], &home()).unwrap_or(8);
    }
    fuzzing::scan(&bytes, base, life);
}

/// A segment's header and footer. Then: pages; 64 bytes of header; the rest is its end.
pub fn footer(bytes: &[u8]) {
    let mut input = Input(bytes);
    let flags = input.byte();
    let pages = 1 + input.below(16);
    let mut file = vec![0; pages * 4096];
    let header = input.take(64);
    file[..header.len()].copy_from_slice(header);
    let end = input.take(file.len() - 64);
    let from = file.len() - end.len();
    file[from..].copy_from_slice(end);
    fuzzing::segment(&repaired("segment-000001", file, flags));
}

/// A claims file.
pub fn cells(bytes: &[u8]) {
    let mut input = Input(bytes);
    let flags = input.byte();
    fuzzing::claims(&repaired("claims", input.0.to_vec(), flags));
}

/// A superblock. Then: 88 bytes of the first copy; 88 of the second. Flag 2: these are all.
pub fn superblock(bytes: &[u8]) {
    let mut input = Input(bytes);
    let flags = input.byte();
    let mut file = Vec::new();
    for at in [0, 4096] {
        file.resize(at, 0);
        file.extend_from_slice(input.take(88));
    }
    if flags & 2 == 0 {
        file.resize(8192, 0);
    }
    fuzzing::superblock(&repaired("superblock", file, flags));
}
