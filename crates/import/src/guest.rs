//! The policy about the guest: what is wanted at a place, an image for it must have.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kiln_catalog::{Birth, GuestNote, GuestRecord, GuestVerdict, Manifest, Store};
use kiln_disk::{Disk, FileSource, Limits};
use kiln_format::Image;
use kiln_guest::facts::Depth;
use kiln_guest::rules::{Firmware, Impact, Options, PLACES, Place, Severities};
use kiln_guest::{Asked, GuestReport, Judgement, Look, Question, RULE_SET, Reader};
use kiln_target::Targets;

use crate::error::{Refusal, Result};

/// What to do about a guest that will not start at a place that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnUnfit {
    /// Import nothing.
    #[default]
    Refuse,
    /// Let a missing cloud-init pass, as a forced import of Tencent Cloud does, and nothing else.
    WaiveCloudInit,
    /// Import it all the same.
    Force,
}

/// What looking at a guest for a judgement may cost: an initramfs is unpacked whole.
pub const LIMITS: Limits = Limits {
    metadata_bytes: 8 << 30,
    memory: 128 << 20,
    nodes: 256 << 20,
    non_zero_output: u64::MAX,
    depth: 4,
    time: Duration::from_secs(120),
};

/// What the guest of a new image must be fit for.
#[derive(Debug, Clone, Default)]
pub struct GuestPolicy {
    /// The places at which it must start; none asks for nothing.
    pub places: Vec<&'static Place>,
    /// When it will not.
    pub on_unfit: OnUnfit,
    /// How bad what is found is, by target.
    pub severities: Severities,
    /// Today as "YYYY-MM-DD", for what has an end of life; no such judgement without.
    pub today: Option<String>,
    /// Who looks at it.
    pub reader: Reader,
}

/// What is known of the guest on a disk.
pub(crate) struct Guest {
    pub(crate) birth: Birth,
    /// The answers for the places of the policy.
    pub(crate) judgements: Vec<Judgement>,
}

impl GuestPolicy {
    /// Looks at the guest and holds it against the places.
    ///
    /// # Errors
    /// [`Refusal::Guest`] for the first place at which the guest would be rejected or would not start, unless that is
    /// forced; whatever the disk says.
    pub(crate) fn admit(&self, disk: Arc<dyn Disk>) -> Result<Guest> {
        let options =
            Options { severities: self.severities.clone(), today: self.today.clone(), ..Options::default() };
        let asked = Asked { places: self.places.clone(), options };
        let Look { report, judgements, .. } =
            self.reader.look(&[disk], &question(vec![asked, everywhere(&self.severities)]))?;
        let [judgements, all] = answers(judgements);
        match judgements.iter().find_map(|judgement| self.stopping(judgement)) {
            Some(refusal) => Err(refusal.into()),
            None => Ok(Guest { birth: birth(&report, &all), judgements }),
        }
    }

    /// The same for the disk of a new layer. Where no place was named, an image whose guest cannot be looked at is an
    /// image all the same: it is then one of which nothing is known.
    pub(crate) fn admit_layer(&self, layer: &Path) -> Result<Guest> {
        let looked = || -> Result<Guest> {
            let (format, _) = kiln_format::layer::layer_format()?;
            let image = (format.open)(Arc::new(FileSource::open(layer)?), &kiln_format::OpenContext::new())?;
            let image: Arc<dyn Image> = Arc::from(image);
            self.admit(image)
        };
        match looked() {
            Err(_) if self.places.is_empty() => Ok(Guest { birth: Birth::default(), judgements: Vec::new() }),
            looked => looked,
        }
    }

    /// The finding that keeps an image out.
    fn stopping(&self, judgement: &Judgement) -> Option<Refusal> {
        let finding = judgement.findings.iter().find(|finding| match self.on_unfit {
            OnUnfit::Force => false,
            OnUnfit::WaiveCloudInit if finding.id == "cloudinit.present" => false,
            OnUnfit::WaiveCloudInit | OnUnfit::Refuse => finding.severity >= Impact::WillNotBoot,
        })?;
        Some(Refusal::Guest {
            target: judgement.target,
            severity: finding.severity.words(),
            id: finding.id,
            detail: format!("{} ({})", finding.detail, finding.at),
        })
    }
}

/// How bad the findings of the rules are at each target.
///
/// # Errors
/// [`Refusal::FindingRule`] for an id that no rule has.
pub fn severities(targets: &Targets) -> Result<Severities> {
    let mut severities = Severities::default();
    for row in targets.rows() {
        for (id, rule) in &row.findings {
            if kiln_guest::rules::rule(id).is_none() {
                return Err(Refusal::FindingRule { target: row.id.clone(), id: id.clone() }.into());
            }
            severities.set(&row.id, id, rule.severity);
        }
    }
    Ok(severities)
}

/// What is asked of a guest for a judgement.
#[must_use]
pub fn question(asked: Vec<Asked>) -> Question {
    Question { depth: Depth::Full, limits: LIMITS, asked }
}

/// What is asked for the record of an image: what today's rules say at every place.
#[must_use]
pub fn everywhere(severities: &Severities) -> Asked {
    let options = Options { severities: severities.clone(), ..Options::default() };
    Asked { places: PLACES.iter().collect(), options }
}

/// The answers to so many questions.
#[must_use]
pub fn answers<const COUNT: usize>(judgements: Vec<Vec<Judgement>>) -> [Vec<Judgement>; COUNT] {
    let mut judgements = judgements.into_iter();
    std::array::from_fn(|_| judgements.next().unwrap_or_default())
}

/// The record of a guest, of the answers to [`everywhere`].
#[must_use]
pub fn record(report: &GuestReport, judgements: &[Judgement]) -> GuestRecord {
    let system = report.os.as_ref().filter(|_| !report.roots.is_empty());
    let named = |os: &kiln_guest::facts::os::Os| {
        if os.name.is_empty() { "unnamed".to_owned() } else { short(&os.name) }
    };
    let verdicts = judgements.iter().map(verdict).collect();
    GuestRecord { rule_set: RULE_SET.to_owned(), system: system.map(named), verdicts }
}

/// What a stranger wrote, in one line of a record.
fn short(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(256).collect()
}

fn verdict(judgement: &Judgement) -> GuestVerdict {
    let mut findings: Vec<GuestNote> = Vec::new();
    for finding in judgement.findings.iter().filter(|finding| finding.severity > Impact::Advice) {
        if findings.iter().all(|known| known.id != finding.id) {
            findings
                .push(GuestNote { id: finding.id.to_owned(), severity: finding.severity.words().to_owned() });
        }
    }
    GuestVerdict {
        target: judgement.target.to_owned(),
        verdict: judgement.verdict,
        because: judgement.because.as_deref().map(short),
        findings,
    }
}

/// What is known about an image by its guest.
fn birth(report: &GuestReport, judgements: &[Judgement]) -> Birth {
    let guest = record(report, judgements);
    let Some(os) = report.os.as_ref().filter(|_| guest.system.is_some()) else {
        return Birth { guest: Some(guest), ..Birth::default() };
    };
    let here = judgements.iter().find(|judgement| judgement.target == kiln_catalog::HERE);
    let words: Vec<&str> = here
        .map_or(&[][..], |judgement| &judgement.firmware)
        .iter()
        .map(|firmware| match firmware {
            Firmware::Bios => "bios",
            Firmware::Uefi => "uefi",
        })
        .collect();
    let name = format!("{} {}", os.id, os.version);
    Birth {
        architecture: os.architecture.map(str::to_owned),
        os: (!os.id.is_empty()).then(|| short(name.trim())),
        boot_mode: (!words.is_empty()).then(|| words.join("+")),
        guest: Some(guest),
        ..Birth::default()
    }
}

/// Judges the guest of an image of the store by today's rules and writes the answer into its record.
///
/// # Errors
/// I/O; a layer that is missing or cannot be opened.
pub fn judge_image(
    store: &Store,
    image: &Manifest,
    severities: &Severities,
    reader: &Reader,
) -> Result<GuestRecord> {
    let opened: Arc<dyn Image> = Arc::from(crate::open::open_image(store, image)?);
    let disk: Arc<dyn Disk> = opened;
    let look = reader.look(&[disk], &question(vec![everywhere(severities)]))?;
    let [judgements] = answers(look.judgements);
    let guest = record(&look.report, &judgements);
    store.note_guest(&image.id, guest.clone())?;
    Ok(guest)
}
