//! The bytes of a store's files, as docs/format.md has them: giving a store a fixed name, and
//! making checksums right, so that a hostile input gets beyond them.

use std::collections::BTreeMap;

pub type Files = BTreeMap<String, Vec<u8>>;

const SUPERBLOCK_COPIES: [usize; 2] = [0, 4096];
const CELL: usize = 256;
const DATA: usize = 4096;
const FRAME: usize = 88;
const TRAILER: usize = 48;

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(b[at..at + 4].try_into().unwrap())
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(b[at..at + 8].try_into().unwrap())
}

fn put(b: &mut [u8], at: usize, bytes: &[u8]) {
    b[at..at + bytes.len()].copy_from_slice(bytes);
}

/// What a checksum starts from.
fn seed(words: [u64; 3]) -> u32 {
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    for word in words {
        x = (x ^ word).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x ^= x >> 29;
        x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 32;
    }
    x as u32
}

fn crc(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

/// Writes the checksum of what is before it.
fn seal(b: &mut [u8], from: usize, crc_at: usize) {
    let crc = crc(0, &b[from..crc_at]);
    put(b, crc_at, &crc.to_le_bytes());
}

/// Gives a store that holds nothing yet another name, and its hashes a seed.
pub fn identify(files: &mut Files, store: u64) {
    for (name, bytes) in files {
        match &name[..] {
            "superblock" => {
                for at in SUPERBLOCK_COPIES {
                    put(bytes, at + 16, &store.to_le_bytes());
                    put(bytes, at + 32, &[7; 16]);
                    seal(bytes, at, at + 84);
                }
            }
            "claims" => {
                put(bytes, 16, &store.to_le_bytes());
                seal(bytes, 0, 28);
                // Hints of the other name.
                bytes[64..512].fill(0);
            }
            "ring" => {}
            _ => {
                put(bytes, 16, &store.to_le_bytes());
                seal(bytes, 0, 60);
            }
        }
    }
}

/// Makes the checksums right of everything that looks as if it had one.
pub fn repair(files: &mut Files) {
    let mut homes = Vec::new();
    for (name, bytes) in files.iter_mut() {
        match &name[..] {
            "superblock" => {
                for at in SUPERBLOCK_COPIES {
                    if bytes.len() >= at + 88 {
                        seal(bytes, at, at + 84);
                    }
                }
            }
            "claims" => claims(bytes),
            "ring" => {}
            _ if bytes.len() >= DATA => homes.push(segment(bytes)),
            _ => {}
        }
    }
    if let Some(ring) = files.get_mut("ring") {
        for at in (0..ring.len()).step_by(8) {
            let Some(fixed) = ring[at..].first_chunk::<FRAME>() else { break };
            let position = u64_at(fixed, 56);
            let home = homes.iter().filter(|home| home.base <= position).max_by_key(|h| h.base);
            if let Some(home) = home {
                frame(&mut ring[at..], home);
            }
        }
    }
}

fn claims(b: &mut [u8]) {
    if b.len() < 32 {
        return;
    }
    seal(b, 0, 28);
    let store = u64_at(b, 16);
    for (number, cell) in b.chunks_exact_mut(CELL).enumerate().skip(2) {
        let used = 32 + u16::from_le_bytes([cell[28], cell[29]]) as usize;
        if u32_at(cell, 4) == 0x1ce0_c1a1 && used <= CELL {
            let crc = crc(seed([store, number as u64, 1]), &cell[8..used]);
            put(cell, 0, &crc.to_le_bytes());
        }
    }
}

/// Whose frames these are.
#[derive(Clone, Copy)]
pub struct Home {
    pub store: u64,
    pub slot: u32,
    pub epoch: u32,
    /// Where positions begin.
    pub base: u64,
}

impl Home {
    fn seed(&self, life: u32) -> u32 {
        let use_of_slot = u64::from(self.slot) << 32 | u64::from(self.epoch);
        seed([self.store, use_of_slot, u64::from(life)])
    }
}

fn segment(b: &mut [u8]) -> Home {
    seal(b, 0, 60);
    let (store, slot, epoch) = (u64_at(b, 16), u32_at(b, 12), u32_at(b, 24));
    let home = Home { store, slot, epoch, base: u64_at(b, 40) };
    let mut at = DATA;
    while at + FRAME <= b.len() {
        at += frame(&mut b[at..], &home).unwrap_or(8);
    }
    footer(b, &home);
    home
}

/// If the bytes start with something like a frame, makes it one, and returns its length.
pub fn frame(b: &mut [u8], home: &Home) -> Option<usize> {
    let fixed = b.first_chunk::<FRAME>()?;
    let (len, head_len) = (u32_at(fixed, 4) as usize, u16::from_le_bytes([fixed[18], fixed[19]]));
    let names_end = FRAME + fixed[15] as usize + fixed[16] as usize;
    let like = (1..=5).contains(&fixed[12])
        && len.next_multiple_of(8) <= b.len()
        && names_end + head_len as usize <= len;
    if !like {
        return None;
    }
    let body_crc = crc(0, &b[names_end..len]);
    put(b, 8, &body_crc.to_le_bytes());
    let crc = crc(home.seed(u32_at(b, 68)), &b[4..names_end]).max(1);
    put(b, 0, &crc.to_le_bytes());
    Some(len.next_multiple_of(8))
}

/// If the bytes end with something like a footer, makes it one.
fn footer(b: &mut [u8], home: &Home) {
    let Some(at) = b.len().checked_sub(TRAILER).filter(|at| b[*at..].starts_with(b"1ce-foot"))
    else {
        return;
    };
    let from = (u32_at(b, at + 8) as usize).checked_mul(16).and_then(|len| at.checked_sub(len));
    if let Some(from) = from {
        let end = b.len();
        let crc = crc(home.seed(0), &b[from..end - 4]);
        put(b, end - 4, &crc.to_le_bytes());
    }
}
