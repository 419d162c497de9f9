//! `kiln targets`: the places that images can be written for.

use kiln_target::{Firmware, Output, Pack, Severity, SizeRule, Target};
use serde::Serialize;

use crate::error::{Answer, Result};
use crate::for_target::TargetsArgs;
use crate::output::{Align, Printer, ShortSize, Table};
use crate::session::Session;

/// List the targets that images can be written for, and their rules
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_long_help = "\
Targets are data. A file of your own changes them, key by key, and adds others:

  [target.azure.limits]
  max_disk = \"2T\"

  [target.lab]
  base = \"kvm\"
  name = \"Our lab\"
  next = [\"scp @file@ lab:/images/@file_name@\"]

It is named by --targets or $KILN_TARGETS, else it is kiln/targets.toml in the XDG configuration
directory (~/.config). A key that no target has is an error.

Examples:
  kiln targets
  kiln targets show azure
  kiln convert --for azure disk.qcow2 disk.vhd"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    targets: TargetsArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show every rule of a target, with its source and date
    Show {
        /// Show this target: its name or another name of it
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        targets: TargetsArgs,
    },
}

#[derive(Serialize)]
struct ListRecord<'a> {
    schema: &'static str,
    targets: &'a [Target],
}

#[derive(Serialize)]
struct ShowRecord<'a> {
    schema: &'static str,
    target: &'a Target,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    match &args.command {
        Some(Command::Show { name, targets }) => {
            let targets = targets.load()?;
            let target = targets.find(name)?;
            session.printer.json(&ShowRecord { schema: "kiln.target.v1", target })?;
            show(target, &mut session.printer);
        }
        None => {
            let targets = args.targets.load()?;
            session.printer.json(&ListRecord { schema: "kiln.targets.v1", targets: targets.rows() })?;
            list(targets.rows(), &mut session.printer);
        }
    }
    Ok(Answer::Yes)
}

fn list(rows: &[Target], out: &mut Printer) {
    let mut table = Table::new(&[
        ("TARGET", Align::Left),
        ("WRITES", Align::Left),
        ("ALSO", Align::Left),
        ("SIZE", Align::Left),
        ("NAME", Align::Left),
    ]);
    for row in rows {
        let mut outputs = row.outputs.iter();
        let first = outputs.next().map_or_else(String::new, in_short);
        let rest: Vec<&str> = outputs.map(|output| output.format.as_str()).collect();
        table.row([row.id.clone(), first, rest.join(" "), sizes(row), row.name.clone()]);
    }
    for line in table.lines() {
        out.data(&line);
    }
}

/// A container, with the one word that says most about it.
fn in_short(output: &Output) -> String {
    let word = ["subformat", "manifest"].iter().find_map(|name| output.options.get(*name));
    packed(output) + &word.map_or_else(String::new, |word| format!(" {word}"))
}

/// A container with all options that make it the target's.
fn in_full(output: &Output) -> String {
    let options = output.options.iter().map(|(name, value)| format!(" {name}={value}"));
    packed(output) + &options.collect::<String>()
}

fn packed(output: &Output) -> String {
    let packed = match output.pack {
        Pack::None => "",
        Pack::OldgnuTarGz => " in tar.gz",
    };
    format!("{}{packed}", output.format)
}

fn sizes(row: &Target) -> String {
    let short = |rule: &Option<SizeRule>| rule.as_ref().map(|rule| ShortSize(rule.value.get()).to_string());
    let limits = &row.limits;
    let mut words = Vec::new();
    words.extend(short(&limits.max_disk).map(|size| format!("<= {size}")));
    words.extend(short(&limits.disk_multiple).map(|size| format!("n x {size}")));
    words.join(", ")
}

fn show(row: &Target, out: &mut Printer) {
    out.data_field("target", &row.id);
    out.data_field("name", &row.name);
    if !row.aliases.is_empty() {
        out.data_field("also called", row.aliases.join(", "));
    }
    for output in &row.outputs {
        let mut text = format!("{} as *{}", in_full(output), output.endings.join(" *"));
        if output.ending_matters {
            text += ", named so";
        }
        let usual: Vec<String> =
            output.defaults.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if !usual.is_empty() {
            text += &format!(", with {}", usual.join(" "));
        }
        rule(out, "takes", &text, &output.source, &output.date);
    }
    for (name, limit) in row.limits.rules() {
        let what = match name {
            "max_disk" => "disk of at most",
            "min_disk" => "disk of at least (padded)",
            "disk_multiple" => "disk of a multiple of (padded)",
            "max_data" => "data on the disk of at most",
            _ => "file of at most",
        };
        let text = format!("{what} {}{}", ShortSize(limit.value.get()), severity(limit.severity));
        rule(out, "size", &text, &limit.source, &limit.date);
    }
    if let Some(naming) = &row.naming {
        let least = naming.min_chars.unwrap_or(1);
        let most = naming.max_chars.map_or_else(String::new, |most| format!(" to {most}"));
        let text = format!("name of the image of {least}{most} characters (mentioned)");
        rule(out, "naming", &text, &naming.source, &naming.date);
    }
    let ways: Vec<&str> = row.firmware.accepts.iter().copied().map(Firmware::word).collect();
    let note = if row.firmware.note.is_empty() { String::new() } else { format!(": {}", row.firmware.note) };
    let text = format!("{}{note}", ways.join(" or "));
    rule(out, "firmware", &text, &row.firmware.source, &row.firmware.date);
    for (id, found) in &row.findings {
        rule(out, "finding", &format!("{id}: {}", found.severity.words()), &found.source, &found.date);
    }
    for (id, guest) in &row.guest {
        let text = format!("{id}{}: {}", severity(guest.severity), guest.why);
        rule(out, "guest", &text, &guest.source, &guest.date);
    }
    for note in &row.notes {
        rule(out, "note", &note.text, &note.source, &note.date);
    }
    for side in &row.side_files {
        out.data_field("side file", format!("{}: {}", side.name, side.purpose));
    }
    for line in &row.next {
        out.data_field("next", line);
    }
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Off => " (off)",
        Severity::Warn => " (mentioned)",
        Severity::Refuse => "",
    }
}

fn rule(out: &mut Printer, name: &str, text: &str, source: &str, date: &str) {
    let date = if date.is_empty() { String::new() } else { format!(", {date}") };
    out.data_field(name, text);
    out.data_field("", format!("  [{source}{date}]"));
}
