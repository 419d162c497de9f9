//! Rules of the network.

use super::{Case, Hits, Impact};
use crate::facts::Seen;
use crate::facts::network::Interface;

/// Whether cloud-init will write the network's configuration at the first start.
fn rendered(case: &Case<'_>) -> bool {
    case.report.cloud_init.as_ref().is_some_and(|init| init.enabled && init.network_disabled.is_none())
}

/// Interfaces that a running service would bring up.
fn live<'a>(case: &'a Case<'_>) -> impl Iterator<Item = &'a Interface> {
    case.report.network.interfaces.iter().filter(|interface| interface.is_real())
}

/// Names that a virtual machine's first interface can have there.
fn will_match(case: &Case<'_>, interface: &Interface) -> bool {
    let patterns: Vec<&str> = interface.name.split_whitespace().collect();
    if patterns.is_empty() {
        return true;
    }
    let old_names = keeps_kernel_names(case);
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => ["e", "en", "eth", "ens", "enp", "eno", ""].contains(&prefix),
        None => *pattern == "eth0" && (old_names || case.place.id == "tencent") || *pattern == "all-en",
    })
}

/// Whether the first card is called eth0, because nothing gives it the name of its place: udev was told not to, its
/// rule is masked, or there is no such rule, as where busybox or an old udev makes the devices (Alpine, Linux of 2012).
fn keeps_kernel_names(case: &Case<'_>) -> bool {
    let tree = &case.examination.tree;
    let masked = |path: &str| {
        tree.read_link(path).is_ok_and(|target| target == "/dev/null")
            || tree.text(path).is_some_and(|text| text.trim().is_empty())
    };
    let rules = ["80-net-setup-link.rules", "80-net-name-slot.rules"];
    let none = rules
        .iter()
        .flat_map(|rule| [format!("/usr/lib/udev/rules.d/{rule}"), format!("/lib/udev/rules.d/{rule}")])
        .all(|path| !tree.exists_link(&path));
    none || case.report.boot.entries.iter().any(|entry| entry.default && entry.has("net.ifnames=0"))
        || rules.iter().any(|rule| masked(&format!("/etc/udev/rules.d/{rule}")))
        || masked("/etc/systemd/network/99-default.link")
}

/// net.dhcp
pub(super) fn dhcp(case: &Case<'_>, hits: &mut Hits) {
    if !case.is_linux() {
        return;
    }
    let services = &case.report.network.services;
    let asks = live(case).any(|interface| interface.dhcp && interface.mac.is_none());
    let automatic = services.contains(&"networkmanager") && case.report.network.no_auto_default.is_none();
    for interface in live(case) {
        if let Some((address, seen)) = &interface.address {
            let what = if address.is_empty() {
                format!("{} has a fixed address", interface.name)
            } else {
                format!("{} has the fixed address {address}", named(interface))
            };
            if asks {
                hits.add_as(Impact::Advice, what, seen.clone());
            } else {
                hits.add(what, seen.clone());
            }
        }
    }
    let fixed = live(case).any(|interface| interface.address.is_some());
    if !asks && !fixed && !rendered(case) && !automatic {
        let pinned = live(case).any(|interface| interface.mac.is_some());
        if services.is_empty() && live(case).next().is_none() {
            hits.add("nothing asks for an address: no network service is configured", Seen::file("/etc"));
        } else if !pinned {
            let seen =
                live(case).next().map_or(Seen::file("/etc/network"), |interface| interface.seen.clone());
            hits.add("no interface asks for an address by DHCP", seen);
        }
    }
}

fn named(interface: &Interface) -> &str {
    if interface.name.is_empty() { "an interface" } else { &interface.name }
}

/// net.mac
pub(super) fn mac(case: &Case<'_>, hits: &mut Hits) {
    for interface in live(case) {
        if let Some((mac, seen)) = &interface.mac {
            hits.add(format!("{} is bound to the hardware address {mac}", named(interface)), seen.clone());
        }
    }
}

/// net.udev
pub(super) fn udev(case: &Case<'_>, hits: &mut Hits) {
    for seen in &case.report.network.udev {
        hits.add("an interface is named by its hardware address", seen.clone());
    }
}

/// net.ifname
pub(super) fn ifname(case: &Case<'_>, hits: &mut Hits) {
    let usable = live(case).any(|interface| {
        interface.dhcp && interface.mac.is_none() && (interface.is_pattern() || will_match(case, interface))
    });
    let automatic = case.report.network.services.contains(&"networkmanager")
        && case.report.network.no_auto_default.is_none();
    if usable || automatic {
        return;
    }
    for interface in live(case).filter(|interface| interface.dhcp && interface.mac.is_none()) {
        if !interface.is_pattern() && !will_match(case, interface) {
            let what = format!(
                "{} is the name on another machine; the card will have another name there",
                interface.name
            );
            if rendered(case) {
                hits.add_as(
                    Impact::Advice,
                    format!("{what} (cloud-init writes its own)"),
                    interface.seen.clone(),
                );
            } else {
                hits.add(what, interface.seen.clone());
            }
        }
    }
}

/// net.dns
pub(super) fn dns(case: &Case<'_>, hits: &mut Hits) {
    let Some(conf) = &case.report.network.resolv_conf else { return };
    let foreign = conf.servers.iter().find(|server| !server.starts_with("127.") && *server != "::1");
    if let (None, Some(server)) = (&conf.link, foreign) {
        hits.add(format!("the name server {server} is written down"), Seen::file("/etc/resolv.conf"));
    }
    let link = conf.link.as_ref().filter(|link| !link.contains("/run/"));
    if let Some(link) = link.filter(|_| !case.examination.tree.exists("/etc/resolv.conf")) {
        hits.add(format!("it leads to {link}, which is not there"), Seen::file("/etc/resolv.conf"));
    }
}

/// net.nm-server
pub(super) fn nm_server(case: &Case<'_>, hits: &mut Hits) {
    if let Some(seen) = &case.report.network.no_auto_default {
        let asks = live(case).any(|interface| interface.dhcp && interface.mac.is_none());
        if asks || rendered(case) {
            hits.add_as(Impact::Advice, "NetworkManager makes no connection for a new card", seen.clone());
        } else {
            hits.add("NetworkManager makes no connection for a new card", seen.clone());
        }
    }
}

/// net.multi-nic
pub(super) fn several(case: &Case<'_>, hits: &mut Hits) {
    let all: Vec<&Interface> = live(case).filter(|interface| !interface.is_pattern()).collect();
    let mut names: Vec<&str> = all.iter().map(|interface| interface.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    if let (Some(first), true) = (all.get(1), names.len() > 1) {
        hits.add(
            format!("{} interfaces are configured: {}", names.len(), names.join(", ")),
            first.seen.clone(),
        );
    }
}

/// net.ipv6-only
pub(super) fn ipv6_only(case: &Case<'_>, hits: &mut Hits) {
    let automatic = case.report.network.services.contains(&"networkmanager")
        && case.report.network.no_auto_default.is_none();
    if rendered(case) || automatic || live(case).any(Interface::has_ipv4) {
        return;
    }
    for interface in live(case) {
        if let Some(seen) = &interface.ipv6 {
            hits.add(
                format!("{} has IPv6, and nothing asks for an address of IPv4", named(interface)),
                seen.clone(),
            );
        }
    }
}

/// net.firewall
pub(super) fn firewall(case: &Case<'_>, hits: &mut Hits) {
    if let Some(seen) = &case.report.network.firewall {
        hits.add("what is not allowed is dropped, and port 22 is not allowed", seen.clone());
    }
}

/// net.proxy
pub(super) fn proxy(case: &Case<'_>, hits: &mut Hits) {
    for seen in &case.report.network.proxies {
        hits.add("a proxy of another place is set", seen.clone());
    }
}
