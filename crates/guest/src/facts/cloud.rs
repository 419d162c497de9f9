//! cloud-init, and the agents of clouds and hypervisors.

use kiln_disk::interned::Word;
use serde::{Deserialize, Serialize};

use super::Seen;
use super::network::{enabled, masked};
use super::yaml::scalars;
use crate::tree::Tree;

/// cloud-init in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloudInit {
    /// Its version, where its own file tells.
    pub version: Option<String>,
    /// Its units are started.
    pub enabled: bool,
    /// What switches it off.
    pub disabled_by: Option<Seen>,
    /// Units of the four that are missing or masked.
    #[serde(deserialize_with = "kiln_disk::interned::list", default)]
    pub missing_units: Vec<Word>,
    /// The list of places it asks, in order; empty: its own long list.
    pub datasources: Vec<String>,
    /// Where the list is written.
    pub datasources_seen: Option<Seen>,
    /// It leaves the network alone because of this.
    pub network_disabled: Option<Seen>,
    /// What an earlier run left behind.
    pub state: Vec<Seen>,
    /// The user it makes.
    pub default_user: Option<String>,
    /// It, or another tool, grows the root.
    pub growpart: bool,
}

/// Something installed for one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Its name.
    #[serde(deserialize_with = "kiln_disk::interned::one")]
    pub name: Word,
    /// The place it is for: "azure", "vmware", ...
    #[serde(deserialize_with = "kiln_disk::interned::one")]
    pub place: Word,
    /// A file of it.
    pub seen: Seen,
}

const UNITS: [&str; 4] =
    ["cloud-init-local.service", "cloud-init.service", "cloud-config.service", "cloud-final.service"];

/// Reads cloud-init's installation; `None` when it is not there.
#[must_use]
pub fn read(tree: &Tree) -> Option<CloudInit> {
    let program =
        ["/usr/bin/cloud-init", "/usr/local/bin/cloud-init"].into_iter().find(|path| tree.exists(path))?;
    let _ = program;
    let mut found = CloudInit {
        version: version(tree),
        enabled: false,
        disabled_by: None,
        missing_units: Vec::new(),
        datasources: Vec::new(),
        datasources_seen: None,
        network_disabled: None,
        state: Vec::new(),
        default_user: None,
        growpart: tree.exists("/usr/bin/growpart")
            || tree.exists("/usr/sbin/growpart")
            || tree.exists("/usr/lib/systemd/system/systemd-growfs-root.service")
                && tree.exists("/usr/bin/systemd-repart"),
    };
    configs(tree, &mut found);
    if tree.exists("/etc/cloud/cloud-init.disabled") {
        found.disabled_by = Some(Seen::file("/etc/cloud/cloud-init.disabled"));
    }
    let ds_identify = "/etc/cloud/ds-identify.cfg";
    for (line, text) in crate::text::lines(&tree.text(ds_identify).unwrap_or_default()) {
        if text.starts_with("policy:") && text.contains("disabled") {
            found.disabled_by = Some(Seen::line(ds_identify, line));
        }
        if let Some(name) = text.strip_prefix("datasource:") {
            found.datasources = vec![name.trim().to_owned()];
            found.datasources_seen = Some(Seen::line(ds_identify, line));
        }
    }
    // Newer releases call the second unit cloud-init-network.
    let exists = |unit: &str| {
        ["/usr/lib/systemd/system", "/lib/systemd/system", "/etc/systemd/system"]
            .iter()
            .any(|dir| tree.exists(&format!("{dir}/{unit}")))
    };
    let there = |unit: &str| {
        (exists(unit) || (unit == "cloud-init.service" && exists("cloud-init-network.service")))
            && !masked(tree, unit)
    };
    found.missing_units = UNITS.into_iter().filter(|unit| !there(unit)).collect();
    // Its generator pulls the target in; where there is none the units must be enabled.
    let generator = ["/usr/lib/systemd/system-generators", "/lib/systemd/system-generators"]
        .iter()
        .any(|dir| tree.exists(&format!("{dir}/cloud-init-generator")));
    let wanted = UNITS.iter().all(|unit| enabled(tree, unit) || enabled(tree, "cloud-init-network.service"));
    let openrc = tree.exists_link("/etc/runlevels/boot/cloud-init-local");
    found.enabled = found.disabled_by.is_none()
        && (openrc || (found.missing_units.is_empty() && (wanted || generator && enabled_target(tree))));
    for path in
        ["/var/lib/cloud/instance", "/var/lib/cloud/instances", "/var/lib/cloud/sem", "/var/lib/cloud/data"]
    {
        let left =
            tree.exists_link(path) && (path == "/var/lib/cloud/instance" || !tree.names(path).is_empty());
        if left {
            found.state.push(Seen::file(path));
        }
    }
    let rendered = [
        "/etc/network/interfaces.d/50-cloud-init",
        "/etc/network/interfaces.d/50-cloud-init.cfg",
        "/etc/netplan/50-cloud-init.yaml",
    ];
    found.state.extend(rendered.into_iter().filter(|path| tree.exists(path)).map(Seen::file));
    Some(found)
}

fn enabled_target(tree: &Tree) -> bool {
    UNITS.iter().any(|unit| enabled(tree, unit)) || !masked(tree, "cloud-init.target")
}

fn version(tree: &Tree) -> Option<String> {
    for base in ["/usr/lib/python3/dist-packages", "/usr/lib/python3/site-packages"] {
        if let Some(version) = version_in(tree, base) {
            return Some(version);
        }
    }
    for name in tree.names("/usr/lib").iter().filter(|name| name.starts_with("python3.")) {
        if let Some(version) = version_in(tree, &format!("/usr/lib/{name}/site-packages")) {
            return Some(version);
        }
    }
    None
}

fn version_in(tree: &Tree, base: &str) -> Option<String> {
    let text = tree.text(&format!("{base}/cloudinit/version.py"))?;
    let value = |key| {
        crate::text::assigned(&text, key).filter(|value| value.starts_with(|c: char| c.is_ascii_digit()))
    };
    let packaged = value("_PACKAGED_VERSION");
    packaged.or_else(|| value("__VERSION__"))
}

/// Reads cloud.cfg and the files of cloud.cfg.d in their order: later ones count.
fn configs(tree: &Tree, found: &mut CloudInit) {
    let mut files = vec!["/etc/cloud/cloud.cfg".to_owned()];
    let dropped = tree.names("/etc/cloud/cloud.cfg.d");
    files.extend(
        dropped
            .iter()
            .filter(|name| name.ends_with(".cfg"))
            .map(|name| format!("/etc/cloud/cloud.cfg.d/{name}")),
    );
    for path in files {
        let Some(text) = tree.text(&path) else { continue };
        let scalars = scalars(&text);
        let list: Vec<&super::yaml::Scalar> =
            scalars.iter().filter(|scalar| scalar.keys == ["datasource_list"]).collect();
        if let Some(first) = list.first() {
            found.datasources = list.iter().map(|scalar| scalar.value.clone()).collect();
            found.datasources_seen = Some(Seen::line(path.clone(), first.line));
        }
        for scalar in &scalars {
            if scalar.keys == ["network", "config"] && scalar.value == "disabled" {
                found.network_disabled = Some(Seen::line(path.clone(), scalar.line));
            }
            if scalar.ends(&["system_info", "default_user", "name"]) {
                found.default_user = Some(scalar.value.clone());
            }
        }
    }
}

/// A file that only one agent has.
const AGENTS: [(&str, &str, &str); 27] = [
    ("waagent", "azure", "/usr/sbin/waagent"),
    ("walinuxagent", "azure", "/usr/bin/waagent"),
    ("google-guest-agent", "gcp", "/usr/bin/google_guest_agent"),
    ("amazon-ssm-agent", "aws", "/usr/bin/amazon-ssm-agent"),
    ("amazon-ssm-agent", "aws", "/snap/amazon-ssm-agent"),
    ("aegis", "alibaba", "/usr/local/aegis"),
    ("cloud-assistant", "alibaba", "/usr/local/share/aliyun-assist"),
    ("cloudmonitor", "alibaba", "/usr/local/cloudmonitor"),
    ("qcloud-agents", "tencent", "/usr/local/qcloud"),
    ("tat-agent", "tencent", "/usr/local/qcloud/tat_agent"),
    ("do-agent", "digitalocean", "/opt/digitalocean/bin/do-agent"),
    ("droplet-agent", "digitalocean", "/opt/digitalocean/bin/droplet-agent"),
    ("oracle-cloud-agent", "oracle", "/usr/libexec/oracle-cloud-agent/agent"),
    ("open-vm-tools", "vmware", "/usr/bin/vmtoolsd"),
    ("vmware-tools", "vmware", "/usr/bin/vmware-uninstall-tools.pl"),
    ("vmware-tools", "vmware", "/etc/vmware-tools"),
    ("virtualbox-guest-additions", "virtualbox", "/usr/sbin/VBoxService"),
    ("virtualbox-guest-additions", "virtualbox", "/opt/VBoxGuestAdditions"),
    ("xe-guest-utilities", "xen", "/usr/sbin/xe-daemon"),
    ("parallels-tools", "parallels", "/usr/bin/prltoolsd"),
    ("hyperv-daemons", "hyper-v", "/usr/sbin/hv_kvp_daemon"),
    ("qemu-guest-agent", "kvm", "/usr/sbin/qemu-ga"),
    ("qemu-guest-agent", "kvm", "/usr/bin/qemu-ga"),
    ("kudzu", "any", "/etc/init.d/kudzu"),
    ("telescope-agent", "huawei", "/usr/local/telescope"),
    ("hostguard", "huawei", "/usr/local/hostguard"),
    ("bce-agent", "baidu", "/opt/bcm-agent"),
];

/// Looks for agents by a file of theirs.
#[must_use]
pub fn agents(tree: &Tree) -> Vec<Agent> {
    let mut found: Vec<Agent> = Vec::new();
    for (name, place, path) in AGENTS {
        if found.iter().all(|agent| agent.name != name) && tree.exists(path) {
            // `open-vm-tools` leaves /etc/vmware-tools as well: the newer one speaks for both.
            if name == "vmware-tools" && found.iter().any(|agent| agent.name == "open-vm-tools") {
                continue;
            }
            found.push(Agent { name, place, seen: Seen::file(path) });
        }
    }
    found
}
