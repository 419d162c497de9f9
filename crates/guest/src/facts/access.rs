//! Who can log in, and how. Hashes of passwords are looked at and never kept.

use serde::{Deserialize, Serialize};

use super::Seen;
use super::network::{enabled, masked};
use crate::text::lines;
use crate::tree::Tree;

/// The SSH server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Ssh {
    /// The program.
    pub installed: Option<Seen>,
    /// It is started at boot.
    pub enabled: bool,
    /// Host keys that lie in the image.
    pub host_keys: Vec<Seen>,
    /// Something makes host keys where none are.
    pub makes_keys: bool,
    /// Settings with their places, the first of a name, as sshd takes them.
    pub settings: Vec<(String, String, Seen)>,
}

impl Ssh {
    /// A setting.
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<(&str, &Seen)> {
        let found = self.settings.iter().find(|(known, ..)| known.eq_ignore_ascii_case(name))?;
        Some((found.1.as_str(), &found.2))
    }
}

/// How a password is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Password {
    /// No password will do.
    Locked,
    /// Any password will do.
    Empty,
    /// One is set.
    Set,
    /// One is set, with a method that is broken (DES, MD5).
    Weak,
    /// Nothing is known.
    Unknown,
}

/// A user that can log in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Home directory.
    pub home: String,
    /// Shell.
    pub shell: String,
    /// Password.
    pub password: Password,
    /// Where.
    pub seen: Seen,
    /// Keys that open it.
    pub authorized_keys: u32,
    /// The file of these keys.
    pub authorized_keys_seen: Option<Seen>,
}

/// Users of which more than the name is looked at.
const MAX_USERS: usize = 200;

/// Private host keys of the SSH server.
#[must_use]
pub(crate) fn host_keys(tree: &Tree) -> Vec<Seen> {
    let names = tree.names("/etc/ssh");
    let keys = names.iter().filter(|name| name.starts_with("ssh_host_") && name.ends_with("_key"));
    keys.map(|name| Seen::file(format!("/etc/ssh/{name}"))).collect()
}

/// Reads the SSH server's installation.
#[must_use]
pub fn ssh(tree: &Tree) -> Ssh {
    let programs = ["/usr/sbin/sshd", "/usr/bin/sshd", "/usr/sbin/dropbear", "/usr/bin/dropbear"];
    let installed = programs.into_iter().find(|path| tree.exists(path)).map(Seen::file);
    let units = ["ssh.service", "sshd.service", "ssh.socket", "sshd.socket", "dropbear.service"];
    let on = units.iter().any(|unit| enabled(tree, unit))
        || tree.exists_link("/etc/runlevels/default/sshd")
        || tree.names("/etc/rc3.d").iter().any(|name| name.starts_with('S') && name.contains("ssh"));
    let host_keys = host_keys(tree);
    let units_making =
        ["sshd-keygen@.service", "sshd-keygen.service", "ssh-keygen.service", "sshdgenkeys.service"];
    let dirs = ["/usr/lib/systemd/system", "/lib/systemd/system", "/etc/systemd/system"];
    let overridden = tree.names("/etc/systemd/system/ssh.service.d").iter().any(|name| {
        let text = tree.text(&format!("/etc/systemd/system/ssh.service.d/{name}")).unwrap_or_default();
        text.contains("ssh-keygen -A")
    });
    let unit = units_making
        .iter()
        .any(|unit| dirs.iter().any(|dir| tree.exists(&format!("{dir}/{unit}"))) && !masked(tree, unit));
    Ssh { installed, enabled: on, host_keys, makes_keys: overridden || unit, settings: settings(tree) }
}

/// Settings outside of `Match`, files of sshd_config.d where they are included.
fn settings(tree: &Tree) -> Vec<(String, String, Seen)> {
    let main = "/etc/ssh/sshd_config";
    let text = tree.text(main).unwrap_or_default();
    let mut found = Vec::new();
    for (number, line) in lines(&text) {
        let Some((key, value)) = line.split_once(|c: char| c.is_whitespace() || c == '=') else { continue };
        if key.eq_ignore_ascii_case("match") {
            break;
        }
        if key.eq_ignore_ascii_case("include") && value.contains("sshd_config.d") {
            for name in tree.names("/etc/ssh/sshd_config.d").iter().filter(|name| name.ends_with(".conf")) {
                let path = format!("/etc/ssh/sshd_config.d/{name}");
                let text = tree.text(&path).unwrap_or_default();
                found.extend(lines(&text).filter_map(|(number, line)| {
                    let (key, value) = line.split_once(char::is_whitespace)?;
                    Some((key.to_owned(), value.trim().to_owned(), Seen::line(path.clone(), number)))
                }));
            }
            continue;
        }
        found.push((key.to_owned(), value.trim().to_owned(), Seen::line(main, number)));
    }
    found
}

/// Reads the users that have a shell.
#[must_use]
pub fn accounts(tree: &Tree) -> Vec<Account> {
    let text = tree.text("/etc/passwd").unwrap_or_default();
    let shadow = tree.text("/etc/shadow").unwrap_or_default();
    let mut found = Vec::new();
    for (number, line) in lines(&text) {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, password, uid, _, _, home, shell] = fields.as_slice() else { continue };
        let no_shell =
            ["nologin", "false", "sync", "shutdown", "halt"].iter().any(|end| shell.ends_with(end));
        let uid: u32 = uid.parse().unwrap_or(u32::MAX);
        if (no_shell && uid != 0) || found.len() >= MAX_USERS {
            continue;
        }
        let hidden = lines(&shadow).find_map(|(_, line)| line.strip_prefix(name)?.strip_prefix(':'));
        let password = match (*password, hidden) {
            ("x", Some(rest)) => judged(rest.split(':').next().unwrap_or_default()),
            ("x", None) => Password::Unknown,
            (open, _) => judged(open),
        };
        let files = [format!("{home}/.ssh/authorized_keys"), format!("{home}/.ssh/authorized_keys2")];
        let keys = files.into_iter().find_map(|path| {
            let text = tree.text(&path)?;
            let count =
                lines(&text).filter(|(_, line)| line.contains("ssh-") || line.contains("ecdsa-")).count();
            u32::try_from(count).ok().filter(|count| *count > 0).map(|count| (count, Seen::file(path)))
        });
        found.push(Account {
            name: (*name).to_owned(),
            uid,
            home: (*home).to_owned(),
            shell: (*shell).to_owned(),
            password,
            seen: Seen::line("/etc/passwd", number),
            authorized_keys: keys.as_ref().map_or(0, |(count, _)| *count),
            authorized_keys_seen: keys.map(|(_, seen)| seen),
        });
    }
    found
}

/// What a field of shadow(5) says about a password.
fn judged(field: &str) -> Password {
    match field {
        "" => Password::Empty,
        _ if field.starts_with(['!', '*']) => Password::Locked,
        _ if field.starts_with("$1$") || !field.starts_with('$') => Password::Weak,
        _ => Password::Set,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_told_apart_without_being_kept() {
        let cases = [
            ("", Password::Empty),
            ("!", Password::Locked),
            ("!$6$x$y", Password::Locked),
            ("*", Password::Locked),
            ("$1$a$b", Password::Weak),
            ("ab0123456789c", Password::Weak),
            ("$6$a$b", Password::Set),
            ("$y$j9T$a$b", Password::Set),
        ];
        for (field, expected) in cases {
            assert_eq!(judged(field), expected, "{field}");
        }
    }
}
