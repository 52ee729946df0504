//! What was measured, by program: the median of all rounds, with the least and the most.

use serde_json::{Value, json};

/// All figures, in the order in which they came first.
#[derive(Default)]
pub(crate) struct Figures(Vec<Row>);

struct Row {
    program: &'static str,
    figure: &'static str,
    unit: &'static str,
    aim: Option<f64>,
    rounds: Vec<f64>,
}

impl Figures {
    /// Notes what one round gave.
    pub(crate) fn add(
        &mut self,
        program: &'static str,
        figure: &'static str,
        value: f64,
        unit: &'static str,
        aim: Option<f64>,
    ) {
        eprintln!("  {program}: {figure} {value:.2} {unit}");
        let known = self.0.iter_mut().find(|row| row.program == program && row.figure == figure);
        match known {
            Some(row) => row.rounds.push(value),
            None => self.0.push(Row { program, figure, unit, aim, rounds: vec![value] }),
        }
    }

    /// What each program has of this figure.
    pub(crate) fn medians(&self, figure: &str) -> Vec<(&'static str, f64)> {
        self.0.iter().filter(|row| row.figure == figure).map(|row| (row.program, row.spread().0)).collect()
    }

    /// A table for people.
    pub(crate) fn table(&self) -> String {
        let mut table = String::new();
        for row in &self.0 {
            let (median, least, most) = row.spread();
            let aim = row.aim.map_or(String::new(), |aim| format!("aim {aim}"));
            let spread = if row.rounds.len() > 1 { format!("{least:.2} to {most:.2}") } else { String::new() };
            table +=
                &format!("{:<17} {:<44} {median:>9.2} {:<4} {spread:<22} {aim}\n", row.program, row.figure, row.unit);
        }
        table
    }

    /// One line for machines.
    pub(crate) fn json(&self) -> Value {
        let entry = |row: &Row| {
            let (median, least, most) = row.spread();
            let Row { program, figure, unit, aim, rounds } = row;
            json!({"program": program, "figure": figure, "unit": unit, "aim": aim, "median": median, "least": least, "most": most, "rounds": rounds})
        };
        self.0.iter().map(entry).collect()
    }
}

impl Row {
    fn spread(&self) -> (f64, f64, f64) {
        let mut sorted = self.rounds.clone();
        sorted.sort_by(f64::total_cmp);
        (sorted[sorted.len() / 2], sorted[0], sorted[sorted.len() - 1])
    }
}
