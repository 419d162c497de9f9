//! What is said of a medium.

use kiln_guest::facts::media::{Medium, MediumKind};

use crate::output::ShortSize;

/// The facts as lines of name and value.
pub(super) fn rows(medium: &Medium) -> Vec<(&'static str, String)> {
    let unknown = medium.name.is_none() && medium.kind == MediumKind::Unknown;
    let words = if unknown { "nothing on it says what it is for".to_owned() } else { medium.words() };
    let mut rows = vec![("medium", words)];
    let quoted = |text: &str| if text.is_empty() { String::new() } else { format!("{text:?}") };
    if let Some(volume) = &medium.volume {
        let mut marks = vec![medium.variant.to_owned(), ShortSize(volume.bytes).to_string()];
        marks.extend(volume.udf.then(|| "UDF as well, which is not read".to_owned()));
        marks.extend(volume.hybrid.then(|| "starts from a disk as well (hybrid)".to_owned()));
        rows.push(("ISO 9660", marks.join(", ")));
        if volume.missing > 0 {
            rows.push((
                "cut off",
                format!("the last {} of the volume are not there", ShortSize(volume.missing)),
            ));
        }
        rows.push(("label", quoted(&volume.label)));
        rows.push(("volume set", quoted(&volume.volume_set)));
        rows.push(("publisher", quoted(&volume.publisher)));
        rows.push(("preparer", quoted(&volume.preparer)));
        rows.push(("application", quoted(&volume.application)));
        rows.push(("made", volume.created.clone().unwrap_or_default()));
    } else {
        rows.push((medium.format, medium.variant.to_owned()));
    }
    for entry in &medium.boot {
        let off = if entry.bootable { "" } else { " (marked as not bootable)" };
        let load = u64::from(entry.load_sectors) * 512;
        rows.push((
            "boot entry",
            format!(
                "{}{off}, emulation: {}, sector {} of 2048 bytes, loads {load} bytes",
                entry.platform, entry.emulation, entry.sector
            ),
        ));
    }
    for sign in &medium.signs {
        rows.push(("says", format!("{}: {}", sign.path, sign.says)));
    }
    for image in &medium.images {
        let packed = image.compression.map_or(String::new(), |compression| format!(" ({compression})"));
        let release = image.release.as_ref().map_or(String::new(), |release| format!(", {}", release.name));
        let len = ShortSize(image.bytes);
        rows.push(("system image", format!("{}: {}{packed}, {len}{release}", image.path, image.content)));
    }
    rows.extend(medium.problems.iter().map(|problem| ("not read", problem.clone())));
    rows
}
