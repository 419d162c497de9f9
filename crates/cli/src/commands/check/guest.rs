//! `kiln check --for`: will the guest start there?

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use kiln_catalog::GuestRecord;
use kiln_disk::{Disk, Limits};
use kiln_format::{Image, Tolerance};
use kiln_guest::rules::{Firmware, GuestFinding, Impact, Options, PLACES, Place, RULES, Severities, Verdict};
use kiln_guest::{Asked, GuestReport, Judgement, RULE_SET};
use kiln_import::guest::{GuestPolicy, OnUnfit, answers, everywhere, question, record, severities};
use serde::Serialize;

use crate::error::{About, CliError, Result};
use crate::for_target::TargetsArgs;
use crate::input::{Input, SourceArgs};
use crate::output::{Printer, visible};
use crate::session::Session;
use crate::subject::StoredImage;

/// Whether, and where, the guest is to start.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Guest")]
pub(crate) struct GuestArgs {
    /// Say whether the guest starts, gets a network and lets its owner in at these places
    #[arg(long = "for", value_name = "TARGET[,TARGET]|all", value_delimiter = ',')]
    pub(crate) asked: Vec<String>,
    #[command(flatten)]
    tables: TargetsArgs,
    /// Judge for this firmware only [default: whatever each place offers]
    #[arg(long, value_enum, value_name = "FIRMWARE", requires = "asked")]
    firmware: Option<FirmwareArg>,
    /// Judge an image that is registered with this architecture [default: that of the image's record]
    #[arg(long, value_name = "ARCH", requires = "asked")]
    arch: Option<String>,
    /// Take this file for a further disk of the same machine (a volume group may need it)
    #[arg(long, value_name = "FILE", requires = "asked")]
    with_disk: Vec<PathBuf>,
    /// Write the answer as one page of HTML as well; the file must not be there
    #[arg(long, value_name = "FILE.html", requires = "asked")]
    report: Option<PathBuf>,
    /// Tell more about a rule, and check nothing
    #[arg(long, value_name = "ID")]
    pub(crate) explain: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum FirmwareArg {
    /// A BIOS
    Bios,
    /// UEFI on a machine without stored variables
    Uefi,
}

/// The answers for all places that were asked.
#[derive(Serialize)]
pub(super) struct Answers {
    rule_set: &'static str,
    pub(super) judgements: Vec<Judgement>,
    #[serde(skip)]
    report: GuestReport,
    /// What the record of an image says then, where one was asked for.
    #[serde(skip)]
    record: Option<GuestRecord>,
}

impl GuestArgs {
    /// The places that were asked for.
    pub(crate) fn places(&self) -> Result<Vec<&'static Place>> {
        places(&self.asked)
    }

    /// How bad what is found is, by target.
    pub(super) fn severities(&self) -> Result<Severities> {
        Ok(severities(&self.tables.load()?)?)
    }

    /// Looks at the guest and judges it for every place; for the record of an image as well, which is about all
    /// places that there are, and about its own disk alone.
    pub(super) fn judge(
        &self,
        input: &Input,
        source: &SourceArgs,
        image: Option<&StoredImage>,
        session: &Session,
    ) -> Result<Answers> {
        let places = self.places()?;
        let mut disks = vec![open(input, source)?];
        for path in &self.with_disk {
            let mut other = Input::open(path)?;
            other.unwrap(&SourceArgs::default(), None, &session.reporter).about(&other.label)?;
            disks.push(open(&other, &SourceArgs::default())?);
        }
        let severities = self.severities()?;
        let options = Options {
            severities: severities.clone(),
            firmware: self.firmware.map(|firmware| match firmware {
                FirmwareArg::Bios => Firmware::Bios,
                FirmwareArg::Uefi => Firmware::Uefi,
            }),
            today: Some(today()),
            architecture: self.arch.clone().or_else(|| image?.record.architecture.clone()),
        };
        let recorded = (image.is_some() && self.with_disk.is_empty()).then(|| everywhere(&severities));
        let is_recorded = recorded.is_some();
        let asked = [Asked { places, options }].into_iter().chain(recorded).collect();
        let look = crate::guest_reader().look(&disks, &question(asked)).about(&input.label)?;
        let [judgements, all] = answers(look.judgements);
        let record = is_recorded.then(|| record(&look.report, &all));
        let answers = Answers { rule_set: RULE_SET, judgements, report: look.report, record };
        if let Some(path) = &self.report {
            super::html::write(path, &input.label, &answers)?;
        }
        Ok(answers)
    }
}

/// What the record of an image says of its guest. It is judged again when the rules are others than those of the
/// record, and when places were named, which asks for an answer of today.
pub(super) fn of_image(
    image: &StoredImage,
    args: &GuestArgs,
    answers: Option<&Answers>,
) -> Result<GuestRecord> {
    if let Some(record) = answers.and_then(|answers| answers.record.as_ref()) {
        image.store.note_guest(&image.manifest.id, record.clone())?;
        return Ok(record.clone());
    }
    let known = image.record.guest.as_ref().or(image.manifest.guest.as_ref());
    match known.filter(|known| known.rule_set == RULE_SET) {
        Some(known) => Ok(known.clone()),
        None => {
            let (severities, reader) = (args.severities()?, crate::guest_reader());
            Ok(kiln_import::guest::judge_image(&image.store, &image.manifest, &severities, &reader)?)
        }
    }
}

/// The policy of an import about the guest.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct ImportArgs {
    /// Import nothing that would be rejected or would not start at these places
    #[arg(long = "for", value_name = "TARGET[,TARGET]|all", value_delimiter = ',')]
    asked: Vec<String>,
    #[command(flatten)]
    tables: TargetsArgs,
    /// Let a guest without cloud-init pass, as a forced import of Tencent Cloud does
    #[arg(long, requires = "asked")]
    force_no_cloud_init: bool,
}

impl ImportArgs {
    /// Whether places were named.
    pub(crate) fn is_asked(&self) -> bool {
        !self.asked.is_empty()
    }

    /// The policy, for an import that passes damage over or not.
    pub(crate) fn policy(&self, force: bool) -> Result<GuestPolicy> {
        Ok(GuestPolicy {
            places: places(&self.asked)?,
            on_unfit: match (force, self.force_no_cloud_init) {
                (true, _) => OnUnfit::Force,
                (false, true) => OnUnfit::WaiveCloudInit,
                (false, false) => OnUnfit::Refuse,
            },
            severities: severities(&self.tables.load()?)?,
            today: Some(today()),
            reader: crate::guest_reader(),
        })
    }
}

/// The places of the words.
fn places(words: &[String]) -> Result<Vec<&'static Place>> {
    let mut found: Vec<&'static Place> = Vec::new();
    for word in words {
        if word == "all" {
            return Ok(PLACES.iter().collect());
        }
        let place = kiln_guest::rules::place(word).ok_or_else(|| {
            let known: Vec<&str> = PLACES.iter().map(|place| place.id).collect();
            CliError::usage(
                "usage.target",
                format!("no target is called {word:?}"),
                format!("known targets: {}, all", known.join(", ")),
            )
        })?;
        if found.iter().all(|known| known.id != place.id) {
            found.push(place);
        }
    }
    Ok(found)
}

/// The disk of a file, for looking only.
pub(crate) fn open(input: &Input, source: &SourceArgs) -> Result<Arc<dyn Disk>> {
    let context = input.context(source, Tolerance::Damaged, Limits::STANDARD)?;
    let image: Arc<dyn Image> = Arc::from(input.image(source, &context)?);
    Ok(image)
}

/// Today as "YYYY-MM-DD", by UTC (days to civil date: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn today() -> String {
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let days = i64::try_from(seconds / 86_400).unwrap_or(0) + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

impl Answers {
    /// Whether every place starts it.
    pub(super) fn fit(&self) -> bool {
        self.judgements.iter().all(|judgement| judgement.verdict != Verdict::WillNotBoot)
    }

    pub(super) fn report(&self) -> &GuestReport {
        &self.report
    }

    /// For people: the answers, then what was found, each thing once with the places that it concerns.
    pub(super) fn text(&self, out: &mut Printer) {
        if let Some(os) = &self.report().os {
            out.field("guest", if os.name.is_empty() { "a system without a name" } else { &os.name });
        }
        for judgement in &self.judgements {
            let because = judgement.because.as_ref().map_or(String::new(), |why| format!(": {why}"));
            out.field(judgement.target, format!("{}{because}", judgement.verdict.words()));
        }
        for group in self.grouped() {
            let GuestFinding { id, detail, at, effect, fix, tencent_error, .. } = group.finding;
            out.line(&format!("{:<19} {id:<22} {detail} ({at})", group.severity.words().to_uppercase()));
            if self.judgements.len() > 1 {
                out.line(&format!("                    for: {}", group.places()));
            }
            out.line(&format!("                    effect: {effect}"));
            out.line(&format!("                    fix: {fix}"));
            if let Some(error) = group.tencent_error.or(*tencent_error) {
                out.line(&format!("                    Tencent Cloud's import would say: {error}"));
            }
        }
        for (open, places) in self.open_questions() {
            out.line(&format!("UNANSWERED          {:<22} {} (for: {places})", open.0, open.1));
        }
        for problem in &self.report().problems {
            out.line(&format!("not read: {problem}"));
        }
    }

    /// Findings that say the same, worst first.
    pub(super) fn grouped(&self) -> Vec<Group<'_>> {
        let mut groups: Vec<Group<'_>> = Vec::new();
        for judgement in &self.judgements {
            for finding in &judgement.findings {
                let same = groups.iter_mut().find(|group| {
                    group.finding.id == finding.id
                        && group.finding.detail == finding.detail
                        && group.finding.at == finding.at
                });
                match same {
                    Some(group) => {
                        group.severity = group.severity.max(finding.severity);
                        group.tencent_error = group.tencent_error.or(finding.tencent_error);
                        group.at_places.push((judgement.target, finding.severity));
                    }
                    None => groups.push(Group {
                        severity: finding.severity,
                        finding,
                        tencent_error: finding.tencent_error,
                        at_places: vec![(judgement.target, finding.severity)],
                        asked: self.judgements.len(),
                    }),
                }
            }
        }
        groups.sort_by_key(|group| std::cmp::Reverse(group.severity));
        groups
    }

    fn open_questions(&self) -> Vec<((&'static str, &str), String)> {
        let mut found: Vec<((&'static str, &str), String)> = Vec::new();
        for judgement in &self.judgements {
            for open in &judgement.unanswered {
                match found.iter_mut().find(|(known, _)| *known == (open.id, open.why.as_str())) {
                    Some((_, places)) => *places += &format!(", {}", judgement.target),
                    None => found.push(((open.id, &open.why), judgement.target.to_owned())),
                }
            }
        }
        found
    }
}

/// One thing found, and the places that it concerns.
pub(super) struct Group<'a> {
    pub(super) severity: Impact,
    pub(super) finding: &'a GuestFinding,
    tencent_error: Option<&'static str>,
    at_places: Vec<(&'static str, Impact)>,
    asked: usize,
}

impl Group<'_> {
    /// Names of the places; those where it is less bad say how bad.
    pub(super) fn places(&self) -> String {
        if self.at_places.len() == self.asked
            && self.at_places.iter().all(|(_, severity)| *severity == self.severity)
        {
            return "all".to_owned();
        }
        let names = self.at_places.iter().map(|(place, severity)| {
            if *severity == self.severity {
                (*place).to_owned()
            } else {
                format!("{place} ({})", severity.words())
            }
        });
        names.collect::<Vec<_>>().join(", ")
    }
}

#[derive(Serialize)]
struct Explanation {
    schema: &'static str,
    id: &'static str,
    inspects: &'static str,
    summary: &'static str,
    effect: &'static str,
    fix: &'static str,
    severity: Impact,
    tencent_error: Option<&'static str>,
    /// Per target: the severity there, or nothing where it is not asked.
    targets: Vec<(&'static str, Option<Impact>)>,
}

/// `--explain ID`.
pub(super) fn explain(id: &str, severities: &Severities, session: &mut Session) -> Result<()> {
    let rule = kiln_guest::rules::rule(id).ok_or_else(|| {
        let near: Vec<&str> = RULES
            .iter()
            .map(|rule| rule.id)
            .filter(|known| known.split('.').next() == id.split('.').next())
            .collect();
        let near = if near.is_empty() { RULES.iter().map(|rule| rule.id).collect() } else { near };
        CliError::usage(
            "usage.rule",
            format!("no guest rule is called {id:?}"),
            format!("rules: {}", near.join(", ")),
        )
    })?;
    let record = Explanation {
        schema: "kiln.explain.v1",
        id: rule.id,
        inspects: rule.inspects,
        summary: rule.summary,
        effect: rule.effect,
        fix: rule.fix,
        severity: rule.impact,
        tencent_error: rule.tencent_error,
        targets: PLACES.iter().map(|place| (place.id, severities.of(place, rule.id, rule.impact))).collect(),
    };
    let out = &mut session.printer;
    out.json(&record)?;
    out.data_field("rule", record.id);
    out.data_field("finds", record.summary);
    out.data_field("looks at", record.inspects);
    out.data_field("effect", record.effect);
    out.data_field("fix", visible(record.fix));
    out.data_field("severity", record.severity.words());
    if let Some(error) = record.tencent_error {
        out.data_field("Tencent says", error);
    }
    for (place, impact) in record.targets.iter().filter(|(_, impact)| *impact != Some(record.severity)) {
        out.data_field("", format!("{place}: {}", impact.map_or("not asked", Impact::words)));
    }
    Ok(())
}
