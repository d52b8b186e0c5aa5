//! The broker's entry point.
fn main() {}
