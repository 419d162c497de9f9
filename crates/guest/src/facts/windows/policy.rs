//! What rules beside the way to the start ask of the registry: updates, device installation, firewall, page files.
//!
//! Each answer stands for itself: a damaged key here says nothing about whether the hive is fit to be started from.
//! Sources: Microsoft, MS-GPFAS 2.2 (firewall policy and rules); `cbsapi.h` (states of packages); Alibaba Cloud, Image
//! check, GUESTOS.Server (`DeviceInstallDisabled`); Microsoft, "Manage device installation with Group Policy";
//! virt-v2v, `convert_windows.ml` (names of virus scanners).

use serde::{Deserialize, Serialize};

use super::{CONFIG, File, Windows};
use crate::hive::{Fault, Value};

/// What was asked of the registry, or why it cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer<T> {
    /// What it says.
    Read(T),
    /// Why it cannot be told.
    Unread(String),
}

impl<T> Answer<T> {
    fn of(read: crate::hive::Result<T>, what: &str) -> Self {
        match read {
            Ok(value) => Self::Read(value),
            Err(fault) => Self::Unread(format!("{what} cannot be read: {fault}")),
        }
    }
}

/// An update that a rule asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// Number of its article in Microsoft's knowledge base.
    pub kb: u32,
    /// `CurrentState`: 0x50 superseded, 0x70 installed, 0x80 permanent.
    pub state: u32,
    /// The key that lists it.
    pub key: String,
}

impl Update {
    /// It is in force.
    #[must_use]
    pub const fn installed(&self) -> bool {
        matches!(self.state, 0x70 | 0x80)
    }

    /// A later one has taken its place.
    #[must_use]
    pub const fn superseded(&self) -> bool {
        self.state == 0x50
    }
}

/// Something of a key, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// Hive and key.
    pub key: String,
    /// In words.
    pub what: String,
}

/// The firewall, as a network that Windows does not know (profile Public) has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firewall {
    /// The key of the profile.
    pub key: String,
    /// It drops what no rule lets in.
    pub drops: bool,
    /// The port of Remote Desktop.
    pub port: u32,
    /// Name of the rule that lets the port in.
    pub admits: Option<String>,
    /// Name of a rule that keeps the port out, which counts before all others.
    pub blocks: Option<String>,
}

/// Updates that rules ask for.
const WANTED: [u32; 11] = [
    3_033_929, 4_474_419, 5_009_624, 5_009_595, 5_009_546, 5_009_557, 5_009_555, 5_014_738, 5_014_702,
    5_014_692, 5_014_678,
];
/// Where the servicing stack keeps its list.
const SERVICING: &str = "Microsoft\\Windows\\CurrentVersion\\Component Based Servicing";
const RESTRICTIONS: &str = "Policies\\Microsoft\\Windows\\DeviceInstall\\Restrictions";
/// Values of one key that are read.
const MAX_VALUES: usize = 16 << 10;
/// Installed programs of which the name is read.
const MAX_PROGRAMS: usize = 4096;
/// Windows Vista: firewalls before it are another thing.
const VISTA: u32 = 6000;

/// Adds what both hives say to a system whose version is known.
pub(super) fn read(system: Option<&File<'_>>, software: Option<&File<'_>>, windows: &mut Windows) {
    let missing = |name: &str| format!("{name} cannot be read");
    let set = windows.control_set.map(|set| format!("ControlSet{set:03}"));
    match software {
        None => windows.updates = Answer::Unread(missing("SOFTWARE")),
        Some(hive) => {
            windows.updates = Answer::of(updates(hive), "the list of updates");
            windows.reboot_pending =
                hive.key(&format!("{SERVICING}\\RebootPending")).is_ok_and(|key| key.is_some());
            windows.scanners = scanners(hive).unwrap_or_default();
            windows.licence_server = value(
                hive,
                "Microsoft\\Windows NT\\CurrentVersion\\SoftwareProtectionPlatform",
                "KeyManagementServiceName",
            )
            .ok()
            .flatten()
            .and_then(|value| value.text())
            .filter(|text| !text.is_empty());
        }
    }
    let (Some(hive), Some(set)) = (system, set) else {
        windows.device_install = Answer::Unread(missing("SYSTEM"));
        windows.firewall = Answer::Unread(missing("SYSTEM"));
        windows.page_files = Answer::Unread(missing("SYSTEM"));
        return;
    };
    windows.device_install =
        Answer::of(device_install(hive, software, &set), "the policy of device installation");
    windows.page_files = Answer::of(page_files(hive, &set), "the list of page files");
    windows.firewall = match windows.version.build_number() {
        1..VISTA => Answer::Unread("the firewall of so old a Windows is not read".to_owned()),
        _ => Answer::of(firewall(hive, software, &set), "the firewall's policy"),
    };
}

fn value(hive: &File<'_>, key: &str, name: &str) -> Result<Option<Value>, Fault> {
    match hive.key(key)? {
        Some(key) => hive.value(&key, name),
        None => Ok(None),
    }
}

fn number(hive: &File<'_>, key: &str, name: &str) -> Result<Option<u32>, Fault> {
    Ok(value(hive, key, name)?.and_then(|value| value.number()))
}

/// The number behind "KB" in a package's name: `Package_for_KB4474419~31bf3856ad364e35~amd64~~6.1.1.3`.
fn article(name: &str) -> Option<u32> {
    let (_, rest) = name.split_once("KB").or_else(|| name.split_once("kb"))?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest.get(..end)?.parse().ok()
}

fn updates(hive: &File<'_>) -> Result<Vec<Update>, Fault> {
    let path = format!("{SERVICING}\\Packages");
    let Some(packages) = hive.key(&path)? else { return Ok(Vec::new()) };
    let mut found: Vec<Update> = Vec::new();
    for key in hive.subkeys(&packages)? {
        let Some(kb) = article(&key.name).filter(|kb| WANTED.contains(kb)) else { continue };
        let state = hive.value(&key, "CurrentState")?.and_then(|value| value.number()).unwrap_or(0);
        // An update is a package of packages; what it comes to is what the one that came furthest says.
        match found.iter_mut().find(|known| known.kb == kb) {
            Some(known) if known.state >= state => {}
            Some(known) => (known.state, known.key) = (state, format!("{path}\\{}", key.name)),
            None => found.push(Update { kb, state, key: format!("{path}\\{}", key.name) }),
        }
    }
    Ok(found)
}

/// Devices of which a machine has new ones at a new place: beginnings of hardware ids, classes of `devguid.h`.
const NEW_IDS: [&str; 9] = [
    "VEN_1AF4",
    "VEN_1D0F",
    "VEN_1AE0",
    "VEN_15AD",
    "VEN_1414",
    "VMBUS\\",
    "PCI\\CC_01",
    "PCI\\CC_02",
    "ACPI\\",
];
const NEW_CLASSES: [(&str, &str); 5] = [
    ("{4d36e967-e325-11ce-bfc1-08002be10318}", "disks"),
    ("{4d36e97b-e325-11ce-bfc1-08002be10318}", "SCSI controllers"),
    ("{4d36e96a-e325-11ce-bfc1-08002be10318}", "disk controllers"),
    ("{4d36e972-e325-11ce-bfc1-08002be10318}", "network cards"),
    ("{4d36e97d-e325-11ce-bfc1-08002be10318}", "system devices"),
];

fn device_install(hive: &File<'_>, software: Option<&File<'_>>, set: &str) -> Result<Vec<Said>, Fault> {
    let mut found = Vec::new();
    for service in ["DeviceInstall", "PlugPlay"] {
        let key = format!("{set}\\Services\\{service}\\Parameters");
        if let Some(off) = number(hive, &key, "DeviceInstallDisabled")?.filter(|off| *off != 0) {
            let what = format!("no device is installed (DeviceInstallDisabled is {off})");
            found.push(Said { key: format!("{CONFIG}/SYSTEM\\{key}"), what });
        }
    }
    let Some(software) = software else { return Ok(found) };
    let Some(key) = software.key(RESTRICTIONS)? else { return Ok(found) };
    let mut add = |name: &str, what: String| {
        found.push(Said { key: format!("{CONFIG}/SOFTWARE\\{RESTRICTIONS}\\{name}"), what });
    };
    let on =
        |name: &str| Ok::<_, Fault>(software.value(&key, name)?.and_then(|value| value.number()) == Some(1));
    if on("DenyUnspecified")? {
        add(
            "DenyUnspecified",
            "no device is installed but those that a policy names (DenyUnspecified is 1)".to_owned(),
        );
    }
    for (list, names) in [("DenyDeviceIDs", None), ("DenyDeviceClasses", Some(&NEW_CLASSES))] {
        let Some(denied) = software.subkey(&key, list)?.filter(|_| on(list).unwrap_or(false)) else {
            continue;
        };
        for (_, value) in software.values(&denied, MAX_VALUES)? {
            let text = value.text().unwrap_or_default();
            let word = match names {
                None => NEW_IDS.iter().any(|id| text.to_uppercase().contains(id)).then_some("devices"),
                Some(classes) => {
                    classes.iter().find(|(guid, _)| guid.eq_ignore_ascii_case(&text)).map(|(_, word)| *word)
                }
            };
            if let Some(word) = word {
                add(list, format!("{word} of a new place are not installed ({list} has {text})"));
            }
        }
    }
    Ok(found)
}

fn page_files(hive: &File<'_>, set: &str) -> Result<Vec<String>, Fault> {
    let key = format!("{set}\\Control\\Session Manager\\Memory Management");
    Ok(value(hive, &key, "PagingFiles")?.map(|value| value.texts()).unwrap_or_default())
}

/// A key of the servicing stack in SOFTWARE.
pub(crate) fn servicing(name: &str) -> String {
    format!("{SERVICING}\\{name}")
}

/// Virus scanners among the installed programs.
fn scanners(hive: &File<'_>) -> Result<Vec<Said>, Fault> {
    let mut found = Vec::new();
    for base in ["Microsoft\\Windows\\CurrentVersion", "WOW6432Node\\Microsoft\\Windows\\CurrentVersion"] {
        let path = format!("{base}\\Uninstall");
        let Some(key) = hive.key(&path)? else { continue };
        for program in hive.subkeys(&key)?.into_iter().take(MAX_PROGRAMS) {
            let name =
                hive.value(&program, "DisplayName")?.and_then(|value| value.text()).unwrap_or_default();
            let lower = name.to_lowercase();
            if ["virus", "kaspersky", "mcafee", "norton", "sophos"].iter().any(|word| lower.contains(word)) {
                found.push(Said { key: format!("{CONFIG}/SOFTWARE\\{path}\\{}", program.name), what: name });
            }
        }
    }
    Ok(found)
}

/// Policies of the domain come before those of the machine.
fn firewall(hive: &File<'_>, software: Option<&File<'_>>, set: &str) -> Result<Firewall, Fault> {
    let own = format!("{set}\\Services\\SharedAccess\\Parameters\\FirewallPolicy");
    let profile = format!("{own}\\PublicProfile");
    let terminals = format!("{set}\\Control\\Terminal Server\\WinStations\\RDP-Tcp");
    let mut firewall = Firewall {
        key: format!("{CONFIG}/SYSTEM\\{profile}"),
        drops: false,
        port: number(hive, &terminals, "PortNumber")?.unwrap_or(3389),
        admits: None,
        blocks: None,
    };
    let policy = "Policies\\Microsoft\\WindowsFirewall";
    let said = |name: &str| {
        let by_policy = match software {
            Some(software) => number(software, &format!("{policy}\\PublicProfile"), name)?,
            None => None,
        };
        match by_policy {
            Some(value) => Ok::<_, Fault>(Some(value)),
            None => number(hive, &profile, name),
        }
    };
    let service = number(hive, &format!("{set}\\Services\\MpsSvc"), "Start")?;
    firewall.drops =
        said("EnableFirewall")? == Some(1) && said("DefaultInboundAction")? != Some(0) && service != Some(4);
    let alone = said("DoNotAllowExceptions")? == Some(1);
    let merged = said("AllowLocalPolicyMerge")? != Some(0);
    let mut rules = Vec::new();
    if let Some(software) = software
        && let Some(key) = software.key(&format!("{policy}\\FirewallRules"))?
    {
        rules.extend(software.values(&key, MAX_VALUES)?);
    }
    if let Some(key) = hive.key(&format!("{own}\\FirewallRules"))?.filter(|_| merged) {
        rules.extend(hive.values(&key, MAX_VALUES)?);
    }
    for (name, value) in rules {
        match value.text().as_deref().and_then(|text| effect(text, firewall.port)) {
            Some(Effect::Admits) if !alone => firewall.admits = firewall.admits.or(Some(name)),
            Some(Effect::Blocks) => firewall.blocks = firewall.blocks.or(Some(name)),
            _ => {}
        }
    }
    Ok(firewall)
}

/// What a rule does with a connection to a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Admits,
    Blocks,
}

/// What a rule (`v2.30|Action=Allow|Active=TRUE|Dir=In|Protocol=6|LPort=3389|...|`) does with a TCP connection from a
/// public network to Remote Desktop on `port`. A rule that lets in some addresses only counts as one that lets in; one
/// that keeps out only some does not count.
fn effect(rule: &str, port: u32) -> Option<Effect> {
    let fields: Vec<(&str, &str)> = rule.split('|').filter_map(|field| field.split_once('=')).collect();
    let all = |name: &str| -> Vec<&str> {
        fields.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| *value).collect()
    };
    let is = |name: &str, wanted: &str| all(name).iter().any(|value| value.eq_ignore_ascii_case(wanted));
    let none_or = |name: &str, wanted: &dyn Fn(&str) -> bool| {
        let values = all(name);
        values.is_empty() || values.iter().any(|value| wanted(value))
    };
    let (ports, ranges) = (all("LPort"), all("LPort2_10"));
    let here = ports.is_empty() && ranges.is_empty()
        || ports.iter().any(|value| value.parse() == Ok(port))
        || ranges.iter().any(|range| {
            let Some((low, high)) = range.split_once('-') else { return range.parse() == Ok(port) };
            low.parse::<u32>().is_ok_and(|low| low <= port)
                && high.parse::<u32>().is_ok_and(|high| port <= high)
        });
    let program = none_or("App", &|app| {
        let lower = app.to_lowercase();
        lower == "system" || lower.ends_with("svchost.exe")
    });
    let service = none_or("Svc", &|name| name == "*" || name.eq_ignore_ascii_case("termservice"));
    let public = none_or("Profile", &|profile| profile.eq_ignore_ascii_case("Public"));
    if !is("Active", "TRUE") || !is("Dir", "In") || !here || !program || !service || !public {
        return None;
    }
    if !none_or("Protocol", &|protocol| protocol == "6") {
        return None;
    }
    let narrow = ["RA4", "RA6", "RA42", "RA62", "IF", "IFType", "LA4", "LA6", "RPort", "RPort2_10"];
    match () {
        () if is("Action", "Allow") => Some(Effect::Admits),
        () if is("Action", "Block") && narrow.iter().all(|name| all(name).is_empty()) => Some(Effect::Blocks),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn article_is_the_number_behind_kb() {
        for (name, kb) in [
            ("Package_for_KB4474419~31bf3856ad364e35~amd64~~6.1.1.3", Some(4_474_419)),
            ("Package_12_for_KB3033929~31bf3856ad364e35~amd64~~6.1.1.0", Some(3_033_929)),
            ("Package_for_RollupFix~31bf3856ad364e35~amd64~~20348.768.1.9", None),
            ("Package_for_KB~x", None),
            ("KB99999999999999", None),
            ("", None),
        ] {
            assert_eq!(article(name), kb, "{name}");
        }
    }

    #[test]
    fn rule_of_the_firewall_counts_when_all_its_fields_fit() {
        let base = "v2.30|Action=Allow|Active=TRUE|Dir=In|Protocol=6|LPort=3389|App=%SystemRoot%\\system32\\svchost.exe|Svc=termservice|Name=x|";
        let admits = Some(Effect::Admits);
        for (rule, expected) in [
            (base.to_owned(), admits),
            (base.replace("LPort=3389|", ""), admits),
            (base.replace("LPort=3389", "LPort=80|LPort=3389"), admits),
            (base.replace("LPort=3389", "LPort2_10=3000-4000"), admits),
            (base.replace("Name=x", "Profile=Domain|Profile=Public"), admits),
            (base.replace("Protocol=6|", ""), admits),
            (base.replace("Allow", "Block"), Some(Effect::Blocks)),
            (base.replace("Allow", "Block").replace("Name=x", "RA4=10.0.0.0/8"), None),
            (base.replace("TRUE", "FALSE"), None),
            (base.replace("Dir=In", "Dir=Out"), None),
            (base.replace("Protocol=6", "Protocol=17"), None),
            (base.replace("LPort=3389", "LPort=3390"), None),
            (base.replace("LPort=3389", "LPort2_10=1-3388"), None),
            (base.replace("LPort=3389", "LPort=RPC"), None),
            (base.replace("Name=x", "Profile=Domain|Profile=Private"), None),
            (base.replace("svchost.exe", "RdpSa.exe"), None),
            (base.replace("termservice", "spooler"), None),
            ("||=|=x|".to_owned(), None),
        ] {
            assert_eq!(effect(&rule, 3389), expected, "{rule}");
        }
    }
}
