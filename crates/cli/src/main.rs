//! The `kiln` binary: everything is in the library, so that man pages and completions come from the same source.

use std::process::ExitCode;

fn main() -> ExitCode {
    kiln_cli::main_with(std::env::args_os())
}
