//! Rules of Windows' drivers: taken along by the loader, there as a file, bound to the device.

use super::super::{Case, Firmware, Hits, Impact};
use super::needs::{self, Device};
use crate::facts::Seen;
use crate::facts::windows::{Driver, Windows};

/// Windows 8 and later write `StartOverride` for drivers of devices that are not there.
const EIGHT: u32 = 9200;

/// What a rule of drivers of disks reports.
fn disk(case: &Case<'_>, rule: &str, hits: &mut Hits) {
    let Some(windows) = &case.report.windows else { return };
    let Some(device) = needs::of(case.place.id).disk.filter(|device| device.rule == rule) else { return };
    if windows.hive("SYSTEM").is_none_or(|hive| hive.fault.is_some()) || windows.control_set.is_none() {
        return hits.unknown("the drivers cannot be listed: SYSTEM cannot be read");
    }
    let good: Vec<&Driver> = device
        .drivers
        .iter()
        .filter_map(|name| windows.driver(name))
        .filter(|it| it.starts_at_boot())
        .collect();
    // The first generation of Hyper-V's machines shows the disk as an IDE disk too.
    let emulated = rule == "win.hyperv"
        && case.firmwares().any(|firmware| firmware == Firmware::Bios)
        && super::super::boot::starts(case, Firmware::Bios)
        && ["atapi", "intelide"].iter().all(|name| windows.driver(name).is_some_and(Driver::starts_at_boot));
    let report = |hits: &mut Hits, (detail, seen, fix): (String, Seen, String)| match emulated {
        true => hits.add_as(
            Impact::Advice,
            format!("{detail}; by the slow IDE disk it starts all the same"),
            seen,
        ),
        false => hits.add_fix(detail, seen, fix),
    };
    if good.is_empty() {
        let (detail, seen, fix) = fault(windows, &device);
        // What starts from a disk of its own kind can be mended there.
        let inbox = windows.driver("storahci").is_some_and(Driver::starts_at_boot);
        let fix = match needs::of(case.place.id).ahci.filter(|_| inbox) {
            Some(other) => format!("{fix}; or leave it on a SATA disk, whose driver is there: {other}"),
            None => fix,
        };
        return report(hits, (detail, seen, fix));
    }
    for bus in device.buses.iter().filter_map(|bus| windows.driver(bus)) {
        if let Some((detail, seen, fix)) = stopped(windows, bus) {
            return report(hits, (format!("{detail}, and the {} hangs on it", device.what), seen, fix));
        }
    }
    let is_bound = |id: &&str| windows.bound.iter().any(|known| known.starts_with(*id));
    if !device.ids.is_empty() && !device.ids.iter().any(is_bound) {
        hits.unknown(format!(
            "{} starts, and the registry binds no driver to the {} ({}): {}",
            good.first().map_or("", |driver| driver.service.as_str()),
            device.what,
            device.ids.join(", "),
            "attach such a disk once, so that Windows binds it"
        ));
    }
}

/// Why none of a device's drivers is taken along: of the one that is nearest to it.
fn fault(windows: &Windows, device: &Device) -> (String, Seen, String) {
    let there = device.drivers.iter().filter_map(|name| windows.driver(name));
    if let Some(found) = there.filter_map(|driver| stopped(windows, driver)).next() {
        return found;
    }
    let names = device.drivers.join(" or ");
    (
        format!("{names}: there is no such driver for the {}", device.what),
        windows.seen("SYSTEM", &format!("CURRENT\\Services\\{}", device.drivers.first().unwrap_or(&""))),
        device.how.to_owned(),
    )
}

/// Why a driver that is there is not taken along.
fn stopped(windows: &Windows, driver: &Driver) -> Option<(String, Seen, String)> {
    let name = &driver.service;
    let set = windows.control_set.unwrap_or(1);
    let key = format!("HKLM\\guest\\ControlSet{set:03}\\Services\\{name}");
    let load = "with the disk attached to another Windows as D: reg load HKLM\\guest D:\\Windows\\System32\\config\\SYSTEM";
    let seen = windows.seen("SYSTEM", &format!("CURRENT\\Services\\{name}"));
    if let Some(fault) = &driver.fault {
        let fix = format!("copy {name}.sys of the driver's package to {}", driver.path.replace('/', "\\"));
        return Some((format!("{name}: {} {fault}", driver.path), Seen::file(driver.path.clone()), fix));
    }
    match (driver.start, driver.start_override) {
        (Some(0), None | Some(0)) => None,
        (Some(0), Some(start))
            if windows.version.build_number() >= EIGHT || windows.version.build.is_empty() =>
        {
            let fix = format!("{load} && reg delete \"{key}\\StartOverride\" /f && reg unload HKLM\\guest");
            Some((
                format!(
                    "{name}: StartOverride is {start}: the loader leaves it out, as its device was never used"
                ),
                seen,
                fix,
            ))
        }
        (Some(0), Some(_)) => None,
        (start, _) => {
            let start = start.map_or("missing".to_owned(), |start| format!("{start}"));
            let fix = format!(
                "{load} && reg add \"{key}\" /v Start /t REG_DWORD /d 0 /f && reg unload HKLM\\guest"
            );
            Some((format!("{name}: Start is {start}, not 0: the loader leaves it out"), seen, fix))
        }
    }
}

macro_rules! disks {
    ($($name:ident => $id:literal),* $(,)?) => {
        $(
            #[doc = $id]
            pub(in super::super) fn $name(case: &Case<'_>, hits: &mut Hits) {
                disk(case, $id, hits);
            }
        )*
    };
}

disks! {
    viostor => "win.viostor",
    hyperv => "win.hyperv",
    nvme => "win.nvme",
    pvscsi => "win.pvscsi",
}

/// win.netkvm
pub(in super::super) fn network(case: &Case<'_>, hits: &mut Hits) {
    let Some(windows) = &case.report.windows else { return };
    let Some(device) = needs::of(case.place.id).net else { return };
    if windows.control_set.is_none() {
        return;
    }
    let drivers: Vec<&Driver> = device.drivers.iter().filter_map(|name| windows.driver(name)).collect();
    let works = |driver: &&Driver| driver.start.is_some_and(|start| start < 4) && driver.fault.is_none();
    if drivers.iter().any(works) {
        return;
    }
    let seen = |name: &str| windows.seen("SYSTEM", &format!("CURRENT\\Services\\{name}"));
    let (detail, seen) = match drivers.first() {
        None => {
            let name = device.drivers.first().unwrap_or(&"");
            (
                format!("{}: there is no driver for the {}", device.drivers.join(" or "), device.what),
                seen(name),
            )
        }
        Some(driver) => match &driver.fault {
            Some(fault) => {
                (format!("{}: {} {fault}", driver.service, driver.path), Seen::file(driver.path.clone()))
            }
            None => (format!("{}: it is disabled", driver.service), seen(&driver.service)),
        },
    };
    hits.add_fix(detail, seen, device.how.to_owned());
}

/// win.place
pub(in super::super) fn taken(case: &Case<'_>, hits: &mut Hits) {
    let Some(windows) = &case.report.windows else { return };
    let version = &windows.version;
    if case.place.id == "tencent"
        && version.build_number() > 0
        && (!version.is_server() || version.build_number() > 20348)
    {
        let what = format!(
            "{} is not among the systems that are taken: Windows Server 2008 to 2022",
            version.product_or_windows()
        );
        hits.add_as(Impact::Advice, what, windows.seen("SOFTWARE", "Microsoft\\Windows NT\\CurrentVersion"));
    }
    if needs::of(case.place.id).disk.is_none() {
        hits.add(
            format!("it is {}; {} takes no Windows", windows.version.product_or_windows(), case.place.name),
            Seen::file("/Windows"),
        );
    }
}

/// win.filters
pub(in super::super) fn filters(case: &Case<'_>, hits: &mut Hits) {
    let Some(windows) = &case.report.windows else { return };
    for filter in &windows.filters {
        let Some(fault) = &filter.fault else { continue };
        let what = format!("{} filters {} and {fault}", filter.service, filter.class);
        let seen = Seen::file(format!("/Windows/System32/config/SYSTEM\\{}", filter.key));
        // A controller of another kind than that of the new place is not used.
        match filter.class {
            "disks" | "volumes" => hits.add(what, seen),
            _ => hits.add_as(Impact::Advice, what, seen),
        }
    }
}
