//! The guest's part of `kiln inspect`.

mod medium;

use std::sync::Arc;

use kiln_disk::partition::Scheme;
use kiln_disk::{Disk, Limits};
use kiln_format::{Choice, Image, Tolerance};
use kiln_guest::facts::Depth;
use kiln_guest::facts::windows::Windows;
use kiln_guest::{GuestReport, Question};

use crate::input::{Input, SourceArgs};
use crate::output::{Printer, ShortSize};

/// Looks at the guest of a file; nothing when its disk cannot be read.
pub(super) fn of(input: &Input, source: &SourceArgs) -> Option<GuestReport> {
    look(crate::commands::check::guest::open(input, source).ok()?)
}

/// Looks at a file as the medium that it is.
pub(super) fn of_medium(input: &Input, source: &SourceArgs) -> Option<GuestReport> {
    let context = input.context(source, Tolerance::Damaged, Limits::INSPECT).ok()?;
    let image = kiln_format::open(input.source(), Choice::AsRaw, &context).ok()?;
    look(Arc::<dyn Image>::from(image)).filter(|report| report.media.is_some())
}

fn look(disk: Arc<dyn Disk>) -> Option<GuestReport> {
    let question = Question { depth: Depth::Full, limits: Limits::INSPECT, asked: Vec::new() };
    crate::guest_reader().look(&[disk], &question).ok().map(|look| look.report)
}

/// The facts as lines of name and value, the most asked first.
pub(crate) fn rows(report: &GuestReport) -> Vec<(String, String)> {
    let mut rows: Vec<(String, String)> = Vec::new();
    let mut row = |name: &str, value: String| {
        if !value.is_empty() {
            rows.push((name.to_owned(), value));
        }
    };
    if let Some(os) = &report.os {
        row("system", format!("{} ({})", os.name, os.architecture.unwrap_or("unknown architecture")));
        row("host name", os.hostname.clone().unwrap_or_default());
        row("updates until", os.end_of_life.unwrap_or_default().to_owned());
    }
    if let Some(medium) = &report.media {
        for (name, value) in medium::rows(medium) {
            row(name, value);
        }
    }
    for table in &report.tables {
        let scheme = scheme(table.scheme);
        row("partition table", format!("{scheme}, {} partitions", table.partitions.len()));
        for fault in &table.faults {
            row("", fault.clone());
        }
    }
    for (index, volume) in report.volumes.iter().enumerate() {
        let mount = report.mounts.iter().find(|mount| mount.volume == index);
        let mount = mount.map_or(String::new(), |mount| format!(" on {}", mount.at));
        let label = if volume.probed.label.is_empty() {
            String::new()
        } else {
            format!(" {:?}", volume.probed.label)
        };
        let space = volume.probed.space.map_or(String::new(), |space| {
            format!(", {} of {} free", ShortSize(space.free), ShortSize(space.total))
        });
        let state = match volume.probed.state {
            Some(kiln_guest::volume::FsState::NeedsRecovery | kiln_guest::volume::FsState::Dirty) => {
                ", not unmounted"
            }
            Some(kiln_guest::volume::FsState::Errors) => ", with errors",
            Some(kiln_guest::volume::FsState::Damaged) => ", its journal is gone",
            _ => "",
        };
        let name = volume.place.to_string();
        let what = format!("{}{label}{mount}, {}{space}{state}", volume.probed.kind, ShortSize(volume.len));
        row("volume", format!("{name}: {what}"));
    }
    let boot = &report.boot;
    let modes = match (boot.bios, boot.fallback.is_empty(), boot.uefi) {
        (true, false, _) => "BIOS and UEFI",
        (true, true, true) => "BIOS; UEFI only with stored variables",
        (true, true, false) => "BIOS",
        (false, false, _) => "UEFI",
        (false, true, true) => "UEFI with stored variables only",
        (false, true, false) => "nothing that a firmware starts",
    };
    // How a medium starts, its catalogue says.
    if report.media.is_none() {
        row("boot", modes.to_owned());
    }
    row("loader", boot.loaders.join(", "));
    if let Some(windows) = &report.windows {
        for (name, value) in windows_rows(windows) {
            row(name, value);
        }
    }
    if let Some(entry) = boot.entries.iter().find(|entry| entry.default) {
        row("command line", entry.cmdline.clone());
    }
    for kernel in &report.kernels {
        let initramfs =
            kernel.initramfs.as_ref().map_or("no initramfs".to_owned(), |file| match &file.content {
                Some(content) => {
                    let kinds: Vec<&str> =
                        content.segments.iter().map(|segment| segment.compression).collect();
                    let fault =
                        content.fault.as_ref().map_or(String::new(), |fault| format!(", DAMAGED: {fault}"));
                    format!(
                        "{} ({}, {} modules in {}{fault})",
                        file.path,
                        maker(content.maker),
                        content.modules.len(),
                        kinds.join(" + ")
                    )
                }
                None => file.path.clone(),
            });
        row("kernel", format!("{} ({}), {initramfs}", kernel.path, kernel.release));
    }
    let interfaces: Vec<String> = report
        .network
        .interfaces
        .iter()
        .filter(|interface| interface.is_real())
        .map(|interface| {
            let how = if interface.dhcp { "DHCP" } else { "no DHCP" };
            format!("{} {how} ({}, {})", interface.name, interface.system, interface.seen)
        })
        .collect();
    row("network", interfaces.join("; "));
    row("network services", report.network.services.join(", "));
    if let Some(init) = &report.cloud_init {
        let state = if init.enabled { "enabled" } else { "off" };
        let sources =
            if init.datasources.is_empty() { "its own list".to_owned() } else { init.datasources.join(", ") };
        row(
            "cloud-init",
            format!("{} {state}, asks {sources}", init.version.as_deref().unwrap_or("of unknown version")),
        );
    }
    row("agents", report.agents.iter().map(|agent| agent.name).collect::<Vec<_>>().join(", "));
    let ssh = match (&report.ssh.installed, report.ssh.enabled) {
        (None, _) => "not installed",
        (Some(_), true) => "enabled",
        (Some(_), false) => "installed, not enabled",
    };
    if report.os.is_some() && report.windows.is_none() {
        row("SSH server", format!("{ssh}, {} host keys in the image", report.ssh.host_keys.len()));
    }
    let accounts: Vec<String> = report
        .accounts
        .iter()
        .map(|account| {
            let password = match account.password {
                kiln_guest::facts::access::Password::Locked => "locked",
                kiln_guest::facts::access::Password::Empty => "no password needed",
                kiln_guest::facts::access::Password::Set => "password",
                kiln_guest::facts::access::Password::Weak => "password, weak method",
                kiln_guest::facts::access::Password::Unknown => "unknown",
            };
            format!("{} ({password}, {} keys)", account.name, account.authorized_keys)
        })
        .collect();
    row("accounts", accounts.join(", "));
    row("SELinux", report.selinux.clone().unwrap_or_default());
    row("packages", report.packages.map_or(String::new(), |count| count.to_string()));
    let secrets: Vec<String> = report.secrets.iter().map(|secret| secret.seen.to_string()).collect();
    row("to be removed", secrets.join(", "));
    for problem in &report.problems {
        row("not read", problem.clone());
    }
    rows
}

/// What is said of a Windows alone.
fn windows_rows(windows: &Windows) -> Vec<(&'static str, String)> {
    let version = &windows.version;
    let revision = version.revision.map_or(String::new(), |revision| format!(".{revision}"));
    let build = format!(
        "{}.{}{revision} {} {}",
        version.number, version.build, version.edition, version.installation
    );
    let mut rows = vec![("build", build.trim().to_owned())];
    for (firmware, chain) in [("BIOS", &windows.bios), ("UEFI", &windows.uefi)] {
        let Some(chain) = chain else { continue };
        let manager = if chain.manager_present { "" } else { " (MISSING)" };
        let bcd = match (&chain.bcd.fault, &chain.bcd.program) {
            (Some(fault), _) => format!("{} {fault}", chain.bcd.path),
            (None, program) => {
                format!("{} starts {}", chain.bcd.path, program.as_deref().unwrap_or("nothing"))
            }
        };
        rows.push(("boot manager", format!("{firmware}: {}{manager}, {bcd}", chain.manager)));
    }
    for hive in &windows.hives {
        let state = match (&hive.fault, hive.dirty) {
            (Some(fault), _) => fault.clone(),
            (None, true) => "was being written".to_owned(),
            (None, false) => "in order".to_owned(),
        };
        rows.push(("registry", format!("{} {state}", hive.path)));
    }
    let boot = windows.drivers.iter().filter(|driver| driver.starts_at_boot());
    let boot: Vec<&str> = boot.map(|driver| driver.service.as_str()).collect();
    rows.push(("boot drivers", boot.join(", ")));
    let others = windows.drivers.iter().filter(|driver| !driver.starts_at_boot()).map(|driver| {
        let start = driver.start_override.or(driver.start);
        let start = start.map_or("without Start".to_owned(), |start| format!("start {start}"));
        let fault = driver.fault.as_ref().map_or(String::new(), |fault| format!(", its file {fault}"));
        format!("{} ({start}{fault})", driver.service)
    });
    rows.push(("other drivers", others.collect::<Vec<_>>().join(", ")));
    rows.push(("set-up agents", windows.agents.join(", ")));
    rows.push(("image state", windows.image_state.clone().unwrap_or_default()));
    if windows.hibernated {
        rows.push(("hibernated", "yes: hiberfil.sys holds the memory of a machine".to_owned()));
    }
    rows
}

/// A partition table's kind in words.
pub(crate) fn scheme(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::None => "none",
        Scheme::Mbr => "MBR",
        Scheme::Gpt => "GPT",
        Scheme::HybridGpt => "GPT with a hybrid MBR",
    }
}

fn maker(maker: kiln_guest::initramfs::Maker) -> &'static str {
    match maker {
        kiln_guest::initramfs::Maker::InitramfsTools => "initramfs-tools",
        kiln_guest::initramfs::Maker::Dracut => "dracut",
        kiln_guest::initramfs::Maker::Mkinitcpio => "mkinitcpio",
        kiln_guest::initramfs::Maker::Unknown => "unknown maker",
    }
}

/// The facts for people.
pub(super) fn text(report: &GuestReport, out: &mut Printer) {
    for (name, value) in rows(report) {
        out.data_field(&name, value);
    }
}
