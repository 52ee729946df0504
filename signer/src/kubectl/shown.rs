//! How results are shown: lines for people, one object for programs.

use serde_json::Value;

use super::args::Output;

/// What a command found out.
pub trait Shown {
    /// For people; with more columns where there is room for them.
    fn text(&self, wide: bool) -> String;

    /// For programs.
    fn to_json(&self) -> Value;

    /// The exit status of the command.
    fn exit_status(&self) -> u8;

    /// In the form that was asked for.
    ///
    /// # Errors
    /// When it cannot be written as YAML.
    fn shown(&self, output: Output) -> Result<String, serde_saphyr::SerializeError> {
        Ok(match output {
            Output::Text => self.text(false),
            Output::Wide => self.text(true),
            Output::Json => format!("{}\n", self.to_json()),
            Output::Yaml => serde_saphyr::to_string(&self.to_json())?,
        })
    }
}

/// Columns as wide as their longest word, as kubectl prints them. Nothing in them can move the cursor.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|&word| word.to_owned()).collect();
    let widths: Vec<usize> = (0..head.len())
        .map(|column| {
            let cells = rows.iter().chain([&head]).filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        })
        .collect();
    let mut text = String::new();
    for row in [&head].into_iter().chain(rows) {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{:width$}", plain(cell))).collect();
        text.push_str(cells.join("   ").trim_end());
        text.push('\n');
    }
    text
}

/// Whoever writes a pod must not write on the administrator's terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}

/// As kubectl writes an age.
pub(super) fn age(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7_200 => format!("{}m", seconds / 60),
        seconds @ 7_200..172_800 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other_and_hold_no_control_characters() {
        let rows = [
            vec!["a".to_owned(), "long one".to_owned(), "x\u{1b}[31m".to_owned()],
            vec!["bcd".to_owned(), "e".to_owned(), String::new()],
        ];
        assert_eq!(table(&["A", "B", "C"], &rows), "A     B          C\na     long one   x\u{fffd}[31m\nbcd   e\n");
    }

    #[test]
    fn ages_are_short() {
        assert_eq!([-5, 59, 150, 8_000, 200_000].map(age), ["0s", "59s", "2m", "2h", "2d"].map(str::to_owned));
    }
}
