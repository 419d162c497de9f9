//! How the guest gets an address.

use kiln_disk::interned::Word;
use serde::{Deserialize, Serialize};

use super::Seen;
use super::yaml::scalars;
use crate::text::{lines, unquoted};
use crate::tree::Tree;

/// What configures the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Network {
    /// Interfaces in all configuration files.
    pub interfaces: Vec<Interface>,
    /// Services that would bring them up: "ifupdown", "networkd", "networkmanager", "wicked", "dhcpcd".
    #[serde(deserialize_with = "kiln_disk::interned::list", default)]
    pub services: Vec<Word>,
    /// Rules and links that give names by address.
    pub udev: Vec<Seen>,
    /// `/etc/resolv.conf`.
    pub resolv_conf: Option<ResolvConf>,
    /// NetworkManager is told to make no connection of its own.
    pub no_auto_default: Option<Seen>,
    /// Firewall configuration that is loaded at boot and drops what it does not know.
    pub firewall: Option<Seen>,
    /// Proxies of package managers.
    pub proxies: Vec<Seen>,
}

/// An interface of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// "ifupdown", "netplan", "ifcfg", "networkmanager", "networkd".
    #[serde(deserialize_with = "kiln_disk::interned::one")]
    pub system: Word,
    /// Its name, or the pattern that it is matched by.
    pub name: String,
    /// Where it is written.
    pub seen: Seen,
    /// It asks for an address.
    pub dhcp: bool,
    /// A fixed address, with its place.
    pub address: Option<(String, Seen)>,
    /// The hardware address it is bound to, with its place.
    pub mac: Option<(String, Seen)>,
    /// Where it is told to have an address of IPv6.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ipv6: Option<Seen>,
}

impl Interface {
    fn new(system: &'static str, name: &str, seen: Seen) -> Self {
        Self { system, name: name.to_owned(), seen, dhcp: false, address: None, mac: None, ipv6: None }
    }

    /// Notes a fixed address. One of IPv4 is kept before one of IPv6.
    fn addressed(&mut self, address: String, seen: Seen) {
        if address.contains(':') {
            self.ipv6 = Some(seen.clone());
            if self.address.is_some() {
                return;
            }
        }
        self.address = Some((address, seen));
    }

    /// Whether it asks for or has an address of IPv4.
    #[must_use]
    pub fn has_ipv4(&self) -> bool {
        let fixed = |(address, _): &(String, Seen)| match address.as_str() {
            "" => self.ipv6.is_none(),
            address => !address.contains(':'),
        };
        self.dhcp || self.address.as_ref().is_some_and(fixed)
    }

    /// Whether it is one that leads out.
    #[must_use]
    pub fn is_real(&self) -> bool {
        self.name != "lo" && !self.name.starts_with("lo:")
    }

    /// Whether it is matched by a pattern rather than by a name.
    #[must_use]
    pub fn is_pattern(&self) -> bool {
        self.name.contains('*') || self.name.is_empty()
    }
}

/// `/etc/resolv.conf`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvConf {
    /// Where it leads, when it is a link.
    pub link: Option<String>,
    /// Name servers written in it.
    pub servers: Vec<String>,
}

/// Reads all that is known of.
#[must_use]
pub fn read(tree: &Tree) -> Network {
    let mut found = Network::default();
    ifupdown(tree, &mut found.interfaces);
    netplan(tree, &mut found.interfaces);
    ifcfg(tree, &mut found.interfaces);
    keyfiles(tree, &mut found.interfaces);
    networkd(tree, &mut found);
    udev(tree, &mut found.udev);
    found.services = services(tree);
    found.resolv_conf = resolv_conf(tree);
    for dir in ["/etc/NetworkManager/conf.d", "/usr/lib/NetworkManager/conf.d"] {
        for name in tree.names(dir) {
            let path = format!("{dir}/{name}");
            let text = tree.text(&path).unwrap_or_default();
            let line = lines(&text).find(|(_, line)| line.replace(' ', "").starts_with("no-auto-default=*"));
            if let Some((line, _)) = line {
                found.no_auto_default = Some(Seen::line(path, line));
            }
        }
    }
    found.firewall = firewall(tree);
    proxies(tree, &mut found.proxies);
    found
}

/// Whether a unit of systemd is started: some `.wants` or `.requires` names it.
pub(crate) fn enabled(tree: &Tree, unit: &str) -> bool {
    ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"].iter().any(|base| {
        [
            "multi-user.target",
            "network-online.target",
            "network.target",
            "sysinit.target",
            "cloud-init.target",
            "default.target",
            "sockets.target",
            "cloud-config.target",
            "sshd-keygen.target",
        ]
        .iter()
        .any(|target| tree.exists_link(&format!("{base}/{target}.wants/{unit}")))
    }) && !masked(tree, unit)
}

/// Whether a unit is masked.
pub(crate) fn masked(tree: &Tree, unit: &str) -> bool {
    tree.read_link(&format!("/etc/systemd/system/{unit}")).is_ok_and(|target| target == "/dev/null")
}

fn services(tree: &Tree) -> Vec<&'static str> {
    let units = [
        ("networking.service", "ifupdown"),
        ("systemd-networkd.service", "networkd"),
        ("NetworkManager.service", "networkmanager"),
        ("wicked.service", "wicked"),
        ("network.service", "network-scripts"),
        ("dhcpcd.service", "dhcpcd"),
    ];
    let mut found: Vec<&'static str> =
        units.iter().filter(|(unit, _)| enabled(tree, unit)).map(|(_, name)| *name).collect();
    // netplan starts networkd itself.
    if !found.contains(&"networkd")
        && tree.exists("/usr/sbin/netplan")
        && !tree.names("/etc/netplan").is_empty()
    {
        found.push("networkd");
    }
    found
}

fn ifupdown(tree: &Tree, found: &mut Vec<Interface>) {
    let mut files = vec!["/etc/network/interfaces".to_owned()];
    files.extend(
        tree.names("/etc/network/interfaces.d")
            .iter()
            .map(|name| format!("/etc/network/interfaces.d/{name}")),
    );
    for path in files {
        let text = tree.text(&path).unwrap_or_default();
        found.extend(parse_interfaces(&text, &path));
    }
}

/// interfaces(5).
fn parse_interfaces(text: &str, path: &str) -> Vec<Interface> {
    let mut found: Vec<Interface> = Vec::new();
    for (number, line) in lines(text) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match (words.as_slice(), found.last_mut()) {
            (["iface", name, family, method, ..], _) => {
                let mut fresh = Interface::new("ifupdown", name, Seen::line(path, number));
                fresh.dhcp = *method == "dhcp" && *family == "inet";
                if *method == "static" {
                    fresh.address = Some((String::new(), Seen::line(path, number)));
                }
                if *family == "inet6" && matches!(*method, "auto" | "dhcp" | "static") {
                    fresh.ipv6 = Some(Seen::line(path, number));
                }
                found.push(fresh);
            }
            (["address", address, ..], Some(open)) if open.address.is_some() => {
                open.address = Some(((*address).to_owned(), Seen::line(path, number)));
            }
            (["hwaddress", rest @ ..], Some(open)) => {
                if let Some(mac) = rest.last() {
                    open.mac = Some(((*mac).to_owned(), Seen::line(path, number)));
                }
            }
            _ => {}
        }
    }
    found
}

fn netplan(tree: &Tree, found: &mut Vec<Interface>) {
    for dir in ["/etc/netplan", "/run/netplan", "/lib/netplan"] {
        for name in tree.names(dir).iter().filter(|name| name.ends_with(".yaml")) {
            let path = format!("{dir}/{name}");
            found.extend(parse_netplan(&tree.text(&path).unwrap_or_default(), &path));
        }
    }
}

fn parse_netplan(text: &str, path: &str) -> Vec<Interface> {
    let mut found: Vec<Interface> = Vec::new();
    for scalar in scalars(text) {
        let [network, kind, name, rest @ ..] = scalar.keys.as_slice() else { continue };
        if network != "network"
            || !matches!(kind.as_str(), "ethernets" | "bonds" | "bridges" | "vlans" | "wifis")
        {
            continue;
        }
        let seen = Seen::line(path, scalar.line);
        if !found.iter().any(|known| known.name == *name) {
            found.push(Interface::new("netplan", name, seen.clone()));
        }
        let Some(open) = found.iter_mut().rev().find(|known| known.name == *name) else { continue };
        let keys: Vec<&str> = rest.iter().map(String::as_str).collect();
        match keys.as_slice() {
            ["dhcp4"] => open.dhcp = matches!(scalar.value.as_str(), "true" | "yes" | "on"),
            ["dhcp6"] if matches!(scalar.value.as_str(), "true" | "yes" | "on") => open.ipv6 = Some(seen),
            ["addresses"] => open.addressed(scalar.value, seen),
            ["match", "macaddress"] => open.mac = Some((scalar.value, seen)),
            _ => {}
        }
    }
    found
}

fn ifcfg(tree: &Tree, found: &mut Vec<Interface>) {
    for dir in ["/etc/sysconfig/network-scripts", "/etc/sysconfig/network"] {
        for file in tree.names(dir) {
            let Some(name) = file.strip_prefix("ifcfg-") else { continue };
            let path = format!("{dir}/{file}");
            let text = tree.text(&path).unwrap_or_default();
            let mut fresh = Interface::new("ifcfg", name, Seen::file(path.clone()));
            for (number, line) in lines(&text) {
                let Some((key, value)) = line.split_once('=') else { continue };
                let (value, seen) = (unquoted(value.trim()), Seen::line(path.clone(), number));
                match key.trim() {
                    "BOOTPROTO" if value.eq_ignore_ascii_case("dhcp") || value.starts_with("dhcp") => {
                        fresh.dhcp = true;
                    }
                    "IPADDR" | "IPADDR0" if !value.is_empty() => {
                        fresh.address = Some((value.to_owned(), seen));
                    }
                    "HWADDR" | "MACADDR" if !value.is_empty() => fresh.mac = Some((value.to_owned(), seen)),
                    "IPV6_AUTOCONF" | "DHCPV6C" if value.eq_ignore_ascii_case("yes") => {
                        fresh.ipv6 = Some(seen);
                    }
                    "IPV6ADDR" if !value.is_empty() => fresh.ipv6 = Some(seen),
                    "DEVICE" => value.clone_into(&mut fresh.name),
                    _ => {}
                }
            }
            found.push(fresh);
        }
    }
}

/// Sections and their assignments of an ini file: section, key, value, line.
fn ini(text: &str) -> Vec<(String, String, String, u32)> {
    let (mut section, mut found) = (String::new(), Vec::new());
    for (number, line) in lines(text) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
        } else if let Some((key, value)) = line.split_once('=')
            && !line.starts_with(';')
        {
            found.push((section.clone(), key.trim().to_owned(), value.trim().to_owned(), number));
        }
    }
    found
}

fn keyfiles(tree: &Tree, found: &mut Vec<Interface>) {
    let dir = "/etc/NetworkManager/system-connections";
    for file in tree.names(dir) {
        let path = format!("{dir}/{file}");
        let mut fresh = Interface::new("networkmanager", "", Seen::file(path.clone()));
        for (section, key, value, number) in ini(&tree.text(&path).unwrap_or_default()) {
            let seen = Seen::line(path.clone(), number);
            match (section.as_str(), key.as_str()) {
                ("connection", "interface-name") => fresh.name = value,
                ("ipv4", "method") => fresh.dhcp = value == "auto",
                ("ipv4", "address1" | "addresses" | "address") => fresh.address = Some((value, seen)),
                ("ipv6", "method") if matches!(value.as_str(), "auto" | "dhcp" | "manual") => {
                    fresh.ipv6 = Some(seen);
                }
                ("ethernet" | "802-3-ethernet", "mac-address") => fresh.mac = Some((value, seen)),
                _ => {}
            }
        }
        found.push(fresh);
    }
}

fn networkd(tree: &Tree, found: &mut Network) {
    for dir in ["/etc/systemd/network", "/usr/lib/systemd/network", "/lib/systemd/network"] {
        for file in tree.names(dir) {
            let path = format!("{dir}/{file}");
            // What systemd itself brings is for containers and other special interfaces.
            let own = dir.starts_with("/etc");
            if file.ends_with(".network") && own {
                found.interfaces.push(parse_network(&tree.text(&path).unwrap_or_default(), &path));
            } else if file.ends_with(".link") && own {
                for (section, key, _, number) in ini(&tree.text(&path).unwrap_or_default()) {
                    if section == "Match" && matches!(key.as_str(), "MACAddress" | "PermanentMACAddress") {
                        found.udev.push(Seen::line(path.clone(), number));
                    }
                }
            }
        }
    }
}

/// systemd.network(5).
fn parse_network(text: &str, path: &str) -> Interface {
    let mut fresh = Interface::new("networkd", "", Seen::file(path));
    for (section, key, value, number) in ini(text) {
        let seen = Seen::line(path, number);
        match (section.as_str(), key.as_str()) {
            ("Match", "Name") => fresh.name = value,
            ("Match", "MACAddress" | "PermanentMACAddress") => fresh.mac = Some((value, seen)),
            ("Network", "DHCP") => {
                fresh.dhcp = matches!(value.as_str(), "yes" | "ipv4" | "true" | "both");
                if value == "ipv6" {
                    fresh.ipv6 = Some(seen);
                }
            }
            ("Network", "IPv6AcceptRA") if matches!(value.as_str(), "yes" | "true" | "1") => {
                fresh.ipv6 = Some(seen);
            }
            ("Network" | "Address", "Address") => fresh.addressed(value, seen),
            _ => {}
        }
    }
    fresh
}

fn udev(tree: &Tree, found: &mut Vec<Seen>) {
    let dir = "/etc/udev/rules.d";
    for file in tree.names(dir).iter().filter(|file| file.ends_with(".rules")) {
        let path = format!("{dir}/{file}");
        let text = tree.text(&path).unwrap_or_default();
        let by_address = lines(&text).find(|(_, line)| {
            line.contains("SUBSYSTEM==\"net\"") && line.contains("address}==") && line.contains("NAME=")
        });
        if let Some((line, _)) = by_address {
            found.push(Seen::line(path, line));
        }
    }
}

fn resolv_conf(tree: &Tree) -> Option<ResolvConf> {
    let stat = tree.stat_link("/etc/resolv.conf").ok()?;
    let link =
        (stat.kind == crate::fs::Kind::Link).then(|| tree.read_link("/etc/resolv.conf").ok()).flatten();
    let text = tree.text("/etc/resolv.conf").unwrap_or_default();
    let servers = lines(&text)
        .filter_map(|(_, line)| line.strip_prefix("nameserver "))
        .map(|name| name.trim().to_owned());
    Some(ResolvConf { link, servers: servers.collect() })
}

/// A default of DROP or REJECT in a rule set that is loaded at boot, without a rule for port 22.
fn firewall(tree: &Tree) -> Option<Seen> {
    let files = [
        ("/etc/iptables/rules.v4", "netfilter-persistent.service"),
        ("/etc/sysconfig/iptables", "iptables.service"),
        ("/etc/nftables.conf", "nftables.service"),
        ("/etc/sysconfig/nftables.conf", "nftables.service"),
    ];
    for (path, unit) in files {
        let Some(text) = tree.text(path).filter(|_| enabled(tree, unit)) else { continue };
        let opens = text.contains("--dport 22")
            || text.contains("dport ssh")
            || text.contains("dport 22")
            || (text.contains("dport {") && text.contains("22"));
        let drops = lines(&text).find(|(_, line)| {
            line.starts_with(":INPUT DROP")
                || (line.contains("hook input") && line.contains("policy drop"))
                || line.starts_with("-A INPUT -j REJECT")
                || line.starts_with("-A INPUT -j DROP")
        });
        if let (Some((line, _)), false) = (drops, opens) {
            return Some(Seen::line(path, line));
        }
    }
    let ufw = tree.text("/etc/ufw/ufw.conf").unwrap_or_default();
    if crate::text::assigned(&ufw, "ENABLED").as_deref() == Some("yes") {
        let rules =
            tree.text("/etc/ufw/user.rules").or_else(|| tree.text("/lib/ufw/user.rules")).unwrap_or_default();
        if !rules.contains("--dport 22") && !rules.contains("OpenSSH") {
            return Some(Seen::file("/etc/ufw/user.rules"));
        }
    }
    firewalld(tree)
}

/// The default zone of firewalld, where it is started and does not name SSH (firewalld.zone(5)).
fn firewalld(tree: &Tree) -> Option<Seen> {
    if !enabled(tree, "firewalld.service") {
        return None;
    }
    let conf = tree.text("/etc/firewalld/firewalld.conf").unwrap_or_default();
    let zone = crate::text::assigned(&conf, "DefaultZone").unwrap_or_else(|| "public".to_owned());
    let paths = ["/etc/firewalld/zones", "/usr/lib/firewalld/zones"].map(|dir| format!("{dir}/{zone}.xml"));
    let path = paths.into_iter().find(|path| tree.exists(path)).filter(|_| !zone.contains('/'))?;
    let text = tree.text(&path)?;
    let opens =
        ["target=\"ACCEPT\"", "service name=\"ssh\"", "port=\"22\""].iter().any(|word| text.contains(word));
    (!opens).then(|| Seen::file(path))
}

fn proxies(tree: &Tree, found: &mut Vec<Seen>) {
    let mut files = vec![
        "/etc/yum.conf".to_owned(),
        "/etc/dnf/dnf.conf".to_owned(),
        "/etc/apt/apt.conf".to_owned(),
        "/etc/environment".to_owned(),
    ];
    files.extend(tree.names("/etc/apt/apt.conf.d").iter().map(|name| format!("/etc/apt/apt.conf.d/{name}")));
    for path in files {
        let text = tree.text(&path).unwrap_or_default();
        let line = lines(&text).find(|(_, line)| {
            let low = line.to_lowercase();
            !low.starts_with("//")
                && ((low.starts_with("acquire") && low.contains("proxy ") && low.contains("http"))
                    || low.starts_with("proxy=")
                    || low.starts_with("http_proxy=")
                    || low.starts_with("https_proxy="))
        });
        if let Some((line, _)) = line {
            found.push(Seen::line(path, line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_of_ifupdown_have_method_address_and_hardware_address() {
        let text = "auto lo\niface lo inet loopback\nallow-hotplug ens3\niface ens3 inet static\n  address 10.0.0.2/24\n  hwaddress ether 52:54:00:aa:bb:cc\niface eth0 inet dhcp\n";
        let found = parse_interfaces(text, "/etc/network/interfaces");
        let short: Vec<_> = found.iter().map(|i| (i.name.as_str(), i.dhcp, i.is_real())).collect();
        assert_eq!(short, [("lo", false, false), ("ens3", false, true), ("eth0", true, true)]);
        assert_eq!(
            found[1].address,
            Some(("10.0.0.2/24".to_owned(), Seen::line("/etc/network/interfaces", 5)))
        );
        assert_eq!(
            found[1].mac,
            Some(("52:54:00:aa:bb:cc".to_owned(), Seen::line("/etc/network/interfaces", 6)))
        );
    }

    #[test]
    fn network_units_of_systemd_are_read() {
        let found = parse_network("[Match]\nName=en* eth*\n[Network]\nDHCP=yes\n", "/x");
        assert!(found.dhcp && found.is_pattern());
        let found =
            parse_network("[Match]\nMACAddress=52:54:00:aa:bb:cc\n[Network]\nAddress=10.0.0.2/24\n", "/x");
        assert_eq!(
            (found.mac.unwrap().1, found.address.unwrap().1),
            (Seen::line("/x", 2), Seen::line("/x", 4))
        );
    }

    #[test]
    fn netplan_interfaces_keep_their_own_keys() {
        let text = "network:\n  ethernets:\n    a:\n      dhcp4: true\n      match:\n        macaddress: 52:54:00:aa:bb:cc\n    b:\n      addresses: [10.0.0.2/24]\n";
        let found = parse_netplan(text, "/n");
        assert_eq!((found.len(), found[0].dhcp, found[1].dhcp), (2, true, false));
        assert_eq!(found[0].mac.as_ref().unwrap().1, Seen::line("/n", 6));
        assert_eq!(found[1].address.as_ref().unwrap().0, "10.0.0.2/24");
    }
}
