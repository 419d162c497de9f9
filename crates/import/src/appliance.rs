//! What an import records of the appliance that its disk was part of.

use kiln_catalog::ApplianceRecord;
use kiln_disk::Findings;
use kiln_format::Image;

/// The record of the machine around the chosen disk, where the file describes one.
pub(crate) fn record(image: &dyn Image, part: Option<&str>, findings: &Findings) -> Option<ApplianceRecord> {
    let appliance = image.appliance()?;
    let (disk, file) = appliance.disks().nth(appliance.choose(part).ok()?)?;
    let mut record = ApplianceRecord {
        descriptor: appliance.name.clone(),
        disk: file.href.clone(),
        manifest_verified: appliance.manifest.is_some()
            && !findings.list().iter().any(|f| f.check.id.starts_with("ova.mf.") && f.check.severity.fails()),
        ..ApplianceRecord::default()
    };
    // The machine that has the disk; of several, the others are not this image's.
    let systems = &appliance.descriptor.systems;
    let has_disk = |system: &&kiln_format::ova::System| {
        system.hardware.as_ref().is_some_and(|hardware| hardware.controller_of(&disk.id).is_some())
    };
    if let Some(system) = systems.iter().find(has_disk).or_else(|| systems.first()) {
        record.system = system.name.clone().or_else(|| Some(system.id.clone()));
        record.os_type.clone_from(&system.os_type);
        record.os_description.clone_from(&system.os_description);
        if let Some(hardware) = &system.hardware {
            record.family.clone_from(&hardware.family);
            record.firmware = hardware.firmware.map(|firmware| firmware.word().to_owned());
            record.secure_boot = hardware.secure_boot;
            record.cpus = hardware.cpus;
            record.memory_bytes = hardware.memory_bytes;
            let controller = hardware.controller_of(&disk.id);
            record.disk_bus = controller.map(|controller| controller.bus.to_owned());
            record.disk_controller = controller.and_then(|controller| controller.model.clone());
            record.networks = hardware.networks.iter().filter_map(|card| card.model.clone()).collect();
        }
    }
    Some(record)
}
