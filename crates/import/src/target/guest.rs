//! What a target thinks of the partition table.

use kiln_format::layout::{Layout, Scheme};
use kiln_target::{Severity, Target};

use super::plan::{Warning, rule_of};
use super::refusal::TargetRefusal;
use crate::error::Result;

/// Something about a disk that a target may refuse. The id is API.
pub struct GuestCheck {
    /// Its id, as rows of targets name it.
    pub id: &'static str,
    /// The code of a refusal.
    pub code: &'static str,
    /// What it means when it applies.
    pub says: &'static str,
    /// What happens where a target's row says nothing.
    usual: Severity,
    applies: fn(&Layout) -> bool,
}

/// All checks that are made here.
pub static GUEST_CHECKS: &[GuestCheck] = &[
    GuestCheck {
        id: "part.none",
        code: "target.part.none",
        says: "there is no partition table",
        usual: Severity::Off,
        applies: |layout| layout.scheme == Scheme::None,
    },
    GuestCheck {
        id: "part.gpt",
        code: "target.part.gpt",
        says: "it has a GPT with an EFI system partition",
        usual: Severity::Off,
        applies: |layout| is_gpt(layout) && layout.has_esp,
    },
    GuestCheck {
        id: "part.gpt-bios",
        code: "target.part.gpt-bios",
        says: "it has a GPT and no EFI system partition",
        usual: Severity::Off,
        applies: |layout| is_gpt(layout) && !layout.has_esp,
    },
    GuestCheck {
        id: "part.hybrid",
        code: "target.part.hybrid",
        says: "its MBR has partitions beside the one that protects the GPT",
        usual: Severity::Off,
        applies: |layout| layout.scheme == Scheme::Hybrid,
    },
    GuestCheck {
        id: "part.logical-sector",
        code: "target.part.logical-sector",
        says: "its GPT counts in sectors of 4096 bytes, and the container presents sectors of 512",
        usual: Severity::Warn,
        applies: |layout| layout.sector_bytes == Some(4096),
    },
];

fn is_gpt(layout: &Layout) -> bool {
    matches!(layout.scheme, Scheme::Gpt | Scheme::Hybrid)
}

/// Judges a disk: warnings, or the first refusal.
pub(super) fn judge(target: &Target, layout: &Layout, warnings: &mut Vec<Warning>) -> Result<()> {
    for check in GUEST_CHECKS.iter().filter(|check| (check.applies)(layout)) {
        let row = target.guest.get(check.id);
        let why = row.map_or("the guest may not find its partitions", |row| row.why.as_str());
        let rule = row.map_or_else(String::new, |row| rule_of(&row.source, &row.date));
        match row.map_or(check.usual, |row| row.severity) {
            Severity::Off => {}
            Severity::Warn => {
                warnings.push(Warning { code: check.code, text: format!("{}; {why}", check.says), rule })
            }
            Severity::Refuse => {
                return Err(TargetRefusal::Guest {
                    target: target.id.clone(),
                    check: check.id,
                    code: check.code,
                    says: check.says,
                    why: why.to_owned(),
                    rule,
                }
                .into());
            }
        }
    }
    Ok(())
}
