//! Rules of a Windows' updates, of what its policies forbid, of its firewall and page files.

use super::super::{Case, Hits, Impact};
use super::needs;
use crate::facts::Seen;
use crate::facts::windows::{Answer, servicing};

/// What was read; where it could not be, the rule is open.
fn read<'a, T>(answer: &'a Answer<T>, hits: &mut Hits) -> Option<&'a T> {
    match answer {
        Answer::Read(value) => Some(value),
        Answer::Unread(why) => {
            hits.unknown(why.clone());
            None
        }
    }
}

/// Updates after which machines did not start or lost their network, with the build that each makes where it is a
/// cumulative one: such an update has no package of its name. Source: Alibaba Cloud, Image check, GUESTOS.Hotfix; the
/// builds by the titles of Microsoft's articles.
const BAD: [(u32, u32, u32); 9] = [
    (5_009_624, 0, 0),
    (5_009_595, 0, 0),
    (5_014_738, 0, 0),
    (5_009_546, 14393, 4886),
    (5_009_557, 17763, 2452),
    (5_009_555, 20348, 469),
    (5_014_702, 14393, 5192),
    (5_014_692, 17763, 3046),
    (5_014_678, 20348, 768),
];

/// win.hotfix
pub(in super::super) fn hotfix(case: &Case<'_>, hits: &mut Hits) {
    let Some(windows) = &case.report.windows else { return };
    let (build, revision) = (windows.version.build_number(), windows.version.revision);
    for (kb, of, wanted) in BAD {
        if build != 0 && build == of && revision == Some(wanted) {
            let what = format!("the last cumulative update is KB{kb} (build {build}.{wanted})");
            hits.add(what, windows.seen("SOFTWARE", "Microsoft\\Windows NT\\CurrentVersion"));
        }
    }
    let Some(updates) = read(&windows.updates, hits) else { return };
    for update in updates.iter().filter(|update| update.installed()) {
        if BAD.iter().any(|(kb, ..)| *kb == update.kb) {
            hits.add(format!("KB{} is installed", update.kb), windows.seen("SOFTWARE", &update.key));
        }
    }
}

/// Builds of Windows 7 and Server 2008 R2.
const SEVEN: std::ops::RangeInclusive<u32> = 7600..=7601;

/// win.sha2
pub(in super::super) fn sha2(case: &Case<'_>, hits: &mut Hits) {
    let Some(windows) = &case.report.windows else { return };
    let wide = case.report.os.as_ref().is_none_or(|os| os.architecture != Some("i386"));
    // Windows of 32 bits asks for no signature of a driver.
    if !SEVEN.contains(&windows.version.build_number()) || !wide {
        return;
    }
    let Some(updates) = read(&windows.updates, hits) else { return };
    let knows = updates.iter().any(|update| {
        matches!(update.kb, 3_033_929 | 4_474_419) && (update.installed() || update.superseded())
    });
    if !knows {
        hits.add(
            "neither KB4474419 nor KB3033929 is installed: drivers that are signed with SHA-2 only are refused",
            windows.seen("SOFTWARE", &servicing("Packages")),
        );
    }
}

/// win.devinstall
pub(in super::super) fn device_install(case: &Case<'_>, hits: &mut Hits) {
    let Some(windows) = &case.report.windows else { return };
    for scanner in &windows.scanners {
        hits.add_fix(
            format!(
                "{} is installed: such programs keep drivers from being added from outside",
                scanner.what
            ),
            Seen::file(scanner.key.clone()),
            "uninstall it in the running guest, and install it again at the new place".to_owned(),
        );
    }
    let Some(said) = read(&windows.device_install, hits) else { return };
    for said in said {
        hits.add(said.what.clone(), Seen::file(said.key.clone()));
    }
}

/// win.firewall
pub(in super::super) fn firewall(case: &Case<'_>, hits: &mut Hits) {
    let Some(windows) = &case.report.windows else { return };
    // Nobody is there to be let in: win.rdp.
    if windows.remote_desktop_denied == Some(true) {
        return;
    }
    let Some(firewall) = read(&windows.firewall, hits) else { return };
    let what = match (&firewall.blocks, &firewall.admits) {
        _ if !firewall.drops => return,
        (Some(name), _) => format!("the rule {name} keeps port {} out", firewall.port),
        (None, None) => format!(
            "it is on for public networks, as which a new one counts, and no rule lets port {} in",
            firewall.port
        ),
        (None, Some(_)) => return,
    };
    let seen = Seen::file(firewall.key.clone());
    match needs::of(case.place.id).screen {
        true => hits.add_as(Impact::Advice, what, seen),
        false => hits.add(what, seen),
    }
}

/// win.pagefile
pub(in super::super) fn page_file(case: &Case<'_>, hits: &mut Hits) {
    let Some(windows) = &case.report.windows else { return };
    let left = case.examination.tree.stat("/pagefile.sys").map_or(0, |stat| stat.len);
    if left > 0 {
        hits.add_fix(
            format!("pagefile.sys holds {} MiB of what was in the machine's memory", left.div_ceil(1 << 20)),
            Seen::file("/pagefile.sys"),
            "before the last shutdown: reg add \"HKLM\\SYSTEM\\CurrentControlSet\\Control\\Session Manager\\Memory \
Management\" /v ClearPageFileAtShutdown /t REG_DWORD /d 1 /f; or delete the file from outside, Windows makes it anew"
                .to_owned(),
        );
    }
    let Some(files) = read(&windows.page_files, hits) else { return };
    for file in files {
        let Some(drive) = file.chars().next().filter(|_| file.chars().nth(1) == Some(':')) else { continue };
        // "?" is whatever Windows finds; Azure's machines have a disk D for this.
        let usual = match drive.to_ascii_uppercase() {
            'C' | '?' => true,
            drive => drive == 'D' && case.place.id == "azure",
        };
        if !usual {
            hits.add(
                format!("the page file is {file}, on a drive that a new machine need not have"),
                windows.seen("SYSTEM", "CURRENT\\Control\\Session Manager\\Memory Management"),
            );
        }
    }
}
