//! What libFuzzer drives: see `relay_fuzz::gso_split`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relay_fuzz::gso_split::run(data));
