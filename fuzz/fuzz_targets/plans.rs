//! What libFuzzer drives: see `relay_fuzz::plans`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relay_fuzz::plans::run(data));
