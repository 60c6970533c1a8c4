//! The program behind `cargo xtask bench`.

fn main() {}
