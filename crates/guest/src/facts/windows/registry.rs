//! What the hives SYSTEM and SOFTWARE say.

use std::collections::HashMap;

use super::super::os::Os;
use super::{Driver, File, Filter, Version, Windows};
use crate::hive::{Key, Result};
use crate::tree::Tree;

/// Drivers that places need: of disks, their buses, and network cards.
const DRIVERS: [&str; 24] = [
    "viostor",
    "vioscsi",
    "netkvm",
    "vmbus",
    "storvsc",
    "netvsc",
    "pci",
    "stornvme",
    "awsnvme",
    "storahci",
    "pvscsi",
    "LSI_SAS",
    "LSI_SCSI",
    "vmxnet3ndis6",
    "vmxnet3",
    "e1iexpress",
    "ena",
    "gvnic",
    "gve",
    "atapi",
    "intelide",
    "xenbus",
    "xenvbd",
    "xennet",
];

/// Agents that set up a new machine, by their services.
const AGENTS: [&str; 10] = [
    "cloudbase-init",
    "QEMU-GA",
    "VMTools",
    "WindowsAzureGuestAgent",
    "RdAgent",
    "AmazonEC2Launch",
    "Ec2Config",
    "AmazonSSMAgent",
    "GCEAgent",
    "AliyunService",
];

/// Classes of devices on the way to the system's volume (`devguid.h`).
const CLASSES: [(&str, &str); 4] = [
    ("{4d36e967-e325-11ce-bfc1-08002be10318}", "disks"),
    ("{71a27cdd-812a-11d0-bec7-08002be2092f}", "volumes"),
    ("{4d36e97b-e325-11ce-bfc1-08002be10318}", "SCSI controllers"),
    ("{4d36e96a-e325-11ce-bfc1-08002be10318}", "disk controllers"),
];

/// The vendor of virtio devices.
const VIRTIO: &str = "VEN_1AF4&";
/// Below a control set: what every program is told.
pub(super) const ENVIRONMENT: &str = "Control\\Session Manager\\Environment";
/// Network cards whose settings are read.
const MAX_CARDS: usize = 256;

/// Last days of the maker's updates in the edition that has them longest, without what must be bought, by build:
/// client, server (Microsoft's lifecycle pages).
const END_OF_LIFE: [(u32, &str, &str); 19] = [
    (2600, "2014-04-08", ""),
    (3790, "2014-04-08", "2015-07-14"),
    (6002, "2017-04-11", "2020-01-14"),
    (7601, "2020-01-14", "2020-01-14"),
    (9200, "2016-01-12", "2023-10-10"),
    (9600, "2023-01-10", "2023-10-10"),
    (10240, "2025-10-14", ""),
    (14393, "2026-10-13", "2027-01-12"),
    (17763, "2029-01-09", "2029-01-09"),
    (18363, "2022-05-10", "2021-05-11"),
    (19041, "2021-12-14", "2021-12-14"),
    (19042, "2023-05-09", "2022-08-09"),
    (19044, "2027-01-12", ""),
    (19045, "2025-10-14", ""),
    (20348, "", "2031-10-14"),
    (22000, "2024-10-08", ""),
    (22621, "2025-10-14", ""),
    (22631, "2026-11-10", ""),
    (26100, "2027-10-12", "2034-10-10"),
];

fn number(hive: &File<'_>, key: &Key, name: &str) -> Result<Option<u32>> {
    Ok(hive.value(key, name)?.and_then(|value| value.number()))
}

fn text(hive: &File<'_>, key: &Key, name: &str) -> Result<Option<String>> {
    Ok(hive.value(key, name)?.and_then(|value| value.text()))
}

/// Reads SYSTEM; answers the name of the machine.
pub(super) fn system(hive: &File<'_>, tree: &Tree, windows: &mut Windows) -> Result<Option<String>> {
    let select = hive.key("Select")?;
    let set = match &select {
        Some(select) => number(hive, select, "Current")?.filter(|set| (1..1000).contains(set)),
        None => None,
    };
    windows.control_set = set;
    if let Some(setup) = hive.key("Setup")? {
        windows.in_setup = number(hive, &setup, "SystemSetupInProgress")? == Some(1);
    }
    let Some(set) = set else { return Ok(None) };
    let set = format!("ControlSet{set:03}");
    let Some(control) = hive.key(&format!("{set}\\Control"))? else { return Ok(None) };
    let services = services(hive, &set)?;
    for name in DRIVERS {
        if let Some(key) = services.get(&name.to_uppercase()) {
            windows.drivers.push(driver(hive, tree, key)?);
        }
    }
    let agent = |name: &&&str| services.contains_key(&name.to_uppercase());
    windows.agents = AGENTS.iter().filter(agent).map(|name| (*name).to_owned()).collect();
    windows.bound = bound(hive, &set)?;
    windows.filters = filters(hive, tree, &set, &control, &services)?;
    windows.fixed_addresses = fixed(hive, &set)?;
    if let Some(key) = hive.key(&format!("{set}\\{ENVIRONMENT}"))? {
        windows.processor = text(hive, &key, "PROCESSOR_ARCHITECTURE")?;
    }
    if let Some(key) = hive.subkey(&control, "Terminal Server")? {
        windows.remote_desktop_denied = number(hive, &key, "fDenyTSConnections")?.map(|denied| denied != 0);
    }
    if let Some(key) = hive.subkey(&control, "TimeZoneInformation")? {
        windows.clock_utc = number(hive, &key, "RealTimeIsUniversal")? == Some(1);
    }
    match hive.key(&format!("{set}\\Control\\ComputerName\\ComputerName"))? {
        Some(key) => text(hive, &key, "ComputerName"),
        None => Ok(None),
    }
}

/// The keys of all services by their names in capitals.
fn services(hive: &File<'_>, set: &str) -> Result<HashMap<String, Key>> {
    let Some(services) = hive.key(&format!("{set}\\Services"))? else { return Ok(HashMap::new()) };
    let keys = hive.subkeys(&services)?;
    Ok(keys.into_iter().map(|key| (key.name.to_uppercase(), key)).collect())
}

fn driver(hive: &File<'_>, tree: &Tree, key: &Key) -> Result<Driver> {
    let start_override = match hive.subkey(key, "StartOverride")? {
        Some(key) => number(hive, &key, "0")?,
        None => None,
    };
    let path = program(&text(hive, key, "ImagePath")?.unwrap_or_default(), &key.name);
    let fault = match tree.stat(&path) {
        Err(crate::fs::FsError::NotFound) => Some("is not there".to_owned()),
        Err(error) => Some(super::super::root::told(&error)),
        Ok(stat) if stat.len == 0 => Some("is empty".to_owned()),
        // What cannot be read, being compressed, is not judged.
        Ok(_) => tree
            .head(&path, 4096)
            .is_ok_and(|head| super::super::boot::pe(&head).is_none())
            .then(|| "is no program".to_owned()),
    };
    Ok(Driver { service: key.name.clone(), start: number(hive, key, "Start")?, start_override, path, fault })
}

/// The path of a driver's program in the tree, as the loader understands `ImagePath`; without one it is the service's
/// name.
fn program(image: &str, service: &str) -> String {
    let path = image.trim().trim_matches('"').replace('\\', "/");
    let lower = path.to_lowercase();
    let after =
        |prefix: &str| lower.starts_with(prefix).then(|| path.get(prefix.len()..).unwrap_or_default());
    if path.is_empty() {
        return format!("/Windows/System32/drivers/{service}.sys");
    }
    let roots = ["/systemroot/", "%systemroot%/", "/??/c:/windows/", "c:/windows/"];
    match roots.iter().find_map(|root| after(root)).or_else(|| after("/windows/")) {
        Some(rest) => format!("/Windows/{rest}"),
        None => format!("/Windows/{}", path.trim_start_matches('/')),
    }
}

/// Hardware ids of virtio devices that Windows knows a driver for at the start: bound before (`Enum`), or by the
/// database of drivers (Windows 8 and later) or of critical devices (before).
fn bound(hive: &File<'_>, set: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for path in ["DriverDatabase\\DeviceIds\\PCI".to_owned(), format!("{set}\\Enum\\PCI")] {
        let Some(key) = hive.key(&path)? else { continue };
        for child in hive.subkeys(&key)? {
            let name = child.name.to_uppercase();
            if name.starts_with(VIRTIO) {
                found.push(name);
            }
        }
    }
    if let Some(key) = hive.key(&format!("{set}\\Control\\CriticalDeviceDatabase"))? {
        for child in hive.subkeys(&key)? {
            let name = child.name.to_uppercase();
            if let Some(name) = name.strip_prefix("PCI#").filter(|name| name.starts_with(VIRTIO)) {
                found.push(name.to_owned());
            }
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn filters(
    hive: &File<'_>,
    tree: &Tree,
    set: &str,
    control: &Key,
    services: &HashMap<String, Key>,
) -> Result<Vec<Filter>> {
    let mut found = Vec::new();
    let Some(classes) = hive.subkey(control, "Class")? else { return Ok(found) };
    for (guid, class) in CLASSES {
        let Some(key) = hive.subkey(&classes, guid)? else { continue };
        for which in ["UpperFilters", "LowerFilters"] {
            let names = hive.value(&key, which)?.map(|value| value.texts()).unwrap_or_default();
            for service in names {
                let fault = match services.get(&service.to_uppercase()) {
                    None => Some("has no key in Services".to_owned()),
                    Some(key) => {
                        let driver = driver(hive, tree, key)?;
                        driver.fault.map(|fault| format!("needs {}, which {fault}", driver.path))
                    }
                };
                let key = format!("{set}\\Control\\Class\\{guid}\\{which}");
                found.push(Filter { class, key, service, fault });
            }
        }
    }
    Ok(found)
}

/// Cards with a fixed address. A new card has a key of its own and asks by DHCP.
fn fixed(hive: &File<'_>, set: &str) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let path = format!("{set}\\Services\\Tcpip\\Parameters\\Interfaces");
    let Some(interfaces) = hive.key(&path)? else { return Ok(found) };
    for key in hive.subkeys(&interfaces)?.into_iter().take(MAX_CARDS) {
        if number(hive, &key, "EnableDHCP")? != Some(0) {
            continue;
        }
        let addresses = hive.value(&key, "IPAddress")?.map(|value| value.texts()).unwrap_or_default();
        if let Some(address) = addresses.into_iter().find(|address| address != "0.0.0.0") {
            found.push((format!("{path}\\{}", key.name), address));
        }
    }
    Ok(found)
}

/// Reads SOFTWARE.
pub(super) fn software(hive: &File<'_>, windows: &mut Windows) -> Result<()> {
    if let Some(key) = hive.key("Microsoft\\Windows NT\\CurrentVersion")? {
        windows.version = version(hive, &key)?;
        if let Some(logon) = hive.subkey(&key, "Winlogon")? {
            let on = hive.value(&logon, "AutoAdminLogon")?;
            let on = on.is_some_and(|on| on.text().as_deref() == Some("1") || on.number() == Some(1));
            let password = text(hive, &logon, "DefaultPassword")?;
            windows.auto_logon = on && password.is_some_and(|password| !password.is_empty());
        }
    }
    if let Some(key) = hive.key("Microsoft\\Windows\\CurrentVersion\\Setup\\State")? {
        windows.image_state = text(hive, &key, "ImageState")?;
    }
    Ok(())
}

fn version(hive: &File<'_>, key: &Key) -> Result<Version> {
    let word = |name| Ok::<_, crate::hive::Fault>(text(hive, key, name)?.unwrap_or_default());
    let mut version = Version {
        product: word("ProductName")?,
        number: word("CurrentVersion")?,
        build: word("CurrentBuildNumber")?,
        revision: number(hive, key, "UBR")?,
        display: word("DisplayVersion")?,
        edition: word("EditionID")?,
        installation: word("InstallationType")?,
    };
    if version.build.is_empty() {
        version.build = word("CurrentBuild")?;
    }
    // "6.3" stands there since Windows 8.1; the true number is in two values since Windows 10.
    if let Some(major) = number(hive, key, "CurrentMajorVersionNumber")? {
        let minor = number(hive, key, "CurrentMinorVersionNumber")?.unwrap_or(0);
        version.number = format!("{major}.{minor}");
    }
    // Windows 11 still calls itself 10 there.
    if version.build_number() >= 22000
        && !version.is_server()
        && let Some(rest) = version.product.strip_prefix("Windows 10")
    {
        version.product = format!("Windows 11{rest}");
    }
    Ok(version)
}

/// The system as reports name it.
pub(super) fn os(
    version: &Version,
    architecture: Option<(&'static str, String)>,
    host: Option<String>,
) -> Os {
    let (build, server) = (version.build_number(), version.is_server());
    let end = END_OF_LIFE.iter().find(|(known, _, _)| *known == build);
    let end = end.map(|(_, client, of_server)| if server { *of_server } else { *client });
    let product = if version.product.is_empty() { "Windows" } else { version.product.as_str() };
    let display = if version.display.is_empty() { String::new() } else { format!(" {}", version.display) };
    let (architecture, architecture_from) = architecture.unzip();
    let full = [version.number.as_str(), version.build.as_str()].join(".");
    Os {
        id: "windows".to_owned(),
        like: Vec::new(),
        version: full.trim_matches('.').to_owned(),
        name: format!("{product}{display}"),
        architecture,
        architecture_from,
        end_of_life: end.filter(|end| !end.is_empty()),
        hostname: host.filter(|host| !host.is_empty()),
        init: None,
    }
}

#[cfg(test)]
mod tests {
    use super::program;

    #[test]
    fn program_of_a_service_is_found_as_the_loader_finds_it() {
        for (image, path) in [
            ("", "/Windows/System32/drivers/viostor.sys"),
            ("System32\\drivers\\viostor.sys", "/Windows/System32/drivers/viostor.sys"),
            ("\\SystemRoot\\System32\\drivers\\viostor.sys", "/Windows/System32/drivers/viostor.sys"),
            ("%SystemRoot%\\system32\\a.sys", "/Windows/system32/a.sys"),
            ("\\??\\C:\\Windows\\b.sys", "/Windows/b.sys"),
            ("\\..\\..\\etc\\shadow", "/Windows/../../etc/shadow"),
        ] {
            assert_eq!(program(image, "viostor"), path, "{image}");
        }
    }
}
