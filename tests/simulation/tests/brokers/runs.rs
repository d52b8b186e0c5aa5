//! The processes of the runs.

use std::process::Command;
use std::thread;

use crate::mutation::{MUTATION, Mutation};

/// The variable with the seed of the run that a process is.
pub(crate) const SEED: &str = "ROPEWALK_SEED";

/// Begins the line with the hash and the counts of a run.
pub(crate) const HASH: &str = "hash ";

/// Begins the line with what a run has found.
pub(crate) const VIOLATION: &str = "violation ";

/// Starts runs.
pub(crate) struct Runner {
    /// The random numbers of the C library as a library.
    library: String,
}

/// What a process printed.
pub(crate) struct Run {
    pub(crate) text: String,
    /// The hash and the counts.
    pub(crate) result: String,
    pub(crate) violation: Option<String>,
}

impl Run {
    /// What was counted, and how often.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&str, u64)> {
        let counts = self.result.split(' ').filter_map(|word| word.split_once('='));
        counts.map(|(what, count)| (what, count.parse().expect("a number")))
    }
}

impl Runner {
    /// Compiles the library, for the test of this name.
    pub(crate) fn new(test: &str) -> Self {
        let library = format!("{}/random-{test}.so", env!("CARGO_TARGET_TMPDIR"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/brokers/random.c");
        let mut compiler = Command::new("cc");
        let compiled = compiler.args(["-shared", "-fPIC", "-O1", "-o", &library, source]).status();
        assert!(compiled.expect("a C compiler").success(), "{source} does not compile");
        Self { library }
    }

    /// Two runs of a seed, at the same time.
    pub(crate) fn twice(&self, seed: u64) -> (Run, Run) {
        thread::scope(|scope| {
            let second = scope.spawn(|| self.run(seed, None));
            (self.run(seed, None), second.join().expect("no panic"))
        })
    }

    /// A run with a mutation.
    pub(crate) fn once(&self, seed: u64, mutation: Mutation) -> Run {
        self.run(seed, Some(mutation))
    }

    fn run(&self, seed: u64, mutation: Option<Mutation>) -> Run {
        let this = std::env::current_exe().expect("this program");
        let mut command = Command::new(this);
        command.args(["--exact", "one_seed", "--ignored", "--nocapture", "--test-threads=1"]);
        command.env(SEED, seed.to_string()).env("LD_PRELOAD", &self.library);
        if let Some(mutation) = mutation {
            command.env(MUTATION, format!("{mutation:?}"));
        }
        let output = command.output().expect("it starts");
        let text =
            [output.stdout, output.stderr].map(|part| String::from_utf8_lossy(&part).into_owned());
        let text = text.concat();
        let line = |begin: &str| text.lines().find_map(|line| line.strip_prefix(begin));
        let Some(result) = line(HASH) else { panic!("seed {seed} {mutation:?} ends:\n{text}") };
        let (result, violation) = (result.to_owned(), line(VIOLATION).map(str::to_owned));
        Run { text, result, violation }
    }
}
