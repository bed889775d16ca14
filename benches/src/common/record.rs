//! Records: CSV files that begin with the facts of the measurement.

use std::path::Path;

use anyhow::Context;

/// A table of results and the facts above it.
pub struct Record {
    facts: Vec<(&'static str, String)>,
    columns: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Record {
    /// An empty table with these columns, under these facts (see [`super::machine::facts`]).
    pub fn new(facts: Vec<(&'static str, String)>, columns: &[&'static str]) -> Record {
        Record {
            facts,
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a fact.
    pub fn fact(&mut self, name: &'static str, value: String) {
        self.facts.push((name, value));
    }

    /// Adds a row.
    ///
    /// # Panics
    ///
    /// Unless it has a cell for each column.
    pub fn push(&mut self, row: Vec<String>) {
        assert_eq!(row.len(), self.columns.len(), "cells of a row");
        self.rows.push(row);
    }

    /// The file's text: `# name: value` lines, the columns, the rows.
    pub fn text(&self) -> String {
        let facts = self
            .facts
            .iter()
            .map(|(name, value)| format!("# {name}: {value}"));
        let line = |cells: Vec<&str>| {
            let quoted = cells
                .iter()
                .map(|cell| match cell.contains([',', '"', '\n']) {
                    true => format!("\"{}\"", cell.replace('"', "\"\"")),
                    false => (*cell).to_owned(),
                });
            quoted.collect::<Vec<_>>().join(",")
        };
        let columns = std::iter::once(line(self.columns.clone()));
        let rows = self
            .rows
            .iter()
            .map(|row| line(row.iter().map(String::as_str).collect()));
        facts
            .chain(columns)
            .chain(rows)
            .map(|line| line + "\n")
            .collect()
    }

    /// Writes it to `path`, creating directories as needed.
    ///
    /// # Errors
    ///
    /// If the file cannot be written; the message names it.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("can't make the directory {}", directory.display()))?;
        }
        std::fs::write(path, self.text())
            .with_context(|| format!("can't write the record {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_csv_below_its_facts() {
        let mut record = Record::new(vec![("cpu", "x, y".into())], &["a", "b"]);
        record.push(vec!["1,5".into(), "say \"so\"".into()]);
        assert_eq!(
            record.text(),
            "# cpu: x, y\na,b\n\"1,5\",\"say \"\"so\"\"\"\n"
        );
    }
}
