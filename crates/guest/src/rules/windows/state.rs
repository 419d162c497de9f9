//! Rules of the state in which a Windows was left, of logins, and of what an image should not carry.

use super::super::{Case, Hits, Impact};
use super::needs;
use crate::facts::Seen;
use crate::facts::windows::servicing;

const CURRENT_VERSION: &str = "Microsoft\\Windows NT\\CurrentVersion";

/// win.hibernate
pub(in super::super) fn hibernated(case: &Case<'_>, hits: &mut Hits) {
    if case.report.windows.as_ref().is_some_and(|windows| windows.hibernated) {
        hits.add(
            "the machine was hibernated, or shut down with fast startup: its memory is on the disk",
            Seen::file("/hiberfil.sys"),
        );
    }
}

/// win.sysprep
pub(in super::super) fn sysprep(case: &Case<'_>, hits: &mut Hits) {
    let Some(windows) = &case.report.windows else { return };
    let key = "Microsoft\\Windows\\CurrentVersion\\Setup\\State";
    let seen = windows.seen("SOFTWARE", key);
    match windows.image_state.as_deref() {
        Some("IMAGE_STATE_UNDEPLOYABLE") => hits.add_fix(
            "ImageState is IMAGE_STATE_UNDEPLOYABLE: sysprep was interrupted",
            seen,
            "look into C:\\Windows\\System32\\Sysprep\\Panther\\setuperr.log, mend what it names, and run sysprep again"
                .to_owned(),
        ),
        Some("IMAGE_STATE_COMPLETE") => hits.add_as(
            Impact::Hygiene,
            "it was not generalised: every machine made from it has the same SID and name",
            seen,
        ),
        _ => {}
    }
    if windows.in_setup && windows.image_state.as_deref() == Some("IMAGE_STATE_COMPLETE") {
        hits.add_as(
            Impact::NoLogin,
            "its setup is not finished (SystemSetupInProgress is 1)",
            Seen::file("/Windows/System32/config/SYSTEM\\Setup"),
        );
    }
}

/// win.update
pub(in super::super) fn update(case: &Case<'_>, hits: &mut Hits) {
    let Some(windows) = &case.report.windows else { return };
    if windows.update_pending {
        hits.add("an update waits for the next start", Seen::file("/Windows/WinSxS/pending.xml"));
    } else if windows.reboot_pending {
        hits.add("an update waits for the next start", windows.seen("SOFTWARE", &servicing("RebootPending")));
    }
}

/// win.rdp
pub(in super::super) fn remote(case: &Case<'_>, hits: &mut Hits) {
    let Some(windows) = &case.report.windows else { return };
    if windows.remote_desktop_denied != Some(true) {
        return;
    }
    let seen = windows.seen("SYSTEM", "CURRENT\\Control\\Terminal Server");
    let what = "Remote Desktop is refused (fDenyTSConnections is 1)";
    match needs::of(case.place.id).screen {
        true => hits.add_as(Impact::Advice, what, seen),
        false => hits.add(what, seen),
    }
}

/// win.autologon
pub(in super::super) fn auto_logon(case: &Case<'_>, hits: &mut Hits) {
    let Some(windows) = case.report.windows.as_ref().filter(|windows| windows.auto_logon) else { return };
    hits.add(
        "somebody is logged in at every start, by a password in plain text (DefaultPassword)",
        windows.seen("SOFTWARE", &format!("{CURRENT_VERSION}\\Winlogon")),
    );
}

/// win.cloudbase-init
pub(in super::super) fn cloudbase(case: &Case<'_>, hits: &mut Hits) {
    let Some(windows) = &case.report.windows else { return };
    if windows.control_set.is_none() || needs::of(case.place.id).screen {
        return;
    }
    // Places whose own agent does it have theirs named first.
    let (wanted, how): (&[&str], &str) = match case.place.id {
        "azure" => {
            (&["WindowsAzureGuestAgent", "RdAgent"], "install the Azure VM agent (WindowsAzureVmAgent.msi)")
        }
        "aws" => (
            &["AmazonEC2Launch", "Ec2Config", "cloudbase-init"],
            "install EC2Launch v2 (AmazonEC2Launch.msi)",
        ),
        "gcp" => (
            &["GCEAgent", "cloudbase-init"],
            "googet install google-compute-engine-windows google-compute-engine-metadata-scripts",
        ),
        _ => (
            &["cloudbase-init"],
            "install CloudbaseInitSetup_Stable_x64.msi of cloudbase.it, with the account that the place sets the password of",
        ),
    };
    let has = |name: &&str| windows.agents.iter().any(|agent| agent == name);
    if !wanted.iter().any(has) {
        let what = format!(
            "{} is not installed: password, name and key of a new machine are not set",
            wanted.join(" or ")
        );
        hits.add_fix(what, windows.seen("SYSTEM", "CURRENT\\Services"), how.to_owned());
    }
}

/// win.clock
pub(in super::super) fn clock(case: &Case<'_>, hits: &mut Hits) {
    let Some(windows) = case.report.windows.as_ref().filter(|windows| windows.control_set.is_some()) else {
        return;
    };
    // Hyper-V, VMware and AWS correct the clock from outside.
    if !windows.clock_utc && !matches!(case.place.id, "azure" | "hyper-v" | "vmware" | "aws") {
        hits.add(
            "the clock is taken for local time; the place gives UTC (RealTimeIsUniversal is not 1)",
            windows.seen("SYSTEM", "CURRENT\\Control\\TimeZoneInformation"),
        );
    }
}

/// win.address
pub(in super::super) fn address(case: &Case<'_>, hits: &mut Hits) {
    let Some(windows) = &case.report.windows else { return };
    for (key, address) in &windows.fixed_addresses {
        hits.add(
            format!("a network card of the machine it came from has the fixed address {address}; the new card asks by DHCP"),
            Seen::file(format!("/Windows/System32/config/SYSTEM\\{key}")),
        );
    }
}
