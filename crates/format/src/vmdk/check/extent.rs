//! One sparse extent: headers, both directories, tables, what is behind the last grain.

use kiln_disk::{Cost, FileOffset, GuestOffset, Observer, Result, RunKind, go_on, zero};

use super::decode::Decode;
use super::{Report, row_of, specs};
use crate::image::CheckScope;
use crate::vmdk::header::{SECTOR, flag};
use crate::vmdk::image::Part;
use crate::vmdk::layout::{self, Met};
use crate::vmdk::open;
use crate::vmdk::sparse::Sparse;
use crate::wire::{as_bytes, in_memory};

pub(super) fn run(
    part: &Part,
    sparse: &Sparse,
    scope: CheckScope,
    observer: &dyn Observer,
    report: &mut Report,
) -> Result<()> {
    headers(sparse, report);
    redundant(part, sparse, observer, report)?;
    let looks = scope.includes_data() && sparse.header.is_compressed();
    let decodes = scope == CheckScope::Data;
    let mut decode = looks.then(|| Decode::new(part, sparse, decodes, observer));
    let mut seen = Seen { tables: 0, grains: 0, tables_end: 0, last: None };
    layout::walk(sparse, &mut |met| {
        go_on(observer)?;
        match met {
            Met::Table { at } => {
                seen.tables = seen.tables.saturating_add(1);
                seen.tables_end = at.saturating_add(sparse.table_len());
            }
            Met::Grain { grain, at } => {
                seen.grains = seen.grains.saturating_add(1);
                seen.last = Some((grain, at));
                if let Some(decode) = &mut decode {
                    decode.take(grain, at, report)?;
                }
            }
            Met::BadTable { table, problem } => {
                let covers = sparse.entries_per_table().get().saturating_mul(sparse.grain_len());
                let start = table.saturating_mul(covers);
                let len = sparse.len().saturating_sub(start).min(covers);
                report.push(row_of(&problem), &|| problem.to_string(), |finding| {
                    let finding = finding.at(FileOffset::new(sparse.directory_entry_at(table)));
                    finding.guest(GuestOffset::new(part.start.saturating_add(start)), len)
                });
            }
            Met::BadGrain { grain, problem } => {
                report.push(row_of(&problem), &|| problem.to_string(), |finding| {
                    let start = part.start.saturating_add(grain.saturating_mul(sparse.grain_len()));
                    let finding = finding.at(sparse.entry_at(grain));
                    finding.guest(GuestOffset::new(start), sparse.used_len(grain))
                });
            }
        }
        Ok(())
    })?;
    let decoded_end = match decode {
        Some(decode) => decode.finish(report)?,
        None => None,
    };
    end_of_file(part, sparse, &seen, decoded_end, observer, report)
}

/// What a walk has met.
struct Seen {
    tables: u64,
    grains: u64,
    tables_end: u64,
    /// The grain that is last in the file.
    last: Option<(u64, u64)>,
}

fn headers(sparse: &Sparse, report: &mut Report) {
    let front = &sparse.front;
    if let Some(problem) = front.doubt() {
        let at = if row_of(&problem).id == specs::NEWLINES.id { 73 } else { 8 };
        report.push(row_of(&problem), &|| problem.to_string(), |finding| finding.at(FileOffset::new(at)));
    }
    let unknown = front.flags & !flag::KNOWN;
    if unknown != 0 {
        report.push(&specs::FLAGS, &|| format!("{unknown:#x}"), |finding| finding.at(FileOffset::new(8)));
    }
    if front.unclean_shutdown != 0 {
        let detail = || format!("uncleanShutdown is {}", front.unclean_shutdown);
        report.push(&specs::UNCLEAN, &detail, |finding| finding.at(FileOffset::new(72)));
    }
    if let Some(tail) = &sparse.tail {
        let at = FileOffset::new(tail.at);
        if let Some(field) = front.differs_from(&tail.footer) {
            report.push(&specs::FOOTER_DIFFERS, &|| format!("they differ in {field}"), |finding| {
                finding.at(at)
            });
        }
        let missing = match (tail.marked, tail.zeros) {
            (false, _) => Some("no footer marker before the footer"),
            (true, zeros) if zeros < SECTOR => Some("no end-of-stream marker behind the footer"),
            _ => None,
        };
        if let Some(missing) = missing {
            report.push(&specs::STREAM_END, &|| missing.to_owned(), |finding| finding.at(at));
        }
        let trailing = tail.zeros.saturating_sub(SECTOR);
        if trailing > 0 {
            let behind = at.saturating_add(SECTOR * 2);
            report.push(&specs::TRAILING, &|| format!("{trailing} bytes"), |finding| finding.at(behind));
        }
    }
    if let Some((one, other)) = open::overlap(sparse) {
        let detail = || format!("{} and {}", one.name, other.name);
        let at = FileOffset::new(one.start.max(other.start));
        report.push(&specs::OVERLAP, &detail, |finding| finding.at(at));
    }
}

/// Compares the tables of both directories.
fn redundant(part: &Part, sparse: &Sparse, observer: &dyn Observer, report: &mut Report) -> Result<()> {
    let header = &sparse.header;
    if !open::has_redundant(header) {
        return Ok(());
    }
    let file_len = sparse.source.byte_len();
    let start = header.rgd_offset.saturating_mul(SECTOR);
    let len = sparse.tables().saturating_mul(4);
    if start.saturating_add(len) > file_len {
        let detail = || format!("it is said to be at {start:#x}, the file has {file_len} bytes");
        report.push(&specs::REDUNDANT, &detail, |finding| finding.at(FileOffset::new(48)));
        return Ok(());
    }
    let table_len = in_memory(sparse.table_len());
    let (mut one, mut other) = (vec![0; table_len], vec![0; table_len]);
    for table in 0..sparse.tables() {
        go_on(observer)?;
        sparse.budget.charge(Cost::MetadataBytes, as_bytes(table_len).saturating_mul(2))?;
        let entry_at = start.saturating_add(table.saturating_mul(4));
        let mut raw = [0; 4];
        sparse.source.read_bytes(FileOffset::new(entry_at), &mut raw)?;
        let second = Some(u64::from(u32::from_le_bytes(raw)).saturating_mul(SECTOR)).filter(|at| *at != 0);
        let first = sparse.table_entry(table)?.filter(|at| sparse.table_fault(*at).is_none());
        // A table that is not there is one of zeros; one outside the file is wrong, whatever the other says.
        let outside = second.is_some_and(|at| at.saturating_add(sparse.table_len()) > file_len);
        for (at, buf) in [(first, &mut one), (second, &mut other)] {
            buf.fill(0);
            if let Some(at) = at.filter(|_| !outside) {
                sparse.source.read_bytes(FileOffset::new(at), buf)?;
            }
        }
        if outside || one != other {
            let covers = sparse.entries_per_table().get().saturating_mul(sparse.grain_len());
            let from = table.saturating_mul(covers);
            let len = sparse.len().saturating_sub(from).min(covers);
            report.push(&specs::REDUNDANT, &|| format!("grain table {table}"), |finding| {
                let finding = finding.at(FileOffset::new(entry_at));
                finding.guest(GuestOffset::new(part.start.saturating_add(from)), len)
            });
        }
    }
    Ok(())
}

/// Looks behind the last thing that a table leads to.
///
/// QEMU makes room for a whole grain, compresses, stores the grain there and enters it into its table, in this order.
/// Of a conversion that was stopped nothing is left but such room, and of one that went to its end there never is a
/// whole grain behind the start of the last.
fn end_of_file(
    part: &Part,
    sparse: &Sparse,
    seen: &Seen,
    decoded_end: Option<u64>,
    observer: &dyn Observer,
    report: &mut Report,
) -> Result<()> {
    let file_len = sparse.source.byte_len();
    let over_head = sparse.header.over_head.saturating_mul(SECTOR).min(file_len);
    let fixed_end = sparse.regions.iter().map(|region| region.start.saturating_add(region.len)).max();
    let last_end = match seen.last {
        None => over_head,
        Some(_) if decoded_end.is_some() => decoded_end.unwrap_or(0),
        Some((grain, at)) if sparse.header.is_compressed() => {
            let mut window = crate::encoded::Window::default();
            match sparse.compressed_len(grain, at, 0, &mut window) {
                Ok(len) => at.saturating_add(len).next_multiple_of(SECTOR),
                // Its marker is wrong, which is found where grains are decoded.
                Err(_) => at.saturating_add(sparse.grain_len()),
            }
        }
        Some((_, at)) => at.saturating_add(sparse.grain_len()),
    };
    let end = last_end.max(seen.tables_end).max(fixed_end.unwrap_or(0));
    let behind = file_len.saturating_sub(end);
    let end_known = !sparse.header.is_compressed() || sparse.has_markers() || seen.last.is_none();
    if behind < sparse.grain_len() || sparse.tail.is_some() || !end_known {
        return Ok(());
    }
    let data_at = first_data(sparse, end, observer)?;
    let at = FileOffset::new(data_at.unwrap_or(end));
    if sparse.header.is_compressed() || (seen.grains == 0 && data_at.is_some()) {
        let what = if data_at.is_some() { "data" } else { "room for more" };
        let detail =
            || format!("{} grains are in the tables, and {what} follows for {behind} bytes", seen.grains);
        report.push(&specs::UNFINISHED, &detail, |finding| {
            finding.at(at).guest(GuestOffset::new(part.start), part.len)
        });
    } else {
        report.push(&specs::LEAK, &|| format!("{behind} bytes"), |finding| finding.at(at));
    }
    Ok(())
}

/// The first stretch with a byte that is not zero, at or behind `from`.
fn first_data(sparse: &Sparse, from: u64, observer: &dyn Observer) -> Result<Option<u64>> {
    let mut at = from;
    let mut buffer = vec![0; 1 << 16];
    while let Some(run) = sparse.source.run_at(FileOffset::new(at))? {
        go_on(observer)?;
        if run.kind == RunKind::Hole {
            at = at.saturating_add(run.len.get());
            continue;
        }
        let take = run.len.get().min(as_bytes(buffer.len()));
        let bytes = buffer.get_mut(..in_memory(take)).unwrap_or_default();
        sparse.source.read_bytes(FileOffset::new(at), bytes)?;
        if !zero::is_zero(bytes) {
            return Ok(Some(at));
        }
        at = at.saturating_add(take);
    }
    Ok(None)
}
