//! `kiln ls`: the images of the store.

use jiff::{SignedDuration, Timestamp};
use kiln_catalog::{Filter, Kind, Listed, Name, Sort, SortKey, State};
use kiln_disk::digest::ContentDigest;
use serde::Serialize;

use crate::error::{Answer, CliError, Result};
use crate::output::{Align, ShortSize, Table};
use crate::session::Session;
use crate::subject;

/// List the images of the store that the account may see
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  kiln ls
  kiln ls 'debian:*'
  kiln ls --type shared --sort -created
  kiln ls --older 90d --state deprecated
  kiln ls --json | jq -r '.images[].id'")]
pub(crate) struct Args {
    /// List only images whose name, name:tag or id fits; * stands for any characters, ? for one
    #[arg(value_name = "PATTERN")]
    pattern: Vec<String>,
    /// List only images whose name holds this text; case does not count
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// List only images of this kind: public, custom (one's own), shared (by others)
    #[arg(long = "type", value_name = "KIND", value_parser = kind)]
    kind: Vec<Kind>,
    /// List only images of this owner
    #[arg(long, value_name = "ACCOUNT")]
    owner: Option<String>,
    /// List only images whose operating system begins with this text
    #[arg(long, value_name = "TEXT")]
    os: Option<String>,
    /// List only images for this architecture
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,
    /// List only images that boot in this way
    #[arg(long, value_name = "MODE")]
    boot: Option<String>,
    /// List only images with this tag
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// List only images in this state
    #[arg(long, value_name = "STATE", value_parser = state)]
    state: Vec<State>,
    /// List only images of this family
    #[arg(long, value_name = "NAME")]
    family: Option<String>,
    /// List only images published longer ago: 12h, 30d, 8w
    #[arg(long, value_name = "AGE", value_parser = age)]
    older: Option<SignedDuration>,
    /// Sort by name, created, disk, stored, owner, state, verified or id; a minus puts the largest first
    #[arg(long, value_name = "KEY", value_parser = sort, allow_hyphen_values = true)]
    sort: Vec<Sort>,
    /// Print comma-separated values
    #[arg(long, conflicts_with = "json")]
    csv: bool,
}

#[derive(Serialize)]
struct Record<'a> {
    schema: &'static str,
    images: Vec<ImageRecord<'a>>,
}

/// One image in a listing.
#[derive(Serialize)]
struct ImageRecord<'a> {
    id: String,
    name: String,
    tag: Option<String>,
    description: &'a str,
    /// To the account that asks: public, custom or shared.
    #[serde(rename = "type")]
    kind: &'static str,
    owner: String,
    /// How the account stands to it: owner, receiver, offered or everyone.
    relation: &'static str,
    state: &'static str,
    created_at: String,
    architecture: Option<&'a str>,
    os: Option<&'a str>,
    boot_mode: Option<&'a str>,
    family: Option<String>,
    labels: &'a std::collections::BTreeMap<String, String>,
    protected: bool,
    expires_at: Option<String>,
    /// Accounts that it is shared with; the owner's to know.
    shares: usize,
    verified_at: Option<String>,
    verified_intact: Option<bool>,
    disk_bytes: u64,
    /// Bytes of its layers.
    stored_bytes: u64,
    /// Bytes of the layers that no other image has.
    own_bytes: u64,
    layers: usize,
    content_digest: ContentDigest,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let filter = filter(args)?;
    let listed = match subject::open_store(session) {
        Ok(store) => store.list(&filter)?,
        // No store yet is an empty list: the first import makes it.
        Err(error) if error.code() == "store.missing" => Vec::new(),
        Err(error) => return Err(error),
    };
    let images: Vec<ImageRecord<'_>> = listed.iter().map(record).collect();
    if args.csv {
        csv(&images, session);
        return Ok(Answer::Yes);
    }
    session.printer.json(&Record { schema: "kiln.ls.v1", images })?;
    if listed.is_empty() {
        session.printer.line("no images");
        return Ok(Answer::Yes);
    }
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("NAME", Align::Left),
        ("TYPE", Align::Left),
        ("OWNER", Align::Left),
        ("STATE", Align::Left),
        ("DISK", Align::Right),
        ("STORED", Align::Right),
        ("OWN", Align::Right),
        ("CREATED", Align::Left),
        ("VERIFIED", Align::Right),
    ]);
    let now = Timestamp::now();
    for entry in &listed {
        let (manifest, record) = (&entry.manifest, &entry.record);
        table.row([
            manifest.id.to_string(),
            manifest.title(),
            entry.kind().word().to_owned(),
            record.owner.to_string(),
            standing(entry),
            ShortSize(manifest.disk_bytes).to_string(),
            ShortSize(entry.stored_bytes).to_string(),
            ShortSize(entry.own_bytes).to_string(),
            second(&manifest.created_at.to_string()),
            match &record.verified {
                None => "never".to_owned(),
                Some(verified) if !verified.intact => "DAMAGED".to_owned(),
                Some(verified) => ago(now.duration_since(verified.at)),
            },
        ]);
    }
    for line in table.lines() {
        session.printer.data(&line);
    }
    Ok(Answer::Yes)
}

fn filter(args: &Args) -> Result<Filter> {
    let family = args.family.as_deref().map(str::parse::<Name>).transpose()?;
    let owner = args.owner.as_deref().map(str::parse).transpose()?;
    let before = match args.older {
        None => None,
        Some(age) => Some(before(age)?),
    };
    Ok(Filter {
        patterns: args.pattern.clone(),
        name: args.name.clone(),
        kinds: args.kind.clone(),
        owner,
        os: args.os.clone(),
        architecture: args.arch.clone(),
        boot_mode: args.boot.clone(),
        tag: args.tag.clone(),
        states: args.state.clone(),
        family,
        before,
        sort: args.sort.clone(),
    })
}

/// The moment that lies so long back.
pub(crate) fn before(age: SignedDuration) -> Result<Timestamp> {
    Timestamp::now().checked_sub(age).map_err(|_| {
        CliError::usage("usage.age", "the age is longer than there was time", "30d is thirty days")
    })
}

fn kind(text: &str) -> std::result::Result<Kind, String> {
    let all = [Kind::Public, Kind::Custom, Kind::Shared];
    all.into_iter().find(|kind| kind.word() == text).ok_or_else(|| "public, custom or shared".to_owned())
}

fn state(text: &str) -> std::result::Result<State, String> {
    let words = || State::ALL.map(State::word).join(", ");
    State::ALL.into_iter().find(|state| state.word() == text).ok_or_else(|| format!("one of {}", words()))
}

fn sort(text: &str) -> std::result::Result<Sort, String> {
    let (descending, word) = text.strip_prefix('-').map_or((false, text), |word| (true, word));
    let key = SortKey::WORDS.into_iter().find(|(name, _)| *name == word).map(|(_, key)| key);
    let words = SortKey::WORDS.map(|(name, _)| name).join(", ");
    key.map(|key| Sort { key, descending }).ok_or_else(|| format!("one of {words}"))
}

/// An age as it is typed: a number and h, d or w.
pub(crate) fn age(text: &str) -> std::result::Result<SignedDuration, String> {
    let wrong = || format!("{text:?} is no age: 12h, 30d and 8w are");
    let hours = match text.chars().last() {
        Some('h') => 1,
        Some('d') => 24,
        Some('w') => 24 * 7,
        _ => return Err(wrong()),
    };
    let number: i64 = text.get(..text.len() - 1).unwrap_or("").parse().map_err(|_| wrong())?;
    let hours =
        number.checked_mul(hours).filter(|hours| (0..=8_766_000).contains(hours)).ok_or_else(wrong)?;
    Ok(SignedDuration::from_hours(hours))
}

/// State, and what keeps an image from being used or removed.
fn standing(entry: &Listed) -> String {
    let record = &entry.record;
    let mut words = vec![record.state.word()];
    if entry.relation == kiln_catalog::Relation::Offered {
        words.push("not accepted");
    }
    if entry.is_own() && !record.shares.is_empty() {
        words.push("shared");
    }
    if record.protected {
        words.push("protected");
    }
    if record.expired(Timestamp::now()) {
        words.push("expired");
    }
    words.join(", ")
}

/// A time without its fraction.
pub(crate) fn second(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => time.to_owned(),
    }
}

/// How long ago, in one unit.
pub(crate) fn ago(age: SignedDuration) -> String {
    let minutes = age.as_mins().max(0);
    match minutes {
        0 => "now".to_owned(),
        1..60 => format!("{minutes} min"),
        60..2880 => format!("{} h", minutes / 60),
        _ => format!("{} d", minutes / 1440),
    }
}

fn csv(images: &[ImageRecord<'_>], session: &mut Session) {
    session.printer.data(
        "id,name,tag,type,owner,state,os,architecture,boot_mode,family,created_at,disk_bytes,stored_bytes,own_bytes",
    );
    for image in images {
        let fields = [
            image.id.as_str(),
            &image.name,
            image.tag.as_deref().unwrap_or_default(),
            image.kind,
            &image.owner,
            image.state,
            image.os.unwrap_or_default(),
            image.architecture.unwrap_or_default(),
            image.boot_mode.unwrap_or_default(),
            image.family.as_deref().unwrap_or_default(),
            &image.created_at,
            &image.disk_bytes.to_string(),
            &image.stored_bytes.to_string(),
            &image.own_bytes.to_string(),
        ]
        .map(field);
        session.printer.data(&fields.join(","));
    }
}

/// A field as RFC 4180 has it; one that a spreadsheet would take for a formula is kept from that.
fn field(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if formula { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

fn record(listed: &Listed) -> ImageRecord<'_> {
    let (manifest, record) = (&listed.manifest, &listed.record);
    ImageRecord {
        id: manifest.id.to_string(),
        name: manifest.name.to_string(),
        tag: manifest.tag.as_ref().map(ToString::to_string),
        description: &manifest.description,
        kind: listed.kind().word(),
        owner: record.owner.to_string(),
        relation: listed.relation.word(),
        state: manifest.state.word(),
        created_at: manifest.created_at.to_string(),
        architecture: manifest.architecture.as_deref(),
        os: manifest.os.as_deref(),
        boot_mode: manifest.boot_mode.as_deref(),
        family: record.family.as_ref().map(ToString::to_string),
        labels: &record.labels,
        protected: record.protected,
        expires_at: record.expires_at.map(|at| at.to_string()),
        shares: if listed.is_own() { record.shares.len() } else { 0 },
        verified_at: record.verified.as_ref().map(|verified| verified.at.to_string()),
        verified_intact: record.verified.as_ref().map(|verified| verified.intact),
        disk_bytes: manifest.disk_bytes,
        stored_bytes: listed.stored_bytes,
        own_bytes: listed.own_bytes,
        layers: manifest.layers.len(),
        content_digest: manifest.digests.content,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_to_the_second() {
        assert_eq!(second("2026-11-23T10:11:12.131415Z"), "2026-11-23T10:11:12Z");
        assert_eq!(second("2026-11-23T10:11:12Z"), "2026-11-23T10:11:12Z");
    }

    #[test]
    fn ages_are_numbers_with_a_unit() {
        assert_eq!(age("12h").unwrap(), SignedDuration::from_hours(12));
        assert_eq!(age("8w").unwrap(), SignedDuration::from_hours(8 * 168));
        for wrong in ["", "d", "-1d", "1", "1y", "99999999999d", "1.5d"] {
            assert!(age(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn csv_fields_are_quoted_and_no_formula() {
        assert_eq!(field("a\"b,c"), "\"a\"\"b,c\"");
        assert_eq!(field("=1+1"), "'=1+1");
    }
}
