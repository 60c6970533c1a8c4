//! What libFuzzer drives: see `relay_fuzz::rewrite`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relay_fuzz::rewrite::run(data));
