//! `kiln completion`, help, and the words of the command line.

use crate::support::Sandbox;

#[test]
fn every_shell_gets_a_script_that_knows_the_commands() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = sandbox.kiln(["completion", shell]).ok();
        for word in ["inspect", "verify", "convert", "no-verify"] {
            assert!(script.contains(word), "{shell} {word}");
        }
    }
    // The shell itself must accept it.
    let script = sandbox.kiln(["completion", "bash"]).ok();
    std::fs::write(sandbox.path("kiln.bash"), script).unwrap();
    sandbox.tool("bash", ["-n", "kiln.bash"]);
}

#[test]
fn help_names_every_command_and_the_exit_codes() {
    let sandbox = Sandbox::new();
    let help = sandbox.kiln(["--help"]).ok();
    for word in [
        "inspect",
        "verify",
        "checksum",
        "check",
        "convert",
        "map",
        "ls",
        "show",
        "rm",
        "store",
        "targets",
        "completion",
        "130",
    ] {
        assert!(help.contains(word), "{word}");
    }
    let help = sandbox.kiln(["help", "convert"]).ok();
    assert!(help.contains("Examples:"), "{help}");
    assert!(help.contains("Options of the output formats:"), "{help}");
}

#[test]
fn wrong_words_are_usage_errors() {
    let sandbox = Sandbox::new();
    for words in [
        &["nosuch"][..],
        &["convert"],
        &["convert", "a"],
        &["verify", "a", "--content-digest", "sha256:00"],
        &["inspect", "--progress", "loud", "a"],
        &["convert", "-q", "-v", "a", "b"],
        &["convert", "--threads", "0", "a", "b.raw"],
    ] {
        let ran = sandbox.kiln(words).exits(2);
        assert_eq!(ran.stdout, b"", "{words:?}");
        assert!(ran.stderr.contains("Usage:") || ran.stderr.contains("--help"), "{}", ran.stderr);
    }
    let ran = sandbox.kiln(["convert", "--json", "a"]).exits(2);
    assert_eq!(ran.error()["code"], "usage");
    assert_eq!(ran.error()["exit"], 2);
}
