//! Which firmware an image is made for.

use kiln_catalog::machine::MachineFirmware;
use kiln_catalog::{Manifest, Store};
use kiln_disk::partition::{PartitionType, Scheme, read_table, types};

use crate::error::Result;
use crate::layers;

/// What the image's record says (`kiln set --boot`, or the appliance that it came from); else what its partition
/// table shows. A disk that a BIOS can start is started by one: BIOS guests start without any files of their own.
///
/// # Errors
/// A layer that cannot be opened or read.
pub(crate) fn of_image(store: &Store, image: &Manifest) -> Result<MachineFirmware> {
    let said = image.boot_mode.as_deref();
    let appliance = image.provenance.appliance.as_ref().and_then(|record| record.firmware.as_deref());
    if let Some(said) = said.or(appliance) {
        let said = said.to_ascii_lowercase();
        if said.contains("bios") || said.contains("legacy") {
            return Ok(MachineFirmware::Bios);
        }
        if said.contains("efi") {
            return Ok(MachineFirmware::Uefi);
        }
    }
    let disk = layers::open(store, image)?;
    let table = read_table(disk.as_ref())?;
    let gpt = matches!(table.scheme, Scheme::Gpt | Scheme::HybridGpt);
    let has = |kind| table.partitions.iter().any(|part| part.kind == PartitionType::Gpt(kind));
    let esp = has(types::ESP);
    let for_bios =
        table.mbr.signed && table.mbr.has_code && (table.mbr.loader.is_some() || has(types::BIOS_BOOT));
    Ok(if gpt && esp && !for_bios { MachineFirmware::Uefi } else { MachineFirmware::Bios })
}
