//! Writes `generated.rs` and `generated/` of ropewalk-codec from Kafka's message schemas.
//!
//! The schemas are the JSON files below `common/message` in the jar of kafka-clients; they are not
//! part of this repository. [`schema`] reads them, [`select`] selects the messages that clients and
//! brokers exchange, [`render`] turns each into Rust, and this file formats the result and writes
//! it or compares it.
//!
//! Nothing is written unless every schema was understood.

mod versions;
mod schema;
mod select;
mod render;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use clap::Parser;

/// Generates the message structs of ropewalk-codec.
#[derive(Debug, Parser)]
struct Arguments {
    /// The unpacked jar, or its folder common/message.
    schemas: PathBuf,
    /// The source folder of ropewalk-codec.
    output: PathBuf,
    /// Write nothing; fail if the existing files differ.
    #[arg(long)]
    check: bool,
}

/// Text by path, relative to the output folder.
type Files = BTreeMap<PathBuf, String>;

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let nested = arguments.schemas.join("common/message");
    let folder = if nested.is_dir() { nested } else { arguments.schemas };
    let messages = select::needed(schema::read_folder(&folder)?)?;
    let files = formatted(render::files(&messages), &arguments.output)?;
    if arguments.check {
        compare(&files, &arguments.output)
    } else {
        write(&files, &arguments.output)
    }
}

/// Runs rustfmt over the files, below the output folder so that it uses the settings of that
/// folder.
fn formatted(files: Files, output: &Path) -> anyhow::Result<Files> {
    let staging = tempfile::tempdir_in(output)?;
    write(&files, staging.path())?;
    let status = Command::new("rustfmt")
        .args(["--edition", "2024"])
        .arg(staging.path().join("generated.rs"))
        .status()
        .context("rustfmt")?;
    ensure!(status.success(), "rustfmt refuses the generated code");
    let read = |path: PathBuf| -> anyhow::Result<(PathBuf, String)> {
        let text = fs::read_to_string(staging.path().join(&path))?;
        Ok((path, text))
    };
    files.into_keys().map(read).collect()
}

fn write(files: &Files, output: &Path) -> anyhow::Result<()> {
    let folder = output.join("generated");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    for (path, text) in files {
        fs::write(output.join(path), text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn compare(files: &Files, output: &Path) -> anyhow::Result<()> {
    let differs = |(path, text): &(&PathBuf, &String)| {
        fs::read_to_string(output.join(path)).ok().as_ref() != Some(*text)
    };
    let different: Vec<_> =
        files.iter().filter(differs).map(|(path, _)| path.display().to_string()).collect();
    if !different.is_empty() {
        bail!("these files are not what the schemas give: {}", different.join(", "));
    }
    let there = fs::read_dir(output.join("generated"))?.count();
    ensure!(there + 1 == files.len(), "generated/ holds files that no schema gives");
    Ok(())
}
