//! `kiln key`: the keys that sign records of images, and those that are trusted.

use std::path::{Path, PathBuf};

use kiln_catalog::{KeyRing, KnownKey, Manifest, PrivateKey, Store, read_public};
use serde::Serialize;

use crate::error::{Answer, CliError, Result};
use crate::output::{Align, Printer, Table};
use crate::session::Session;

/// Make keys that sign images, and say which are trusted
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a key; its private half stays in the configuration directory, readable by nobody else
    New {
        /// Call it this
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// List the keys
    #[command(visible_alias = "list")]
    Ls,
    /// Print the public half of a key, for others to trust
    Show {
        /// The name of the key
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Trust what this key signs
    Trust {
        /// Call it this
        #[arg(value_name = "NAME")]
        name: String,
        /// The public key: ed25519: and 64 digits, or a file that kiln key show wrote
        #[arg(value_name = "KEY|FILE")]
        key: PathBuf,
    },
    /// Trust it no longer; a private key stays
    Untrust {
        /// The name of the key
        #[arg(value_name = "NAME")]
        name: String,
    },
}

#[derive(Serialize)]
struct KeyRecord {
    name: String,
    key: String,
    private: bool,
    trusted: bool,
}

#[derive(Serialize)]
struct ListRecord {
    schema: &'static str,
    keys: Vec<KeyRecord>,
}

impl From<KnownKey> for KeyRecord {
    fn from(key: KnownKey) -> Self {
        Self { name: key.name, key: key.public.to_string(), private: key.private, trusted: key.trusted }
    }
}

/// A signature of an image, as it is shown.
#[derive(Debug, Serialize)]
pub(crate) struct SignatureLine {
    key: String,
    /// Names under which the key is known here.
    name: Option<String>,
    signed_at: String,
    /// Whether it is the key's, for this image.
    pub(crate) valid: bool,
    /// Whether it is valid and the key is trusted.
    pub(crate) trusted: bool,
}

impl SignatureLine {
    pub(crate) fn words(&self) -> String {
        let name = self.name.as_ref().map_or_else(String::new, |name| format!("{name}, "));
        let verdict = match (self.valid, self.trusted) {
            (false, _) => "NOT VALID",
            (true, true) => "valid, trusted",
            (true, false) => "valid, not trusted",
        };
        format!("{name}{} ({verdict}, {})", self.key, self.signed_at)
    }
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let ring = ring()?;
    let out = &mut session.printer;
    match &args.command {
        Command::New { name } => show(ring.create(name)?, out)?,
        Command::Ls => list(ring.list()?, out)?,
        Command::Show { name } => {
            let known = ring.list()?.into_iter().find(|key| key.name == *name);
            let missing =
                || kiln_catalog::Error::from(kiln_catalog::KeyProblem::Missing { name: name.clone() });
            show(known.ok_or_else(missing)?, out)?;
        }
        Command::Trust { name, key } => {
            let public = match key.to_str().and_then(|text| text.parse().ok()) {
                Some(public) => public,
                None => read_public(key)?,
            };
            ring.trust(name, public)?;
            show(KnownKey { name: name.clone(), public, private: false, trusted: true }, out)?;
        }
        Command::Untrust { name } => {
            ring.untrust(name)?;
            list(ring.list()?, out)?;
        }
    }
    Ok(Answer::Yes)
}

/// The public half is printed in the form of its file, so that it can be sent to one.
fn show(key: KnownKey, out: &mut Printer) -> Result<()> {
    #[derive(Serialize)]
    struct Record {
        schema: &'static str,
        #[serde(flatten)]
        key: KeyRecord,
    }
    let text = key.public.to_string();
    out.json(&Record { schema: "kiln.key.v1", key: key.into() })?;
    out.data("kiln public key v1");
    out.data(&text);
    Ok(())
}

fn list(keys: Vec<KnownKey>, out: &mut Printer) -> Result<()> {
    let keys: Vec<KeyRecord> = keys.into_iter().map(Into::into).collect();
    let mut table = Table::new(&[
        ("NAME", Align::Left),
        ("PRIVATE", Align::Left),
        ("TRUSTED", Align::Left),
        ("KEY", Align::Left),
    ]);
    let word = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    for key in &keys {
        table.row(vec![key.name.clone(), word(key.private), word(key.trusted), key.key.clone()]);
    }
    let none = keys.is_empty();
    out.json(&ListRecord { schema: "kiln.key.list.v1", keys })?;
    if none {
        out.line("no keys");
    } else {
        for line in table.lines() {
            out.data(&line);
        }
    }
    Ok(())
}

/// The keys of this user: `$XDG_CONFIG_HOME/kiln/keys`, else `~/.config/kiln/keys`.
pub(crate) fn ring() -> Result<KeyRing> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
    config.map(|config| KeyRing::at(config.join("kiln/keys"))).ok_or_else(|| {
        CliError::cannot("key.no-place", "no place for keys is known", "set HOME or XDG_CONFIG_HOME")
    })
}

/// A private key by its name, or by its file.
pub(crate) fn private(word: &Path) -> Result<PrivateKey> {
    let text = word.to_str().unwrap_or("/");
    if text.contains('/') || word.extension().is_some_and(|extension| extension == "key") {
        return Ok(PrivateKey::read(word)?);
    }
    Ok(ring()?.private(text)?)
}

/// The signatures of an image, held against it and against the trusted keys.
pub(crate) fn signatures(store: &Store, image: &Manifest) -> Result<Vec<SignatureLine>> {
    let signed = store.signatures(image)?;
    if signed.is_empty() {
        return Ok(Vec::new());
    }
    let known = ring()?.list()?;
    let line = |signed: kiln_catalog::Signed| {
        let here = |trusted: bool| {
            known.iter().find(|key| key.public == signed.record.key && (key.trusted || !trusted))
        };
        SignatureLine {
            key: signed.record.key.to_string(),
            name: here(false).map(|key| key.name.clone()),
            signed_at: signed.record.signed_at.to_string(),
            valid: signed.valid,
            trusted: signed.valid && here(true).is_some(),
        }
    };
    Ok(signed.into_iter().map(line).collect())
}
