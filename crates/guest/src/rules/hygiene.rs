//! Rules for images that others will start.

use super::{Case, Hits};
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
