//! The broker's entry point: flags, settings, runtime, run, exit code.

use std::process::ExitCode;

use clap::Parser as _;

mod flags;
mod probe;
mod run;

use flags::Flags;

/// Measured: much faster than the system's under many small allocations on many threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run::run(Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => {
            eprintln!("ropewalk-broker: {stop}");
            ExitCode::from(stop.code())
        }
    }
}
