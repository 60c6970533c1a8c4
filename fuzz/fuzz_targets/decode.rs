//! What libFuzzer drives: see `relay_fuzz::decode`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relay_fuzz::decode::run(data));
