//! Plain tables: columns as wide as their widest cell, two spaces between, no frames.

use super::escape::visible_short;

/// Longest cell that is shown whole.
const CELL: usize = 120;

/// Where the text of a column stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows under headings.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; its cells are made safe for a terminal here.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| visible_short(&cell, CELL)).collect());
    }

    /// The lines, headings first, without trailing blanks.
    pub(crate) fn lines(&self) -> Vec<String> {
        let heading: Vec<String> = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        let all: Vec<&Vec<String>> = std::iter::once(&heading).chain(&self.rows).collect();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|i| {
                all.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        all.iter()
            .map(|row| {
                let mut line = String::new();
                for ((cell, width), (_, align)) in row.iter().zip(&widths).zip(&self.columns) {
                    let blanks = " ".repeat(width.saturating_sub(cell.chars().count()));
                    if !line.is_empty() {
                        line.push_str("  ");
                    }
                    match align {
                        Align::Left => line.push_str(&(cell.clone() + &blanks)),
                        Align::Right => line.push_str(&(blanks + cell)),
                    }
                }
                line.trim_end().to_owned()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_hostile_cells_cannot_break_a_line() {
        let mut table = Table::new(&[("NAME", Align::Left), ("BYTES", Align::Right), ("KIND", Align::Left)]);
        table.row(["a".into(), "1".into(), "x".into()]);
        table.row(["long\nname".into(), "123456".into(), String::new()]);
        assert_eq!(
            table.lines(),
            ["NAME            BYTES  KIND", "a                   1  x", r"long\u{a}name  123456"]
        );
    }
}
