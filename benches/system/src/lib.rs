//! What the programs of this package and of `benches/peers` measure with: latencies, the bytes
//! that reach a device, memory, processor time, and a description of the machine.
#![forbid(unsafe_code)]

mod args;
mod circle;
mod clock;
mod device;
mod latencies;
mod left;
mod machine;
mod map;
mod place;
pub mod plot;
mod process;
mod spread;
pub mod trace;
pub mod work;

pub use args::Args;
pub use circle::Circle;
pub use clock::ShiftedClock;
pub use device::{Device, disk_bytes};
pub use latencies::{Latencies, Quantiles};
pub use left::Left;
pub use machine::Machine;
pub use map::Map;
pub use place::{Folder, beside};
pub use process::{Memory, cpu_time, disk_reads, kernel_writes, switches};
pub use spread::{Spread, time};
