//! Doors for fuzz targets and for the benchmarks of single parts. Not part of the public interface.

pub mod fuzzing;
pub mod parts;
