//! What commands print: JSON for programs, short aligned tables for people, colour on a terminal only.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use anstyle::{AnsiColor, Style};
use serde_json::{Value, json};

use crate::failure::{Code, Failure};

/// A column of a table: its heading and the field it shows.
pub type Column = (&'static str, &'static str);

/// How to print.
#[derive(Debug)]
pub struct Output {
    json: bool,
    /// The first error of writing to standard output.
    unwritten: OnceLock<io::Error>,
}

/// A good, doubtful or bad word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Worth a look.
    Doubtful,
    /// Wrong.
    Bad,
}

impl Output {
    /// JSON or text.
    #[must_use]
    pub const fn new(json: bool) -> Self {
        Self { json, unwritten: OnceLock::new() }
    }

    /// Whether programs read this.
    #[must_use]
    pub const fn is_json(&self) -> bool {
        self.json
    }

    /// Prints an error on standard error.
    pub fn failure(&self, failure: &Failure) {
        let mut stderr = io::stderr().lock();
        // Nothing is left to do about a standard error that is closed.
        let _ = if self.json {
            let body =
                json!({ "error": { "code": failure.code, "detail": failure.detail, "fix": failure.fix } });
            writeln!(stderr, "{body}")
        } else {
            let terminal = io::stderr().is_terminal();
            let red = paint(terminal, Style::new().bold().fg_color(Some(AnsiColor::Red.into())));
            let bold = paint(terminal, Style::new().bold());
            writeln!(stderr, "{red}error:{red:#} {}\n  {bold}fix:{bold:#} {}", failure.detail, failure.fix)
        };
    }

    /// Prints a line for people; nothing in JSON.
    pub fn say(&self, line: &str) {
        if !self.json {
            self.raw(&format!("{line}\n"));
        }
    }

    /// Prints text as it is.
    pub fn raw(&self, text: &str) {
        let mut stdout = io::stdout().lock();
        if let Err(error) = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            // The first one is kept: it says why.
            let _ = self.unwritten.set(error);
        }
    }

    /// Whether everything was written.
    ///
    /// # Errors
    /// [`Code::System`] if not, unless the reader left (`| head`): it wants no more.
    pub fn written(&self) -> Result<(), Failure> {
        match self.unwritten.get() {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(
                Code::System,
                format!("what was to be printed can't be written: {error}"),
                "check where standard output goes; what the command did stays done",
            )),
            _ => Ok(()),
        }
    }

    /// Prints one object.
    pub fn show(&self, object: &Value) {
        if self.json {
            self.raw(&format!("{object}\n"));
            return;
        }
        let Some(fields) = object.as_object() else { return };
        let width = fields.keys().map(|key| key.len()).max().unwrap_or(0);
        let bold = paint(io::stdout().is_terminal(), Style::new().bold());
        let mut text = String::new();
        for (key, value) in fields {
            let shown = match value {
                Value::Null => continue,
                Value::Array(items) if items.iter().any(Value::is_object) => {
                    items.iter().map(|item| format!("\n  {item}")).collect::<String>()
                }
                Value::String(block) if block.contains('\n') => format!("\n{}", block.trim_end()),
                value => plain(value),
            };
            let key = key.replace('_', " ");
            text.push_str(&format!("{bold}{key:width$}{bold:#}  {shown}\n"));
        }
        self.raw(&text);
    }

    /// Prints a list.
    pub fn list(&self, rows: &[Value], columns: &[Column], none: &str) {
        if self.json {
            self.raw(&format!("{}\n", Value::Array(rows.to_vec())));
            return;
        }
        if rows.is_empty() {
            self.raw(&format!("{none}\n"));
            return;
        }
        let cell = |row: &Value, field: &str| row.get(field).map(plain).unwrap_or_default();
        let widths: Vec<usize> = columns
            .iter()
            .map(|(heading, field)| {
                rows.iter().map(|row| cell(row, field).chars().count()).max().unwrap_or(0).max(heading.len())
            })
            .collect();
        let bold = paint(io::stdout().is_terminal(), Style::new().bold());
        let mut text = format!("{bold}");
        let headings: Vec<String> = columns.iter().map(|(heading, _)| (*heading).to_owned()).collect();
        text.push_str(&aligned(&headings, &widths));
        text.push_str(&format!("{bold:#}"));
        for row in rows {
            let cells: Vec<String> = columns.iter().map(|(_, field)| cell(row, field)).collect();
            text.push_str(&aligned(&cells, &widths));
        }
        self.raw(&text);
    }

    /// A word in the colour of its tone, where standard output is a terminal.
    #[must_use]
    pub fn toned(&self, word: &str, tone: Tone) -> String {
        let colour = match tone {
            Tone::Good => AnsiColor::Green,
            Tone::Doubtful => AnsiColor::Yellow,
            Tone::Bad => AnsiColor::Red,
        };
        let style = paint(io::stdout().is_terminal(), Style::new().bold().fg_color(Some(colour.into())));
        format!("{style}{word}{style:#}")
    }
}

/// The style on a terminal that wants it, none elsewhere (<https://no-color.org>).
fn paint(terminal: bool, style: Style) -> Style {
    if terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) {
        style
    } else {
        Style::new()
    }
}

fn aligned(cells: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        line.push_str(cell);
        line.push_str(&" ".repeat(width.saturating_sub(cell.chars().count()) + 2));
    }
    format!("{}\n", line.trim_end())
}

/// A value in a table's cell. Control characters in what clients sent never reach a terminal.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text
            .chars()
            .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
            .collect(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_hold_no_control_characters() {
        assert_eq!(plain(&json!("a\u{1b}[31mb")), "a\\u{1b}[31mb");
        assert_eq!(plain(&json!(["a", "b"])), "a, b");
    }

    #[test]
    fn columns_are_aligned() {
        let line = aligned(&["a".to_owned(), "b".to_owned()], &[3, 1]);
        assert_eq!(line, "a    b\n");
    }
}
