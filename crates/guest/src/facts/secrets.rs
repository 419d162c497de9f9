//! Things that must not be in an image that others start. By path only: nothing of their content leaves this module.

use serde::{Deserialize, Serialize};

use super::Seen;
use crate::fs::Kind;
use crate::tree::Tree;

/// What kind of thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecretKind {
    /// An identity of the machine that must be its own.
    MachineId,
    /// A seed of random numbers.
    Seed,
    /// A private key.
    PrivateKey,
    /// Access to a cloud, a registry, a cluster, a repository.
    Credentials,
    /// Commands that were typed.
    History,
    /// Logs of another life.
    Logs,
    /// Data of the user who made the machine.
    UserData,
    /// A lease of an address.
    Lease,
}

/// A thing found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// What kind.
    pub kind: SecretKind,
    /// Where.
    pub seen: Seen,
}

/// Things that are listed; more are not interesting.
const MAX: usize = 200;
/// Home directories that are looked into.
const MAX_HOMES: usize = 50;

/// Files that hold an id of the machine: not those that wait for one, and no link to another.
#[must_use]
pub(crate) fn machine_ids(tree: &Tree) -> Vec<Seen> {
    let holds = |path: &&str| {
        let link = tree.stat_link(path).is_ok_and(|stat| stat.kind == Kind::Link);
        let text = tree.text(path).unwrap_or_default();
        !link && !text.trim().is_empty() && text.trim() != "uninitialized"
    };
    ["/etc/machine-id", "/var/lib/dbus/machine-id"].into_iter().filter(holds).map(Seen::file).collect()
}

/// Looks in the usual places.
#[must_use]
pub fn read(tree: &Tree) -> Vec<Secret> {
    let mut found = Vec::new();
    for seen in machine_ids(tree) {
        found.push(Secret { kind: SecretKind::MachineId, seen });
    }
    let mut push = |kind, path: String| {
        if found.len() < MAX {
            found.push(Secret { kind, seen: Seen::file(path) });
        }
    };
    let filled = |path: &str| tree.stat(path).is_ok_and(|stat| stat.kind == Kind::File && stat.len > 0);
    let fixed = [
        (SecretKind::Seed, "/var/lib/systemd/random-seed"),
        (SecretKind::Seed, "/var/lib/systemd/credential.secret"),
        (SecretKind::Seed, "/var/lib/urandom/random-seed"),
        (SecretKind::Credentials, "/etc/krb5.keytab"),
        (SecretKind::UserData, "/var/lib/cloud/instance/user-data.txt"),
        (SecretKind::UserData, "/root/anaconda-ks.cfg"),
        (SecretKind::UserData, "/root/original-ks.cfg"),
        (SecretKind::UserData, "/etc/cloud/cloud.cfg.d/99-installer.cfg"),
        (SecretKind::Logs, "/var/log/cloud-init.log"),
        (SecretKind::Logs, "/var/log/cloud-init-output.log"),
        (SecretKind::Logs, "/var/log/auth.log"),
        (SecretKind::Logs, "/var/log/secure"),
        (SecretKind::Logs, "/var/log/messages"),
        (SecretKind::Logs, "/var/log/syslog"),
        (SecretKind::Logs, "/var/log/wtmp"),
        (SecretKind::Logs, "/var/log/lastlog"),
    ];
    for (kind, path) in fixed {
        if filled(path) {
            push(kind, path.to_owned());
        }
    }
    for dir in ["/var/log/journal", "/var/log/installer", "/var/log/anaconda"] {
        if !tree.names(dir).is_empty() {
            push(SecretKind::Logs, dir.to_owned());
        }
    }
    for (dir, kind) in [
        ("/var/lib/dhcp", SecretKind::Lease),
        ("/var/lib/dhclient", SecretKind::Lease),
        ("/var/lib/NetworkManager", SecretKind::Lease),
        ("/etc/pki/consumer", SecretKind::Credentials),
        ("/etc/pki/entitlement", SecretKind::Credentials),
        ("/etc/ssl/private", SecretKind::PrivateKey),
        // What was in a program's memory.
        ("/var/lib/systemd/coredump", SecretKind::Credentials),
        ("/var/crash", SecretKind::Credentials),
    ] {
        for name in tree.names(dir) {
            let path = format!("{dir}/{name}");
            let lease = kind != SecretKind::Lease || name.contains("lease");
            if lease && name != "ssl-cert-snakeoil.key" && filled(&path) {
                push(kind, path);
            }
        }
    }
    let mut homes = vec!["/root".to_owned()];
    homes.extend(tree.names("/home").iter().take(MAX_HOMES).map(|name| format!("/home/{name}")));
    for home in homes {
        // Most names of the list are missing: one look at the directory spares the others.
        let names = tree.names(&home);
        let has = |name: &str| names.iter().any(|known| known == name);
        for name in [
            ".bash_history",
            ".zsh_history",
            ".python_history",
            ".mysql_history",
            ".psql_history",
            ".viminfo",
            ".lesshst",
            ".ssh/known_hosts",
        ] {
            let path = format!("{home}/{name}");
            let first = name.split('/').next().unwrap_or(name);
            if has(first) && filled(&path) {
                push(SecretKind::History, path);
            }
        }
        for (dir, file) in [
            (".aws", ".aws/credentials"),
            (".git-credentials", ".git-credentials"),
            (".kube", ".kube/config"),
            (".netrc", ".netrc"),
            (".docker", ".docker/config.json"),
            (".pgpass", ".pgpass"),
            (".my.cnf", ".my.cnf"),
            (".config", ".config/gcloud/credentials.db"),
            (".azure", ".azure/accessTokens.json"),
            (".azure", ".azure/msal_token_cache.json"),
            (".npmrc", ".npmrc"),
            (".pypirc", ".pypirc"),
            (".env", ".env"),
            (".tccli", ".tccli/default.credential"),
            (".aliyun", ".aliyun/config.json"),
            (".s3cfg", ".s3cfg"),
            (".vault-token", ".vault-token"),
            (".gnupg", ".gnupg/secring.gpg"),
        ] {
            let path = format!("{home}/{file}");
            if has(dir) && filled(&path) {
                push(SecretKind::Credentials, path);
            }
        }
        if has(".ssh") {
            for name in tree.names(&format!("{home}/.ssh")) {
                let path = format!("{home}/.ssh/{name}");
                let head = tree.head(&path, 64).unwrap_or_default();
                if head.starts_with(b"-----BEGIN") && crate::text::lossy(&head).contains("PRIVATE KEY") {
                    push(SecretKind::PrivateKey, path);
                }
            }
        }
    }
    found
}
