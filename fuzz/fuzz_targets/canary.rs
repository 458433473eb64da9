//! Must fail within seconds: proves that inputs get better by what they reach, and that a panic
//! is noticed. Not run by anything but a person.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if bytes.starts_with(b"onlyonce") {
        panic!("the canary sings");
    }
});
