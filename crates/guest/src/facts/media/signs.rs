//! Files by which a medium says what it is.

use serde::{Deserialize, Serialize};

use super::{Medium, MediumKind};
use crate::text::{lines, lossy};
use crate::tree::Tree;

/// Bytes of such a file that are looked at, and characters of what it says.
const MAX_TEXT: usize = 16 << 10;
const MAX_WORDS: usize = 200;

/// A file that says what a medium is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sign {
    /// Its path.
    pub path: String,
    /// What it says; of a file that is looked for by its name only, its length.
    pub says: String,
}

/// How a file is read.
type Reader = fn(&str) -> Option<Said>;

/// What a file says, and the name that follows from it.
struct Said {
    says: String,
    name: String,
}

/// Texts: path, what their being there means, how they are read. The first that gives a name gives the medium's.
const TEXTS: [(&str, MediumKind, Reader); 6] = [
    // debian-cd, live-build, Ubuntu's livecd-rootfs; what it is for the rest of the tree tells.
    ("/.disk/info", MediumKind::Unknown, disk_info),
    // Fedora and Red Hat: productmd 1.x.
    ("/.treeinfo", MediumKind::Installer, treeinfo),
    ("/.discinfo", MediumKind::Installer, discinfo),
    // SUSE: libzypp's media.
    ("/media.1/products", MediumKind::Installer, products),
    ("/arch/version", MediumKind::Live, arch),
    ("/.alpine-release", MediumKind::Live, alpine),
];

/// Files whose being there tells: path, what for.
const FILES: [(&str, MediumKind); 8] = [
    ("/sources/install.wim", MediumKind::Installer),
    ("/sources/install.esd", MediumKind::Installer),
    ("/sources/install.swm", MediumKind::Installer),
    ("/sources/boot.wim", MediumKind::Unknown),
    // Ubuntu's server: subiquity installs from layers that are there to be started as well.
    ("/casper/install-sources.yaml", MediumKind::Installer),
    // debian-installer.
    ("/install.amd/vmlinuz", MediumKind::Installer),
    ("/install.a64/vmlinuz", MediumKind::Installer),
    ("/install/vmlinuz", MediumKind::Installer),
];

/// Labels of seeds that cloud-init looks for (DataSourceNoCloud, DataSourceConfigDrive), and their files.
const SEEDS: [(&str, &str, &[&str]); 2] = [
    ("cidata", "cloud-init seed (NoCloud)", &["/meta-data", "/user-data", "/vendor-data", "/network-config"]),
    (
        "config-2",
        "cloud-init seed (config drive)",
        &[
            "/openstack/latest/meta_data.json",
            "/openstack/latest/user_data",
            "/openstack/latest/network_data.json",
            "/openstack/latest/vendor_data.json",
        ],
    ),
];

/// Looks for all of them.
pub(super) fn read(tree: &Tree, medium: &mut Medium) {
    let label = medium.volume.as_ref().map(|volume| volume.label.to_ascii_lowercase()).unwrap_or_default();
    if let Some((_, name, files)) = SEEDS.iter().find(|(known, ..)| *known == label) {
        (medium.kind, medium.name) = (MediumKind::Data, Some((*name).to_owned()));
        medium.signs.extend(files.iter().filter_map(|path| is_there(tree, path)));
        return;
    }
    for (path, kind, reader) in TEXTS {
        let Ok(head) = tree.head(path, MAX_TEXT) else { continue };
        let Some(said) = reader(&lossy(&head)) else { continue };
        medium.signs.push(Sign { path: path.to_owned(), says: short(&said.says) });
        medium.name.get_or_insert(short(&said.name));
        stronger(medium, kind);
    }
    for (path, kind) in FILES {
        let Some(sign) = is_there(tree, path) else { continue };
        medium.signs.push(sign);
        stronger(medium, kind);
        if path.starts_with("/sources/install") {
            medium.name.get_or_insert("Windows".to_owned());
        }
    }
    // live-build's media hold an installer beside the system that they are.
    if tree.names("/live").iter().any(|name| name.ends_with(".squashfs")) {
        medium.kind = MediumKind::Live;
    }
}

/// An installer may be started live to do its work, not the other way round.
fn stronger(medium: &mut Medium, kind: MediumKind) {
    match (medium.kind, kind) {
        (MediumKind::Unknown, _) | (MediumKind::Live, MediumKind::Installer) => medium.kind = kind,
        _ => {}
    }
}

fn is_there(tree: &Tree, path: &str) -> Option<Sign> {
    let stat = tree.stat(path).ok().filter(|stat| stat.kind == crate::fs::Kind::File)?;
    Some(Sign { path: path.to_owned(), says: format!("{} bytes", stat.len) })
}

/// Without what a terminal would act on, and not longer than a line.
fn short(text: &str) -> String {
    text.chars().filter(|sign| !sign.is_control()).take(MAX_WORDS).collect::<String>().trim().to_owned()
}

fn first_line(text: &str) -> Option<&str> {
    text.lines().map(str::trim).find(|line| !line.is_empty())
}

/// `Debian GNU/Linux 12.5.0 "Bookworm" - Official amd64 NETINST with firmware 20240210-11:27`
fn disk_info(text: &str) -> Option<Said> {
    let says = first_line(text)?.to_owned();
    let name = says.split_once(" - ").map_or(says.as_str(), |(name, _)| name).to_owned();
    Some(Said { says, name })
}

/// `[general]`: family, version, arch, variant.
fn treeinfo(text: &str) -> Option<Said> {
    let section: Vec<&str> = lines(text)
        .map(|(_, line)| line)
        .skip_while(|line| *line != "[general]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .collect();
    let value = |key: &str| {
        let mut pairs = section.iter().filter_map(|line| line.split_once('='));
        pairs.find(|(name, _)| name.trim() == key).map_or("", |(_, value)| value.trim())
    };
    let name = format!("{} {}", value("family"), value("version")).trim().to_owned();
    let more: Vec<&str> =
        ["variant", "arch"].into_iter().map(value).filter(|word| !word.is_empty()).collect();
    let says = format!("{name} {}", more.join(" ")).trim().to_owned();
    (!name.is_empty()).then_some(Said { says, name })
}

/// A time, what it is, the architecture, each on a line.
fn discinfo(text: &str) -> Option<Said> {
    let mut words = text.lines().map(str::trim).skip(1);
    let name = words.next().filter(|name| !name.is_empty())?.to_owned();
    let says = format!("{name} {}", words.next().unwrap_or_default());
    // Fedora's says only the version.
    let bare = name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    Some(Said { says, name: if bare { format!("Fedora {name}") } else { name } })
}

/// `/ openSUSE-Leap 15.5-1`: a directory, a product, its version.
fn products(text: &str) -> Option<Said> {
    let says = first_line(text)?;
    let name = says.split_once(' ').map_or(says, |(_, name)| name).to_owned();
    Some(Said { says: says.to_owned(), name })
}

fn arch(text: &str) -> Option<Said> {
    let says = first_line(text)?.to_owned();
    Some(Said { name: format!("Arch Linux {says}"), says })
}

/// `alpine-standard-3.19.0 231207`
fn alpine(text: &str) -> Option<Said> {
    let says = first_line(text)?.to_owned();
    let version = says.split_whitespace().next()?.rsplit('-').next()?;
    Some(Said { name: format!("Alpine Linux {version}"), says })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_media_give_their_names() {
        let name = |reader: Reader, text: &str| reader(text).map(|said| (said.name, said.says));
        let pair = |name: &str, says: &str| Some((name.to_owned(), says.to_owned()));
        let debian =
            "Debian GNU/Linux 12.5.0 \"Bookworm\" - Official amd64 NETINST with firmware 20240210-11:27";
        assert_eq!(name(disk_info, debian), pair("Debian GNU/Linux 12.5.0 \"Bookworm\"", debian));
        let fedora = "[checksums]\nimages/efiboot.img = sha256:00\n\n[general]\n; WARNING.0 = obsolete\narch = x86_64\n\
                      family = Fedora\nname = Fedora 39\nvariant = Server\nversion = 39\n\n[header]\nversion = 1.2\n";
        assert_eq!(name(treeinfo, fedora), pair("Fedora 39", "Fedora 39 Server x86_64"));
        assert_eq!(name(treeinfo, "[header]\nversion = 1.2\n"), None);
        assert_eq!(name(discinfo, "1698864601.5\n39\nx86_64\n"), pair("Fedora 39", "39 x86_64"));
        let red_hat = "1697029342.9\nRed Hat Enterprise Linux 9.3\nx86_64\n1\n";
        let says = "Red Hat Enterprise Linux 9.3 x86_64";
        assert_eq!(name(discinfo, red_hat), pair("Red Hat Enterprise Linux 9.3", says));
        let suse = "/ openSUSE-Leap 15.5-1\n";
        assert_eq!(name(products, suse), pair("openSUSE-Leap 15.5-1", "/ openSUSE-Leap 15.5-1"));
        assert_eq!(name(arch, "2024.01.01\n"), pair("Arch Linux 2024.01.01", "2024.01.01"));
        let alpine_says = "alpine-standard-3.19.0 231207";
        assert_eq!(name(alpine, alpine_says), pair("Alpine Linux 3.19.0", alpine_says));
        assert_eq!(short("a\x1b[31mred\n"), "a[31mred");
    }
}
