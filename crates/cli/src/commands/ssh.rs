//! `kiln ssh`: a login at a machine.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use kiln_instance::rebuild::KNOWN_HOSTS;
use kiln_instance::{Refusal, process, wait};

use crate::error::{Answer, CliError, Result};
use crate::instances;
use crate::session::Session;

/// Log in at a machine with ssh, through the port that leads there
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Log in here: name, id, or the start of an id
    #[arg(value_name = "[USER@]INSTANCE")]
    instance: String,
    /// Use this private key
    #[arg(short, long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Run this in place of a shell
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let (user, word) = match args.instance.rsplit_once('@') {
        Some((user, word)) => (Some(user), word),
        None => (None, args.instance.as_str()),
    };
    let found = instances::find(word, session)?;
    let title = process::title(&found.record);
    if !found.store.instance_running(&found.record.id)? {
        return Err(kiln_instance::Error::from(Refusal::NotRunning { name: title }).into());
    }
    let port = wait::ssh_port(&found.record);
    let port = port.ok_or_else(|| kiln_instance::Error::from(Refusal::NoSshPort { name: title }))?;
    let known = found.store.instance_dir(&found.record.id).join(KNOWN_HOSTS);
    let mut ssh = Command::new("ssh");
    ssh.args(["-p", &port.to_string(), "-o", "StrictHostKeyChecking=accept-new"])
        .args(["-o", &format!("HostKeyAlias={}", found.record.id)])
        .args(["-o", &format!("UserKnownHostsFile=\"{}\"", known.display())])
        .args(["-o", "GlobalKnownHostsFile=/dev/null"]);
    if let Some(identity) = &args.identity {
        ssh.args(["-o", "IdentitiesOnly=yes", "-i"]).arg(identity);
    }
    if let Some(user) = user {
        ssh.args(["-l", user]);
    }
    ssh.arg("127.0.0.1").arg("--").args(&args.command);
    session.printer.flush()?;
    // Only comes back when ssh is not there.
    let error = ssh.exec();
    Err(CliError::cannot("instance.no-ssh", format!("cannot run ssh: {error}"), "apt install openssh-client"))
}
