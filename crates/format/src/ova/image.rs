//! An appliance as an image: the disk that was chosen, with the machine around it.

use std::num::NonZeroU64;
use std::sync::Arc;

use kiln_disk::{ByteSource, Disk, Error, Extent, Findings, GuestOffset, Observer, Result, check_range};

use super::appliance::Appliance;
use super::check;
use super::hardware::DriveKind;
use crate::facts::{Detail, Facts};
use crate::image::{CheckScope, Image, OpenContext, Tolerance};
use crate::nested::Nested;
use crate::table::Format;

/// An open appliance.
pub(super) struct ApplianceImage {
    pub(super) format: &'static Format,
    pub(super) source: Arc<dyn ByteSource>,
    pub(super) appliance: Appliance,
    pub(super) context: OpenContext,
    /// Index of the disk that reads go to.
    pub(super) chosen: usize,
    /// Whether the user chose it.
    pub(super) is_choice: bool,
    /// None when it cannot be opened and that was to be tolerated.
    disk: Option<Nested>,
}

impl ApplianceImage {
    /// Opens the disk that `context` chooses.
    pub(super) fn open(
        format: &'static Format,
        source: Arc<dyn ByteSource>,
        appliance: Appliance,
        context: &OpenContext,
    ) -> Result<Box<dyn Image>> {
        let tolerant = context.tolerance == Tolerance::Damaged;
        let chosen = match appliance.choose(context.part.as_deref()) {
            // To look at an appliance is to look at all of it.
            Err(error) if tolerant && context.part.is_none() && error.code() == "ova.which-disk" => 0,
            other => other?,
        };
        let disk = match appliance.open_disk(chosen, context) {
            Ok(disk) => Some(disk),
            Err(Error::Malformed { .. } | Error::Unsupported { .. }) if tolerant => None,
            Err(error) => return Err(error),
        };
        let is_choice = context.part.is_some();
        let context = context.clone();
        Ok(Box::new(Self { format, source, appliance, context, chosen, is_choice, disk }))
    }
}

impl Disk for ApplianceImage {
    fn disk_len(&self) -> u64 {
        self.disk.as_ref().map_or(0, Disk::disk_len)
    }

    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        match &self.disk {
            Some(disk) => disk.read_guest(at, buf),
            None => check_range(at, buf.len(), 0),
        }
    }

    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        check_range(at, 1, self.disk_len())?;
        match &self.disk {
            Some(disk) => disk.extent_at(at, limit),
            // The range check has said so already.
            None => Err(Error::Cancelled),
        }
    }
}

impl Image for ApplianceImage {
    fn format(&self) -> &'static Format {
        self.format
    }

    fn facts(&self) -> Facts {
        let disk = self.disk.as_ref().map(Nested::facts);
        let count = self.appliance.disks().count();
        Facts {
            format: self.format.id,
            variant: format!(
                "OVF {}, {count} {}",
                self.appliance.descriptor.version,
                if count == 1 { "disk" } else { "disks" }
            ),
            disk_bytes: self.disk_len(),
            file_bytes: self.source.byte_len(),
            unit_bytes: disk.as_ref().and_then(|facts| facts.unit_bytes),
            compression: disk.as_ref().and_then(|facts| facts.compression),
            references: disk.as_ref().map(|facts| facts.references.clone()).unwrap_or_default(),
            snapshots: Vec::new(),
            details: self.details(disk.as_ref()),
        }
    }

    fn check(&self, scope: CheckScope, observer: &dyn Observer) -> Result<Findings> {
        check::run(self, self.disk.as_ref(), scope, observer)
    }

    fn appliance(&self) -> Option<&Appliance> {
        Some(&self.appliance)
    }
}

impl ApplianceImage {
    fn details(&self, disk: Option<&Facts>) -> Vec<Detail> {
        let appliance = &self.appliance;
        let mut details = vec![Detail::text("descriptor", appliance.name.as_str())];
        details.push(Detail::text("manifest", manifest_words(appliance)));
        if let Some(name) = &appliance.certificate {
            details.push(Detail::text("certificate", format!("{name} (not verified)")));
        }
        let described = |index: usize| {
            let (entry, file) = appliance.disks().nth(index)?;
            let size = entry.capacity_bytes.map_or_else(String::new, |len| format!(", {len} bytes"));
            Some(format!("{} {}{size}", index.saturating_add(1), file.href))
        };
        details.push(Detail::list("disks", (0..).map_while(described).collect()));
        let empty: Vec<String> = appliance
            .descriptor
            .disks
            .iter()
            .filter(|disk| disk.file.is_none())
            .map(|disk| disk.id.clone())
            .collect();
        if !empty.is_empty() {
            details.push(Detail::list("disks_without_file", empty));
        }
        if let Some((entry, file)) = appliance.disks().nth(self.chosen) {
            details.push(Detail::text("disk", file.href.as_str()));
            details.push(Detail::text("disk_id", entry.id.as_str()));
        }
        if let Some(disk) = disk {
            let around: String =
                self.disk.iter().flat_map(Nested::wrappers).map(|wrapper| format!("{wrapper} > ")).collect();
            details.push(Detail::text("disk_format", format!("{around}{}, {}", disk.format, disk.variant)));
        }
        self.machine(&mut details);
        details
    }

    /// The first machine: appliances of several are rare, and their disks are listed above.
    fn machine(&self, details: &mut Vec<Detail>) {
        let systems = &self.appliance.descriptor.systems;
        let Some(system) = systems.first() else { return };
        if systems.len() > 1 {
            let count = u64::try_from(systems.len()).unwrap_or(u64::MAX);
            details.push(Detail::number("virtual_systems", count));
        }
        let mut text = |name, value: Option<&String>| {
            details.extend(value.map(|value| Detail::text(name, value.as_str())));
        };
        text("virtual_system", system.name.as_ref().or(Some(&system.id)));
        text("product", system.product.as_ref());
        text("operating_system", system.os_description.as_ref());
        text("os_type", system.os_type.as_ref());
        let Some(hardware) = &system.hardware else { return };
        text("virtual_system_type", hardware.family.as_ref());
        if let Some(firmware) = hardware.firmware {
            details.push(Detail::text("firmware", firmware.word()));
        }
        details.extend(hardware.secure_boot.map(|on| Detail::flag("secure_boot", on)));
        details.extend(hardware.cpus.map(|cpus| Detail::number("cpus", cpus)));
        details.extend(hardware.memory_bytes.map(|bytes| Detail::number("memory_bytes", bytes)));
        let with_model = |kind: &str, model: Option<&String>| match model {
            Some(model) => format!("{kind} {model}"),
            None => kind.to_owned(),
        };
        let controllers = hardware.controllers.iter();
        let controllers =
            controllers.map(|controller| with_model(controller.bus, controller.model.as_ref())).collect();
        details.push(Detail::list("controllers", controllers));
        let drives = hardware.drives.iter().map(|drive| {
            let kind = match drive.kind {
                DriveKind::Disk => "disk",
                DriveKind::Cdrom => "cdrom",
                DriveKind::Floppy => "floppy",
            };
            let on = drive.controller.as_deref().and_then(|instance| {
                hardware.controllers.iter().find(|controller| controller.instance == instance)
            });
            let slot = drive.slot.map_or_else(String::new, |slot| format!(":{slot}"));
            let place = on.map_or_else(String::new, |controller| format!(" on {}{slot}", controller.bus));
            with_model(kind, drive.holds.as_ref()) + &place
        });
        details.push(Detail::list("drives", drives.collect()));
        let networks = hardware.networks.iter().map(|card| with_model("card", card.model.as_ref()));
        details.push(Detail::list("networks", networks.collect()));
    }
}

/// The manifest in words; its digests are compared by the check.
fn manifest_words(appliance: &Appliance) -> String {
    let Some(manifest) = &appliance.manifest else { return "none".to_owned() };
    let words: Vec<&str> = manifest.algorithms().iter().map(|algorithm| algorithm.name()).collect();
    let files = appliance.descriptor.files.iter();
    let listed = files.filter(|file| manifest.of(&file.href).next().is_some()).count();
    format!(
        "{}, lists {listed} of {} files; kiln check compares them",
        if words.is_empty() { "empty".to_owned() } else { words.join(" and ") },
        appliance.descriptor.files.len()
    )
}
