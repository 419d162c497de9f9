//! The answer as one page of HTML: nothing outside of it is loaded, and every word of the guest is escaped.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use kiln_disk::{Durability, Error as DiskError, Existing, StagedFile};
use kiln_guest::GuestReport;
use kiln_guest::rules::{Impact, Verdict};

use super::guest::Answers;
use crate::error::Result;
use crate::output::ShortSize;

const STYLE: &str = include_str!("report.css");

/// Writes the page; the file must not be there.
pub(super) fn write(path: &Path, label: &str, answers: &Answers) -> Result<()> {
    let page = page(label, answers);
    let staged = StagedFile::beside(path)?;
    (&mut staged.file())
        .write_all(page.as_bytes())
        .map_err(|source| DiskError::io("write", path.display().to_string(), source))?;
    staged.commit(Existing::Keep, Durability::Synced)?;
    Ok(())
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in crate::output::visible(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(c),
        }
    }
    out
}

fn page(label: &str, answers: &Answers) -> String {
    let report = answers.report();
    let name = report.os.as_ref().map_or("no system found", |os| os.name.as_str());
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{0}</title><style>{STYLE}</style></head><body><main>\n<h1>{0}</h1>\n<p class=\"sub\">{1}</p>\n",
        escape(label),
        escape(name),
    );
    verdicts(&mut out, answers);
    disk_map(&mut out, report);
    findings(&mut out, answers);
    facts(&mut out, report);
    let _ = write!(
        out,
        "<footer>Made by kiln {}, rule set {}. Read from the file; nothing was started or mounted.</footer>\n\
         </main></body></html>\n",
        env!("CARGO_PKG_VERSION"),
        kiln_guest::RULE_SET
    );
    out
}

fn verdict_class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Boots => "good",
        Verdict::BootsWithWarnings => "warn",
        Verdict::WillNotBoot => "bad",
        Verdict::Unknown => "open",
    }
}

fn impact_class(impact: Impact) -> &'static str {
    match impact {
        Impact::RejectedAtImport | Impact::WillNotBoot => "bad",
        Impact::NoNetwork | Impact::NoLogin => "warn",
        Impact::Hygiene => "care",
        Impact::Advice | Impact::Off => "note",
    }
}

fn verdicts(out: &mut String, answers: &Answers) {
    out.push_str("<h2>Will it start there?</h2>\n<div class=\"cards\">\n");
    for judgement in &answers.judgements {
        let count = judgement.findings.iter().filter(|finding| finding.severity > Impact::Advice).count();
        let why = match &judgement.because {
            Some(why) => escape(why),
            None => "every rule was answered, and nothing stands against it".to_owned(),
        };
        let more = if count > 1 {
            format!(" <span class=\"more\">and {} more</span>", count - 1)
        } else {
            String::new()
        };
        let _ = writeln!(
            out,
            "<section class=\"card {}\"><h3>{}</h3><p class=\"verdict\">{}</p><p>{why}{more}</p></section>",
            verdict_class(judgement.verdict),
            escape(judgement.name),
            judgement.verdict.words(),
        );
    }
    out.push_str("</div>\n");
}

/// Every disk as a bar: partitions as wide as they are long, but wide enough to be seen.
fn disk_map(out: &mut String, report: &GuestReport) {
    out.push_str("<h2>The disk</h2>\n");
    for (index, table) in report.tables.iter().enumerate() {
        let scheme = crate::commands::inspect::guest::scheme(table.scheme);
        let _ = writeln!(
            out,
            "<p class=\"sub\">disk {index}: {}, {} of {}-byte sectors</p><div class=\"map\">",
            ShortSize(table.disk_len),
            escape(scheme),
            table.sector_len
        );
        let mut parts: Vec<_> = table.partitions.iter().collect();
        parts.sort_by_key(|part| part.start);
        for part in parts {
            let volume = report.volumes.iter().enumerate().find(|(_, volume)| {
                matches!(&volume.place, kiln_guest::volume::Place::Partition { disk, number, .. }
                    if *disk == index && *number == part.number)
            });
            let kind = volume.map_or("", |(_, volume)| volume.probed.kind.as_str());
            let mount = volume
                .and_then(|(at, _)| report.mounts.iter().find(|mount| mount.volume == at))
                .map_or("", |mount| mount.at.as_str());
            let share = (part.len.saturating_mul(1000) / table.disk_len.max(1)).clamp(1, 1000);
            let _ = writeln!(
                out,
                "<div class=\"part k-{}\" style=\"flex-grow:{share}\"><b>{}</b> {}<br>{}<br><span>{}</span></div>",
                escape(&kind.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "")),
                part.number,
                escape(mount),
                escape(if kind.is_empty() { "?" } else { kind }),
                ShortSize(part.len),
            );
        }
        out.push_str("</div>\n");
        for fault in &table.faults {
            let _ = writeln!(out, "<p class=\"fault\">{}</p>", escape(fault));
        }
    }
}

fn findings(out: &mut String, answers: &Answers) {
    out.push_str("<h2>What was found</h2>\n");
    let groups = answers.grouped();
    if groups.is_empty() {
        out.push_str("<p>Nothing.</p>\n");
    }
    for group in groups {
        let finding = group.finding;
        let _ = writeln!(
            out,
            "<details class=\"finding {0}\"{1}><summary><span class=\"tag\">{2}</span> <code>{3}</code> {4} \
             <span class=\"at\">{5}</span></summary><dl><dt>for</dt><dd>{6}</dd><dt>effect</dt><dd>{7}</dd>\
             <dt>fix</dt><dd><code>{8}</code></dd></dl></details>",
            impact_class(group.severity),
            if group.severity > Impact::Advice { " open" } else { "" },
            group.severity.words(),
            finding.id,
            escape(&finding.detail),
            escape(&finding.at.to_string()),
            escape(&group.places()),
            escape(finding.effect),
            escape(&finding.fix),
        );
    }
}

fn facts(out: &mut String, report: &GuestReport) {
    out.push_str("<h2>The guest</h2>\n<table>\n");
    for (name, value) in crate::commands::inspect::guest::rows(report) {
        let _ = writeln!(out, "<tr><th>{}</th><td>{}</td></tr>", escape(&name), escape(&value));
    }
    out.push_str("</table>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_guest_cannot_become_markup() {
        assert_eq!(escape("<script>&\"'\u{1b}[2J"), "&lt;script&gt;&amp;&quot;&#39;\\u{1b}[2J");
    }
}
