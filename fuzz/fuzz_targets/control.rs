//! What libFuzzer drives: see `relay_fuzz::control`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relay_fuzz::control::run(data));
