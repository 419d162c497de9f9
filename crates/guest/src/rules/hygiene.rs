//! Rules for images that others will start.

use super::{Case, Hits, Impact};
use crate::facts::Seen;
use crate::facts::access::Password;
use crate::facts::secrets::SecretKind;

fn of(case: &Case<'_>, kinds: &[SecretKind], what: &str, hits: &mut Hits) {
    for secret in case.report.secrets.iter().filter(|secret| kinds.contains(&secret.kind)) {
        hits.add(what, secret.seen.clone());
    }
}

/// sec.machine-id
pub(super) fn machine_id(case: &Case<'_>, hits: &mut Hits) {
    of(case, &[SecretKind::MachineId], "every machine made from it has the same id", hits);
}

/// sec.hostkeys
pub(super) fn host_keys(case: &Case<'_>, hits: &mut Hits) {
    for seen in &case.report.ssh.host_keys {
        hits.add("a host key lies in the image", seen.clone());
    }
}

/// sec.authkeys
pub(super) fn authorized_keys(case: &Case<'_>, hits: &mut Hits) {
    for account in &case.report.accounts {
        if let Some(seen) = &account.authorized_keys_seen {
            hits.add(
                format!("{} keys open the account {}", account.authorized_keys, account.name),
                seen.clone(),
            );
        }
    }
    of(case, &[SecretKind::PrivateKey], "a private key lies in the image", hits);
}

/// sec.history
pub(super) fn history(case: &Case<'_>, hits: &mut Hits) {
    of(case, &[SecretKind::History], "what was typed on the machine", hits);
}

/// sec.logs
pub(super) fn logs(case: &Case<'_>, hits: &mut Hits) {
    of(case, &[SecretKind::Logs, SecretKind::Lease], "left by the machine's earlier life", hits);
}

/// sec.secrets
pub(super) fn secrets(case: &Case<'_>, hits: &mut Hits) {
    of(case, &[SecretKind::Credentials, SecretKind::UserData], "it may hold credentials", hits);
}

/// sec.seed
pub(super) fn seed(case: &Case<'_>, hits: &mut Hits) {
    of(case, &[SecretKind::Seed], "every machine made from it starts with the same seed", hits);
}

/// sec.password
pub(super) fn passwords(case: &Case<'_>, hits: &mut Hits) {
    for account in &case.report.accounts {
        let what = match account.password {
            Password::Empty => "needs no password",
            Password::Weak => "has a password kept by a broken method",
            Password::Set => "has a password, the same on every machine made from it",
            Password::Locked | Password::Unknown => continue,
        };
        hits.add(format!("{} {what}", account.name), account.seen.clone());
    }
}

/// sec.backdoor
pub(super) fn second_root(case: &Case<'_>, hits: &mut Hits) {
    for account in case.report.accounts.iter().filter(|account| account.uid == 0 && account.name != "root") {
        hits.add(format!("{} is a second root", account.name), account.seen.clone());
    }
}

/// sec.suid
pub(super) fn set_uid(case: &Case<'_>, hits: &mut Hits) {
    let found = &case.report.set_uid;
    for seen in &found.misplaced {
        hits.add_as(
            Impact::Hygiene,
            "whoever runs it becomes root, and it lies where users may put files",
            seen.clone(),
        );
    }
    for seen in &found.writable {
        hits.add_as(
            Impact::Hygiene,
            "whoever runs it becomes root, and others than root may change it",
            seen.clone(),
        );
    }
    for (seen, mode) in &found.open {
        let what = format!("anybody may put programs there (mode {mode:o})");
        hits.add_fix(what, seen.clone(), format!("chmod o-w {seen}"));
    }
    for seen in &found.unknown {
        let what = "whoever runs it becomes root, and no distribution is known to ship it so";
        hits.add_as(Impact::Advice, what, seen.clone());
    }
    if let Some(why) = &found.cut {
        hits.unknown(why.clone());
    }
}

/// Of a hundred free blocks so many are filled before it is worth a word: a few are what a file system frees itself.
const FREED_PERCENT: u32 = 5;

/// sec.freed-space
pub(super) fn freed_space(case: &Case<'_>, hits: &mut Hits) {
    if !case.is_linux() {
        return;
    }
    let Some(root) = case.report.root() else { return };
    match &case.report.freed {
        None => hits.unknown(format!("free blocks of the root ({}) were not looked at", root.probed.kind)),
        Some(freed) if freed.filled.saturating_mul(100) >= freed.looked.saturating_mul(FREED_PERCENT) => {
            let what = format!(
                "of {} free blocks of the root that were looked at, {} hold something",
                freed.looked, freed.filled
            );
            hits.add(what, Seen::Volume { volume: root.place.to_string() });
        }
        Some(_) => {}
    }
}
