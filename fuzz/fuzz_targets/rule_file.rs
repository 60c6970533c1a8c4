//! What libFuzzer drives: see `relay_fuzz::rule_file`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relay_fuzz::rule_file::run(data));
