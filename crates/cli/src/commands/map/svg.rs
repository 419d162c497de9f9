//! A picture of a disk, as large for a terabyte as for a megabyte.
//!
//! The disk is a ribbon that runs along rows, from the upper left to the lower right; each cell stands for the same
//! number of bytes and shows what most of them are. Above it a bar with the partitions to scale, beneath it what
//! the colours mean and how much there is of each. Everything is in the file: no font, script or image is fetched.

use std::fmt::Write;
use std::num::NonZeroU64;

use kiln_disk::{Disk, GuestOffset, Observer};
use kiln_format::partitions::{Layout, Partition};
use kiln_format::summary::{Summary, Tally};

use crate::error::{About, Result};
use crate::output::ShortSize;

/// Cells of a row, and rows.
const COLUMNS: u64 = 96;
const ROWS: u64 = 24;
/// Side of a cell and the space to the next.
const CELL: f64 = 8.0;
const STEP: f64 = 10.0;
/// The picture's frame.
const WIDTH: f64 = 1040.0;
const LEFT: f64 = 40.0;
const INNER: f64 = COLUMNS as f64 * STEP;
/// Partitions that get a piece of the bar; there may be thousands.
const SHOWN: usize = 32;

/// Kinds with their colour, in the order of the legend.
const KINDS: [(&str, &str); 4] =
    [("data", "#2563eb"), ("compressed", "#7c3aed"), ("zeros", "#93c5fd"), ("holes", "#e5e7eb")];
/// Colours of partitions, in turn.
const PARTITIONS: [&str; 8] =
    ["#0f766e", "#b45309", "#be185d", "#4d7c0f", "#6d28d9", "#0369a1", "#a16207", "#9f1239"];

/// What the picture says besides the cells.
pub(super) struct Words<'a> {
    pub(super) title: &'a str,
    pub(super) format: &'a str,
}

/// Draws.
pub(super) fn draw(disk: &dyn Disk, words: &Words<'_>, observer: &dyn Observer) -> Result<String> {
    let layout = Layout::read(disk).about(words.title)?;
    let cells = NonZeroU64::new(COLUMNS * ROWS).unwrap_or(NonZeroU64::MIN);
    let summary = Summary::of(disk, cells, observer).about(words.title)?;
    let rows = (summary.buckets.len() as u64).div_ceil(COLUMNS).max(1);
    let grid_top = 208.0;
    let legend_top = grid_top + rows as f64 * STEP + 34.0;
    let listed = layout.partitions.len().min(SHOWN);
    let height = legend_top + 86.0 + if listed > 0 { 22.0 * listed as f64 + 36.0 } else { 0.0 };
    let mut svg = String::with_capacity(256 << 10);
    head(&mut svg, height, words, &summary, &layout);
    bar(&mut svg, &summary, &layout);
    grid(&mut svg, &summary, &layout, grid_top);
    legend(&mut svg, &summary, legend_top);
    table(&mut svg, &layout, legend_top + 96.0);
    svg.push_str("</svg>\n");
    Ok(svg)
}

/// Writing into a string cannot fail.
macro_rules! put {
    ($svg:expr, $($words:tt)*) => { let _ = writeln!($svg, $($words)*); };
}

fn head(svg: &mut String, height: f64, words: &Words<'_>, summary: &Summary, layout: &Layout) {
    put!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" font-family="system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif" role="img">"#
    );
    put!(svg, "<title>Map of {}</title>", escaped(words.title));
    put!(svg, r##"<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>"##);
    put!(
        svg,
        r##"<text x="{LEFT}" y="46" font-size="22" font-weight="700" fill="#111827">{}</text>"##,
        escaped(&shortened(words.title, 70))
    );
    put!(
        svg,
        r##"<text x="{LEFT}" y="70" font-size="13" fill="#4b5563">{} · {} disk · {} · {} stored ({} %) · {} extents</text>"##,
        escaped(words.format),
        ShortSize(summary.disk_len),
        layout.scheme.words(),
        ShortSize(summary.all.stored()),
        percent(summary.all.stored(), summary.disk_len),
        summary.extents,
    );
}

/// The partitions to scale, each at least so wide that it is seen.
fn bar(svg: &mut String, summary: &Summary, layout: &Layout) {
    let (top, tall) = (96.0, 40.0);
    put!(
        svg,
        r##"<rect x="{LEFT}" y="{top}" width="{INNER}" height="{tall}" rx="5" fill="#f3f4f6" stroke="#d1d5db"/>"##
    );
    if layout.partitions.is_empty() {
        let (x, y) = (LEFT + INNER / 2.0, top + 25.0);
        put!(
            svg,
            r##"<text x="{x}" y="{y}" font-size="13" text-anchor="middle" fill="#6b7280">no partition table</text>"##
        );
    }
    for (index, partition) in layout.partitions.iter().take(SHOWN).enumerate() {
        let x = LEFT + along(partition.start_bytes, summary.disk_len);
        let end = LEFT + along(partition.end(), summary.disk_len);
        let width = (end - x).max(3.0).min(LEFT + INNER - x);
        put!(svg, r##"<g><title>{}</title>"##, escaped(&told(partition)));
        put!(
            svg,
            r##"<rect x="{x:.1}" y="{top}" width="{width:.1}" height="{tall}" rx="4" fill="{}" stroke="#ffffff" stroke-width="1.5"/>"##,
            colour(index)
        );
        let (middle, y) = (x + width / 2.0, top + 25.0);
        let label = label(partition);
        // About 7 units a character at this size.
        let text = if width > 7.4 * label.chars().count() as f64 + 12.0 {
            label
        } else if width > 16.0 {
            partition.number.to_string()
        } else {
            String::new()
        };
        put!(
            svg,
            r##"<text x="{middle:.1}" y="{y}" font-size="13" font-weight="600" text-anchor="middle" fill="#ffffff">{}</text></g>"##,
            escaped(&text)
        );
    }
    let y = top + tall + 18.0;
    for quarter in 0..=4_u32 {
        let x = LEFT + INNER * f64::from(quarter) / 4.0;
        let anchor =
            ["start", "middle", "middle", "middle", "end"].get(quarter as usize).unwrap_or(&"middle");
        let bytes = (u128::from(summary.disk_len) * u128::from(quarter) / 4) as u64;
        put!(
            svg,
            r##"<text x="{x:.1}" y="{y}" font-size="11" text-anchor="{anchor}" fill="#6b7280">{}</text>"##,
            ShortSize(bytes)
        );
    }
}

/// The ribbon. A line under a cell has the colour of the partition that it is in.
fn grid(svg: &mut String, summary: &Summary, layout: &Layout, top: f64) {
    put!(
        svg,
        r##"<text x="{LEFT}" y="{}" font-size="12" fill="#374151">each cell is {}, left to right and down; the stripe beneath a cell is its partition</text>"##,
        top - 14.0,
        ShortSize(summary.bucket_len)
    );
    for (index, bucket) in (0_u64..).zip(&summary.buckets) {
        let x = LEFT + (index % COLUMNS) as f64 * STEP;
        let y = top + (index / COLUMNS) as f64 * STEP;
        let start = index.saturating_mul(summary.bucket_len);
        let (fill, opacity) = shade(bucket);
        put!(
            svg,
            r##"<rect x="{x}" y="{y}" width="{CELL}" height="{CELL}" rx="1.2" fill="{fill}" fill-opacity="{opacity:.2}"><title>from byte {start}: {}</title></rect>"##,
            told_tally(bucket)
        );
        let middle = start.saturating_add(summary.bucket_len / 2);
        let inside = layout
            .partitions
            .iter()
            .take(SHOWN)
            .position(|one| one.start_bytes <= middle && middle < one.end());
        if let Some(number) = inside {
            let under = y + CELL;
            put!(
                svg,
                r##"<rect x="{x}" y="{under}" width="{STEP}" height="1.4" fill="{}"/>"##,
                colour(number)
            );
        }
    }
}

/// The colour of what most of the stored bytes are; paler where the cell holds little of it.
fn shade(bucket: &Tally) -> (&'static str, f64) {
    let [data, encoded, zeros, holes] = KINDS.map(|(_, colour)| colour);
    let total = bucket.total().max(1);
    let part = |bytes: u64| bytes as f64 / total as f64;
    if bucket.stored() > 0 {
        let fill = if bucket.encoded_bytes > bucket.data_bytes { encoded } else { data };
        return (fill, 0.35 + 0.65 * part(bucket.stored()));
    }
    if bucket.zero_bytes > bucket.hole_bytes { (zeros, 0.55) } else { (holes, 1.0) }
}

fn legend(svg: &mut String, summary: &Summary, top: f64) {
    let all = &summary.all;
    let sums = [all.data_bytes, all.encoded_bytes, all.zero_bytes, all.hole_bytes];
    for ((index, (name, colour)), bytes) in (0_u32..).zip(KINDS).zip(sums) {
        let x = LEFT + f64::from(index) * INNER / 4.0;
        let opacity = if name == "zeros" { 0.55 } else { 1.0 };
        put!(
            svg,
            r##"<rect x="{x}" y="{top}" width="18" height="18" rx="3" fill="{colour}" fill-opacity="{opacity}"/>"##
        );
        put!(
            svg,
            r##"<text x="{}" y="{}" font-size="14" font-weight="600" fill="#111827">{name}</text>"##,
            x + 27.0,
            top + 14.0
        );
        put!(
            svg,
            r##"<text x="{}" y="{}" font-size="12" fill="#4b5563">{} · {} %</text>"##,
            x + 27.0,
            top + 32.0,
            ShortSize(bytes),
            percent(bytes, summary.disk_len)
        );
    }
    // What the disk is made of, as one bar.
    let y = top + 50.0;
    let mut x = LEFT;
    for ((name, colour), bytes) in KINDS.iter().zip(sums) {
        let width = along(bytes, summary.disk_len);
        let opacity = if *name == "zeros" { 0.55 } else { 1.0 };
        if width > 0.0 {
            put!(
                svg,
                r##"<rect x="{x:.2}" y="{y}" width="{width:.2}" height="10" fill="{colour}" fill-opacity="{opacity}"/>"##
            );
        }
        x += width;
    }
}

fn table(svg: &mut String, layout: &Layout, top: f64) {
    if layout.partitions.is_empty() {
        return;
    }
    let mut y = top;
    for (index, partition) in layout.partitions.iter().take(SHOWN).enumerate() {
        put!(
            svg,
            r##"<rect x="{LEFT}" y="{}" width="12" height="12" rx="2" fill="{}"/>"##,
            y - 10.5,
            colour(index)
        );
        put!(
            svg,
            r##"<text x="{}" y="{y}" font-size="13" fill="#111827">{}</text>"##,
            LEFT + 27.0,
            escaped(&shortened(&capital(&partition.to_string()), 80))
        );
        put!(
            svg,
            r##"<text x="{}" y="{y}" font-size="12" text-anchor="end" fill="#4b5563">{} from {}</text>"##,
            LEFT + INNER,
            ShortSize(partition.length_bytes),
            GuestOffset::new(partition.start_bytes)
        );
        y += 22.0;
    }
    if let Some(more) = layout.partitions.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        put!(svg, r##"<text x="{LEFT}" y="{y}" font-size="12" fill="#4b5563">and {more} more</text>"##);
    }
}

/// Where a byte of the disk is along the width.
fn along(byte: u64, disk_len: u64) -> f64 {
    INNER * (byte as f64 / disk_len.max(1) as f64).min(1.0)
}

fn percent(bytes: u64, of: u64) -> String {
    let thousandths = u128::from(bytes) * 1000 / u128::from(of.max(1));
    format!("{}.{}", thousandths / 10, thousandths % 10)
}

fn colour(index: usize) -> &'static str {
    PARTITIONS.get(index % PARTITIONS.len()).copied().unwrap_or("#0f766e")
}

fn label(partition: &Partition) -> String {
    let what = partition.filesystem.or(partition.type_name).unwrap_or("");
    match partition.number {
        0 => what.to_owned(),
        number if what.is_empty() => number.to_string(),
        number => format!("{number} {what}"),
    }
}

fn told(partition: &Partition) -> String {
    format!("{partition}: bytes {} to {}", partition.start_bytes, partition.end())
}

fn told_tally(tally: &Tally) -> String {
    let kinds = [
        ("data", tally.data_bytes),
        ("compressed", tally.encoded_bytes),
        ("zeros", tally.zero_bytes),
        ("holes", tally.hole_bytes),
    ];
    let present = kinds.iter().filter(|(_, bytes)| *bytes > 0);
    present.map(|(name, bytes)| format!("{} {name}", ShortSize(*bytes))).collect::<Vec<_>>().join(", ")
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

fn shortened(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or(text)),
    }
}

/// A stranger's words inside XML: markup and what XML cannot hold are taken out of them.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in crate::output::visible(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_strangers_stay_words() {
        assert_eq!(escaped("<script>&\"'\n"), "&lt;script&gt;&amp;&quot;&#39;\\u{a}");
        assert_eq!(shortened("abcdef", 3), "abc…");
    }

    #[test]
    fn shares_are_told_in_tenths() {
        assert_eq!(percent(1, 3), "33.3");
        assert_eq!(percent(0, 0), "0.0");
        assert_eq!(percent(u64::MAX, u64::MAX), "100.0");
    }
}
