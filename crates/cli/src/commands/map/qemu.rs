//! The list of extents as `qemu-img map --output=json` prints it.

use std::num::NonZeroU64;

use kiln_disk::{extents, go_on};
use kiln_format::Image;
use kiln_format::qemu::{Map, MapEntry};

use crate::error::{About, Result};
use crate::output::Printer;
use crate::session::Session;

/// Prints the list, an entry on each line.
pub(super) fn print(image: &dyn Image, label: &str, session: &mut Session) -> Result<()> {
    let Session { printer, reporter, .. } = session;
    let mut map = Map::of(image);
    let mut separator = "[";
    let mut put = |entry: &MapEntry, printer: &mut Printer| -> Result<()> {
        let text = serde_json::to_string(entry).unwrap_or_default();
        printer.bytes(format!("{separator}{text}").as_bytes());
        separator = ",\n";
        printer.flush_if_large()
    };
    for extent in extents(image, NonZeroU64::MAX) {
        go_on(reporter)?;
        if let Some(entry) = map.push(&extent.about(label)?) {
            put(&entry, printer)?;
        }
    }
    match map.finish() {
        Some(last) => put(&last, printer)?,
        None => printer.bytes(b"["),
    }
    printer.bytes(b"]\n");
    Ok(())
}
