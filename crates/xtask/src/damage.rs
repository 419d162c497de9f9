//! `cargo xtask damage`: damaged files, and what QEMU and Kiln say of them, as a table.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kiln_testkit::damage::{Asked, Damage, MORE, ROWS, Workshop};

use crate::failure::{Failure, Outcome, say};

/// Build damaged files from a GPT disk with an ext4 on it, ask qemu-img and kiln about each, and print the answers as
/// the README's table. Exit 1 when kiln passes one of them.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The binary to ask.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/release/kiln"))]
    kiln: PathBuf,
    /// Also the same kinds of damage in the other containers.
    #[arg(long)]
    more: bool,
    /// Keep the files in this new directory.
    #[arg(long)]
    keep: Option<PathBuf>,
}

/// Most that qemu-img may write, in KiB, and seconds it may take: odd files can make it run for ever.
const CAP: &str = "ulimit -f 1048576; exec timeout 60";

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let temporary = tempfile::tempdir()?;
    let dir = match &arguments.keep {
        Some(dir) => {
            std::fs::create_dir_all(dir)?;
            std::fs::canonicalize(dir)?
        }
        None => temporary.path().to_owned(),
    };
    let kiln = std::fs::canonicalize(&arguments.kiln)?;
    let shop = Workshop::new(&dir);
    say("| damage | `qemu-img info` | `qemu-img check` | `qemu-img convert` | `kiln verify --deep` |")?;
    say("|---|---|---|---|---|")?;
    let more = if arguments.more { MORE } else { &[] };
    let mut passed = Vec::new();
    for damage in ROWS.iter().chain(more) {
        let (path, answer) = shop.judge(damage, &kiln);
        if answer.exit != Some(1) || answer.offset.or(answer.disk_byte).is_none() {
            passed.push(damage.id);
        }
        let place = match (answer.offset, answer.disk_byte) {
            (Some(at), _) => format!("byte {at}"),
            (None, Some(at)) => format!("disk byte {at}"),
            (None, None) => "no offset".to_owned(),
        };
        let partition = answer.partition.map(|words| format!(", {words}")).unwrap_or_default();
        let ours = format!("{}: `{}` at {place}{partition}", code(answer.exit), answer.id);
        let ours = match damage.asked {
            Asked::ThroughWrapper => format!("0: reads the disk inside; as `-f raw` {ours}"),
            _ => ours,
        };
        let [info, check, convert] = qemu(&dir, damage, &path)?;
        say(&format!("| {} | {info} | {check} | {convert} | {ours} |", damage.words))?;
    }
    if passed.is_empty() {
        return Ok(());
    }
    Err(Failure::No(format!("kiln passes {}", passed.join(", "))))
}

/// What `qemu-img info`, `check` and `convert` answer.
fn qemu(dir: &Path, damage: &Damage, path: &Path) -> Outcome<[String; 3]> {
    let format = damage.qemu_format.map(|name| format!("-f {name} ")).unwrap_or_default();
    let file = path.display();
    let asked = |words: &str| -> Outcome<(Option<i32>, String)> {
        let output = Command::new("bash")
            .args(["-c", &format!("{CAP} qemu-img {words}")])
            .current_dir(dir)
            .stdin(Stdio::null())
            .output()?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
    };
    let (info, said) = asked(&format!("info -U --output=json {format}{file}"))?;
    let seen: serde_json::Value = serde_json::from_str(&said).unwrap_or_default();
    let seen = seen["format"].as_str().unwrap_or_default().to_owned();
    let info = if info == Some(0) { format!("ok, \"{seen}\"") } else { format!("refused ({})", code(info)) };
    let (check, _) = asked(&format!("check -U -q {format}{file}"))?;
    let check = match check {
        Some(0) => "**0, clean**".to_owned(),
        Some(63) => "63, cannot".to_owned(),
        other => code(other),
    };
    let out = dir.join("qemu-out.raw");
    let (convert, _) = asked(&format!("convert -U {format}-O raw {file} {}", out.display()))?;
    let convert = match convert {
        Some(0) => {
            let same = std::fs::read(&out)? == std::fs::read(dir.join("disk.raw"))?;
            if same { "0, right".to_owned() } else { "**0, wrong disk**".to_owned() }
        }
        other => code(other),
    };
    if out.exists() {
        std::fs::remove_file(out)?;
    }
    Ok([info, check, convert])
}

fn code(code: Option<i32>) -> String {
    code.map_or_else(|| "signal".to_owned(), |code| code.to_string())
}
