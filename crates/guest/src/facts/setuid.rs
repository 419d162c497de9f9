//! Programs that give their caller the rights of root, and directories of programs that anybody may write to.

use serde::{Deserialize, Serialize};

use super::Seen;
use super::access::Account;
use crate::fs::{FsError, Kind};
use crate::tree::Tree;

/// What was found, as far as it was looked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SetUid {
    /// Programs of root with the set-uid bit that no distribution ships under that name.
    pub unknown: Vec<Seen>,
    /// Programs with the set-uid bit of root where none belongs: in homes and temporary directories.
    pub misplaced: Vec<Seen>,
    /// Programs of root with the set-uid bit that others may write to.
    pub writable: Vec<Seen>,
    /// Directories of programs that anybody may write to, with their permission bits.
    pub open: Vec<(Seen, u32)>,
    /// Why not everything was looked at.
    pub cut: Option<String>,
}

/// Where programs are looked for by shells and services, and where their helpers lie.
const PROGRAMS: [&str; 9] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
    "/usr/libexec",
    "/usr/lib/openssh",
    "/usr/lib/dbus-1.0",
];
/// Directories of helpers are not in `PATH`.
const IN_PATH: usize = 6;
/// Names that are looked at in all: a system of ours has 1500 there, a large desktop 6000.
const MAX_NAMES: usize = 20_000;
/// Findings of one kind that are kept.
const MAX_FOUND: usize = 100;

/// Programs that packages of Debian, Ubuntu, Red Hat, SUSE and Alpine ship with the set-uid bit of root.
const KNOWN: [&str; 104] = [
    "Xorg",
    "Xorg.wrap",
    "abrt-action-install-debuginfo-to-abrt-cache",
    "amcheck",
    "apptainer",
    "arping",
    "at",
    "batch",
    "bbsuid",
    "bwrap",
    "cdda2wav",
    "cdrecord",
    "chage",
    "chfn",
    "chkpwd",
    "chrome-sandbox",
    "chsh",
    "clockdiff",
    "cockpit-session",
    "crontab",
    "dbus-daemon-launch-helper",
    "dma",
    "dmcrypt-get-device",
    "doas",
    "ecryptfs_mount_private",
    "exim",
    "exim4",
    "expiry",
    "firejail",
    "fping",
    "fping6",
    "fusermount",
    "fusermount3",
    "gpasswd",
    "gnome-pty-helper",
    "grub2-set-bootflag",
    "gst-ptp-helper",
    "incus-user-nic",
    "kppp",
    "krb5_child",
    "ksu",
    "ldap_child",
    "lppasswd",
    "lxc-user-nic",
    "mount",
    "mount.cifs",
    "mount.davfs",
    "mount.ecryptfs_private",
    "mount.ncp",
    "mount.nfs",
    "mount.nfs4",
    "mtr",
    "mtr-packet",
    "newgidmap",
    "newgrp",
    "newuidmap",
    "ntfs-3g",
    "nvidia-modprobe",
    "opiepasswd",
    "opiesu",
    "p11_child",
    "pam-tmpdir-helper",
    "pam_extrausers_chkpwd",
    "pam_timestamp_check",
    "passwd",
    "ping",
    "ping6",
    "pkexec",
    "polkit-agent-helper-1",
    "pppd",
    "pppoe-wrapper",
    "procmail",
    "proxy_child",
    "pt_chown",
    "qemu-bridge-helper",
    "rcp",
    "rlogin",
    "rsh",
    "selinux_child",
    "seunshare",
    "sg",
    "snap-confine",
    "spice-client-glib-usb-acl-helper",
    "ssh-keysign",
    "staprun",
    "starter-suid",
    "su",
    "sudo",
    "sudoedit",
    "sudo-rs",
    "su-rs",
    "suexec",
    "suexec2",
    "sendmail",
    "traceroute6.iputils",
    "umount",
    "umount.nfs",
    "umount.nfs4",
    "unix2_chkpwd",
    "unix_chkpwd",
    "userhelper",
    "usernetctl",
    "vmware-user-suid-wrapper",
    "wodim",
];

/// Looks in the directories of programs, in temporary ones and in homes, one level deep.
pub(super) fn read(tree: &Tree, accounts: &[Account]) -> SetUid {
    let mut look = Look { tree, found: SetUid::default(), left: MAX_NAMES };
    let mut seen = Vec::new();
    for (index, dir) in PROGRAMS.iter().enumerate() {
        // /bin is a link to /usr/bin in most.
        let Ok(place) = tree.resolve(dir.as_bytes(), true) else { continue };
        if seen.contains(&place) {
            continue;
        }
        seen.push(place);
        if index < IN_PATH {
            look.directory(dir);
        }
        look.files(dir, false);
    }
    let homes = accounts.iter().map(|account| account.home.as_str()).filter(|home| home.starts_with('/'));
    let mut odd: Vec<&str> = ["/tmp", "/var/tmp", "/dev/shm"].into_iter().chain(homes).collect();
    odd.sort_unstable();
    odd.dedup();
    for dir in odd {
        let Ok(place) = tree.resolve(dir.as_bytes(), true) else { continue };
        if place != b"/" && !seen.contains(&place) {
            seen.push(place);
            look.files(dir, true);
        }
    }
    look.found
}

struct Look<'a> {
    tree: &'a Tree,
    found: SetUid,
    left: usize,
}

impl Look<'_> {
    fn directory(&mut self, dir: &str) {
        let Ok(stat) = self.tree.stat(dir) else { return };
        // Others may write, and take away what is not theirs.
        if let Some(mode) = stat.mode.filter(|mode| mode & 0o1002 == 0o0002) {
            self.found.open.push((Seen::file(dir), mode));
        }
    }

    fn files(&mut self, dir: &str, odd: bool) {
        let entries = match self.tree.list_stat(dir, self.left) {
            Ok(entries) => entries,
            Err(FsError::NotFound | FsError::WrongKind) => return,
            Err(error) => {
                self.found.cut = Some(format!("{dir}: {}", super::root::told(&error)));
                return;
            }
        };
        self.left = self.left.saturating_sub(entries.len());
        if self.left == 0 {
            self.found.cut = Some(format!("only the first {MAX_NAMES} programs were looked at"));
        }
        for (entry, stat) in entries {
            if stat.kind != Kind::File {
                continue;
            }
            let Some(mode) = stat.mode else {
                self.found.cut =
                    Some(format!("the file system of {dir} has no permissions that could be read"));
                return;
            };
            if mode & 0o4000 == 0 || mode & 0o111 == 0 || stat.uid.is_some_and(|uid| uid != 0) {
                continue;
            }
            let name = crate::text::lossy(&entry.name);
            let seen = Seen::file(format!("{dir}/{name}"));
            let list = match () {
                () if odd => &mut self.found.misplaced,
                () if mode & 0o022 != 0 => &mut self.found.writable,
                () if !KNOWN.contains(&name.as_str()) => &mut self.found.unknown,
                () => continue,
            };
            if list.len() < MAX_FOUND {
                list.push(seen);
            }
        }
    }
}
