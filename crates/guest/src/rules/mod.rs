//! Judging a guest for a place: rows of rules, findings, a verdict.

mod boot;
mod disk;
mod drivers;
mod hygiene;
mod init;
mod initramfs;
mod login;
mod meta;
mod mounts;
mod network;
pub mod places;
mod storage;
mod systemd;
mod table;
mod windows;

use std::collections::BTreeMap;

use kiln_disk::interned::Word;
use serde::{Deserialize, Serialize};

use crate::facts::{Examination, GuestReport, Seen, fstab};

pub use kiln_target::{Impact, Verdict};
pub use places::{Firmware, PLACES, Place, place};
pub use table::RULES;

/// Version of the rules. Grows when a rule does, so that stored results can be told from new ones.
pub const RULE_SET: &str = "5";

/// A row: what can be found, said before anything is.
pub struct Rule {
    /// Stable id, never renamed.
    pub id: &'static str,
    /// What is looked at.
    pub inspects: &'static str,
    /// What is wrong, without details.
    pub summary: &'static str,
    /// What it means, in plain words.
    pub effect: &'static str,
    /// What to type.
    pub fix: &'static str,
    /// How bad it is where the place does not say otherwise.
    pub impact: Impact,
    /// The message of Tencent Cloud's import task that it would have been.
    pub tencent_error: Option<&'static str>,
    run: fn(&Case<'_>, &mut Hits),
}

/// What a rule looks at.
pub(crate) struct Case<'a> {
    pub(crate) report: &'a GuestReport,
    pub(crate) examination: &'a Examination,
    pub(crate) place: &'a Place,
    pub(crate) options: &'a Options,
}

impl Case<'_> {
    /// The firmware that the place may start the disk with, as far as the caller left the choice.
    pub(crate) fn firmwares(&self) -> impl Iterator<Item = Firmware> + '_ {
        let wanted = self.options.firmware;
        self.place
            .firmware
            .iter()
            .copied()
            .filter(move |firmware| wanted.is_none_or(|wanted| wanted == *firmware))
    }

    /// Whether it is Linux: everything else is not judged by these rules.
    pub(crate) fn is_linux(&self) -> bool {
        self.report.os.is_some() && !self.report.roots.is_empty() && self.report.windows.is_none()
    }

    /// Whether the start ends where a line of fstab cannot be carried out. systemd falls into emergency mode; of others a
    /// failed check asks for the password of root (Debian's checkfs.sh, which its OpenRC runs as well), a failed mount
    /// does not; OpenRC's own scripts (init.d/fsck, init.d/localmount) and busybox go on without.
    pub(crate) fn stops_without(&self, line: &fstab::Line) -> bool {
        match self.report.os.as_ref().and_then(|os| os.init) {
            Some("busybox") => false,
            Some("openrc") => line.pass != 0 && self.examination.tree.exists("/etc/init.d/checkfs.sh"),
            Some("other") => line.pass != 0,
            _ => true,
        }
    }
}

/// What a rule found.
#[derive(Default)]
pub(crate) struct Hits {
    list: Vec<Hit>,
    unknown: Option<String>,
}

struct Hit {
    detail: String,
    seen: Seen,
    impact: Option<Impact>,
    fix: Option<String>,
}

impl Hits {
    /// The most that one rule reports.
    const MAX: usize = 20;

    /// Something is wrong.
    pub(crate) fn add(&mut self, detail: impl Into<String>, seen: Seen) {
        self.push(Hit { detail: detail.into(), seen, impact: None, fix: None });
    }

    /// Something is wrong, to another degree than the row says.
    pub(crate) fn add_as(&mut self, impact: Impact, detail: impl Into<String>, seen: Seen) {
        self.push(Hit { detail: detail.into(), seen, impact: Some(impact), fix: None });
    }

    /// Something is wrong, with commands of its own.
    pub(crate) fn add_fix(&mut self, detail: impl Into<String>, seen: Seen, fix: String) {
        self.push(Hit { detail: detail.into(), seen, impact: None, fix: Some(fix) });
    }

    fn push(&mut self, hit: Hit) {
        if self.list.len() < Self::MAX {
            self.list.push(hit);
        }
    }

    /// The rule cannot say.
    pub(crate) fn unknown(&mut self, why: impl Into<String>) {
        self.unknown = Some(why.into());
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFinding {
    /// The rule.
    #[serde(deserialize_with = "kiln_disk::interned::one")]
    pub id: Word,
    /// What it does there.
    pub severity: Impact,
    /// What is wrong.
    #[serde(deserialize_with = "kiln_disk::interned::one")]
    pub summary: Word,
    /// This time.
    pub detail: String,
    /// The file and line, or the byte of the disk.
    pub at: Seen,
    /// What it means.
    #[serde(deserialize_with = "kiln_disk::interned::one")]
    pub effect: Word,
    /// What to type.
    pub fix: String,
    /// What Tencent Cloud's import would have said.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "kiln_disk::interned::maybe",
        default
    )]
    pub tencent_error: Option<Word>,
}

/// A rule that could not be answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unanswered {
    /// The rule.
    #[serde(deserialize_with = "kiln_disk::interned::one")]
    pub id: Word,
    /// Why.
    pub why: String,
    /// How bad it could be.
    pub severity: Impact,
}

/// The answer for one place.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Judgement {
    /// The place's id.
    #[serde(deserialize_with = "kiln_disk::interned::one")]
    pub target: Word,
    /// Its name.
    #[serde(deserialize_with = "kiln_disk::interned::one")]
    pub name: Word,
    /// The answer.
    pub verdict: Verdict,
    /// Why, in one line: the worst finding or the open question.
    pub because: Option<String>,
    /// The firmware that would start it there, in order of preference.
    pub firmware: Vec<Firmware>,
    /// What is wrong, worst first.
    pub findings: Vec<GuestFinding>,
    /// What could not be answered.
    pub unanswered: Vec<Unanswered>,
}

impl Judgement {
    /// The judgement of a guest that could not be read: unknown, because the question of a rule is open.
    pub(crate) fn unanswered(place: &'static Place, id: &'static str, why: String) -> Self {
        Self {
            target: place.id,
            name: place.name,
            verdict: Verdict::Unknown,
            because: Some(format!("{id} could not be answered: {why}")),
            firmware: Vec::new(),
            findings: Vec::new(),
            unanswered: vec![Unanswered { id, why, severity: Impact::WillNotBoot }],
        }
    }
}

/// How bad the findings of a rule are at a place, where that is not what the rule itself says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Severities {
    /// By place, then by rule.
    rows: BTreeMap<String, BTreeMap<String, Impact>>,
}

impl Severities {
    /// Says how bad a rule's findings are at a place.
    pub fn set(&mut self, place: &str, rule: &str, impact: Impact) {
        self.rows.entry(place.to_owned()).or_default().insert(rule.to_owned(), impact);
    }

    /// How bad a rule's finding is there; `None` when the rule does not apply.
    #[must_use]
    pub fn of(&self, place: &Place, rule: &str, usual: Impact) -> Option<Impact> {
        let said = self.rows.get(place.id).and_then(|rows| rows.get(rule)).copied().unwrap_or(usual);
        Some(said).filter(|impact| *impact != Impact::Off)
    }
}

/// What the caller knows better.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Options {
    /// How bad what is found is, by place.
    pub severities: Severities,
    /// Only this firmware will be used.
    pub firmware: Option<Firmware>,
    /// Today, "YYYY-MM-DD", to tell what is past its end of life.
    pub today: Option<String>,
    /// The architecture that the image is registered with, in the words of any cloud: "x86_64", "arm64".
    pub architecture: Option<String>,
}

/// Judges a guest for a place.
#[must_use]
pub fn judge(examination: &Examination, place: &'static Place, options: &Options) -> Judgement {
    let case = Case { report: &examination.report, examination, place, options };
    let (mut findings, mut unanswered) = (Vec::new(), Vec::new());
    for rule in RULES {
        let Some(impact) = options.severities.of(place, rule.id, rule.impact) else { continue };
        if !windows::concerns(&case, rule.id) {
            continue;
        }
        let mut hits = Hits::default();
        (rule.run)(&case, &mut hits);
        for hit in hits.list {
            let severity = hit.impact.unwrap_or(impact);
            // The ways of both firmwares may meet the same fault: it is told once, as bad as it is on one of them.
            let known = findings.iter_mut().find(|known: &&mut GuestFinding| {
                known.id == rule.id && known.detail == hit.detail && known.at == hit.seen
            });
            if let Some(known) = known {
                known.severity = known.severity.max(severity);
                continue;
            }
            findings.push(GuestFinding {
                id: rule.id,
                severity,
                summary: rule.summary,
                detail: hit.detail,
                at: hit.seen,
                effect: rule.effect,
                fix: hit.fix.unwrap_or_else(|| windows::fix(&case, rule.id).unwrap_or(rule.fix).to_owned()),
                tencent_error: rule.tencent_error.filter(|_| place.id == "tencent"),
            });
        }
        if let Some(why) = hits.unknown {
            unanswered.push(Unanswered { id: rule.id, why, severity: impact });
        }
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let worst = findings.first();
    let open = unanswered.iter().find(|open| open.severity.stops());
    let (verdict, because) = match (worst, open) {
        (Some(worst), _) if worst.severity.stops() => {
            (Verdict::WillNotBoot, Some(format!("{} ({}, {})", worst.detail, worst.id, worst.at)))
        }
        (_, Some(open)) => {
            (Verdict::Unknown, Some(format!("{} could not be answered: {}", open.id, open.why)))
        }
        (Some(worst), _) if worst.severity > Impact::Advice => {
            (Verdict::BootsWithWarnings, Some(format!("{} ({}, {})", worst.detail, worst.id, worst.at)))
        }
        _ => (Verdict::Boots, None),
    };
    let firmware = case.firmwares().filter(|firmware| boot::starts(&case, *firmware)).collect();
    Judgement { target: place.id, name: place.name, verdict, because, firmware, findings, unanswered }
}

/// The row of an id.
#[must_use]
pub fn rule(id: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.id == id)
}
