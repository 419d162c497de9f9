//! `cargo xtask fixtures`: the large fixtures, built into the cache when absent.

use std::time::Instant;

use kiln_testkit::fixtures::Fixture;

use crate::failure::{Failure, Outcome, say};

/// Build the large fixtures that are not in the cache, and print their paths.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only these: `debian-12`, `layouts`, `small`, `qemu-samples`.
    names: Vec<String>,
    /// Print the paths without building anything.
    #[arg(long)]
    paths: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let known = Fixture::ALL.map(Fixture::name);
    if let Some(name) = arguments.names.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(Failure::No(format!("no fixture is called {name}; there are: {}", known.join(", "))));
    }
    let chosen = |fixture: &Fixture| {
        arguments.names.is_empty() || arguments.names.iter().any(|name| name == fixture.name())
    };
    for fixture in Fixture::ALL.into_iter().filter(chosen) {
        if arguments.paths {
            say(&format!("{}\t{}", fixture.name(), fixture.path()?.display()))?;
            continue;
        }
        let started = Instant::now();
        let path = fixture.ensure()?;
        say(&format!("{}\t{}\t{:.1} s", fixture.name(), path.display(), started.elapsed().as_secs_f64()))?;
    }
    Ok(())
}
