//! What was measured, by program: the median of all rounds, with the least and the most that one of them gave. Of waits it is a
//! percentile of all rounds together, for one round alone may have too few.

use serde_json::{Value, json};

use crate::waited::{Percentile, Waited};

/// All figures, in the order in which they came first.
#[derive(Default)]
pub(crate) struct Figures(Vec<Row>);

struct Row {
    program: &'static str,
    figure: String,
    found: Found,
}

/// What each round gave.
enum Found {
    Values {
        unit: &'static str,
        aim: Option<f64>,
        rounds: Vec<f64>,
    },
    Waits {
        has_aims: bool,
        rounds: Vec<Waited>,
    },
    /// Waits before those that they are compared with.
    Compared {
        aim: Option<f64>,
        rounds: Vec<(Waited, Waited)>,
    },
}

/// One figure of one program as it is told.
pub(crate) struct Line {
    pub(crate) program: &'static str,
    pub(crate) figure: String,
    unit: &'static str,
    aim: Option<f64>,
    pub(crate) value: f64,
    rounds: Vec<f64>,
}

impl Figures {
    /// Notes what one round gave.
    pub(crate) fn add(
        &mut self,
        program: &'static str,
        figure: &str,
        value: f64,
        unit: &'static str,
        aim: Option<f64>,
    ) {
        eprintln!("  {program}: {figure} {value:.2} {unit}");
        let none = Found::Values { unit, aim, rounds: Vec::new() };
        if let Found::Values { rounds, .. } = self.found(program, figure, none) {
            rounds.push(value);
        }
    }

    /// Notes how long requests waited in one round.
    pub(crate) fn add_waits(&mut self, program: &'static str, figure: &str, waited: Waited, has_aims: bool) {
        for percentile in waited.told() {
            eprintln!("  {program}: {figure}, {} {:.2} ms", percentile.name(), waited.at(percentile));
        }
        if let Found::Waits { rounds, .. } = self.found(program, figure, Found::Waits { has_aims, rounds: Vec::new() })
        {
            rounds.push(waited);
        }
    }

    /// Notes how long requests waited in one round, to be told as so many times what others did.
    pub(crate) fn add_compared(
        &mut self,
        program: &'static str,
        figure: &str,
        waited: (Waited, Waited),
        aim: Option<f64>,
    ) {
        if let Found::Compared { rounds, .. } = self.found(program, figure, Found::Compared { aim, rounds: Vec::new() })
        {
            rounds.push(waited);
        }
    }

    fn found(&mut self, program: &'static str, figure: &str, none: Found) -> &mut Found {
        let known = self.0.iter().position(|row| row.program == program && row.figure == figure);
        let place = known.unwrap_or_else(|| {
            self.0.push(Row { program, figure: figure.to_owned(), found: none });
            self.0.len() - 1
        });
        &mut self.0[place].found
    }

    /// What each program has of this figure.
    pub(crate) fn of(&self, figure: &str) -> Vec<Line> {
        self.lines().into_iter().filter(|line| line.figure == figure).collect()
    }

    /// A table for people: a line for each figure, a column for each program.
    pub(crate) fn table(&self) -> String {
        let lines = self.lines();
        let programs = programs(&lines);
        let mut table = row("", "", programs.iter().copied(), "aim");
        for figure in order(&lines) {
            let cells: Vec<_> = lines.iter().filter(|line| line.figure == figure).collect();
            let cell = |program: &&str| cells.iter().find(|line| line.program == *program).map(|line| line.cell());
            let aim = cells.iter().find_map(|line| line.aim).map(|aim| aim.to_string());
            let cells_of_all = programs.iter().map(|program| cell(program).unwrap_or_default());
            table += &row(figure, cells[0].unit, cells_of_all, &aim.unwrap_or_default());
        }
        table
    }

    /// For machines.
    pub(crate) fn json(&self) -> Value {
        let entry = |line: Line| {
            let (least, most) = line.spread();
            let Line { program, figure, unit, aim, value, rounds } = line;
            json!({"program": program, "figure": figure, "unit": unit, "aim": aim, "value": value, "least": least, "most": most, "rounds": rounds})
        };
        self.lines().into_iter().map(entry).collect()
    }

    fn lines(&self) -> Vec<Line> {
        self.0.iter().flat_map(Row::lines).collect()
    }
}

impl Row {
    fn lines(&self) -> Vec<Line> {
        match &self.found {
            Found::Values { unit, aim, rounds } => {
                vec![self.line(self.figure.clone(), unit, *aim, median(rounds), rounds.clone())]
            }
            Found::Waits { has_aims, rounds } => {
                let all = Waited::together(rounds);
                let line = |percentile: Percentile| {
                    let figure = format!("{}, {}", self.figure, percentile.name());
                    let aim = percentile.aim().filter(|_| *has_aims);
                    let of_each = rounds.iter().map(|round| round.at(percentile)).collect();
                    self.line(figure, "ms", aim, all.at(percentile), of_each)
                };
                all.told().into_iter().map(line).collect()
            }
            Found::Compared { aim, rounds } => {
                let (these, others): (Vec<_>, Vec<_>) = rounds.iter().cloned().unzip();
                let (all, all_others) = (Waited::together(&these), Waited::together(&others));
                let tail = all.tail();
                let figure = format!("{}, by {}", self.figure, tail.name());
                let of_each = rounds.iter().map(|(these, others)| these.at(tail) / others.at(tail)).collect();
                vec![self.line(figure, "x", *aim, all.at(tail) / all_others.at(tail), of_each)]
            }
        }
    }

    fn line(&self, figure: String, unit: &'static str, aim: Option<f64>, value: f64, rounds: Vec<f64>) -> Line {
        Line { program: self.program, figure, unit, aim, value, rounds }
    }
}

impl Line {
    /// The least and the most that a round gave.
    pub(crate) fn spread(&self) -> (f64, f64) {
        let rounds = || self.rounds.iter().copied();
        (rounds().fold(f64::INFINITY, f64::min), rounds().fold(f64::NEG_INFINITY, f64::max))
    }

    fn cell(&self) -> String {
        let (least, most) = self.spread();
        let (value, least, most) = (short(self.value), short(least), short(most));
        if least == most { value } else { format!("{value} ({least}–{most})") }
    }
}

fn row(figure: &str, unit: &str, cells: impl Iterator<Item = impl AsRef<str>>, aim: &str) -> String {
    let cells: String = cells.map(|cell| format!("{:<CELL$} ", cell.as_ref())).collect();
    format!("{figure:<FIGURE$} {unit:<4} {cells}{aim}").trim_end().to_owned() + "\n"
}

/// In the order in which they came first.
fn programs(lines: &[Line]) -> Vec<&'static str> {
    let mut programs = Vec::new();
    for line in lines {
        if !programs.contains(&line.program) {
            programs.push(line.program);
        }
    }
    programs
}

/// All figures in an order that fits each program's. What only one has comes after what it has before that.
fn order(lines: &[Line]) -> Vec<&str> {
    let mut order: Vec<&str> = Vec::new();
    for program in programs(lines) {
        let mut next = 0;
        for line in lines.iter().filter(|line| line.program == program) {
            let known = order.iter().position(|figure| *figure == line.figure);
            let place = known.unwrap_or_else(|| {
                order.insert(next, &line.figure);
                next
            });
            next = next.max(place + 1);
        }
    }
    order
}

/// The middle one, or between the middle two.
fn median(rounds: &[f64]) -> f64 {
    let mut sorted = rounds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (below, above) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
    f64::midpoint(below, above)
}

/// With as many digits as can be compared at a glance.
pub(crate) fn short(value: f64) -> String {
    let digits = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.digits$}")
}

/// Widths, in characters.
const FIGURE: usize = 46;
const CELL: usize = 20;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Figures, Waited, median, short};

    #[test]
    fn the_median_of_two_is_neither() {
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[3.0, 1.0]), 2.0);
        assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[9.0, 1.0, 2.0, 4.0]), 3.0);
    }

    #[test]
    fn numbers_are_as_long_as_they_can_be_compared() {
        assert_eq!(
            [0.083, 9.994, 9.996, 99.94, 99.96, 1564.4].map(short),
            ["0.08", "9.99", "10.0", "99.9", "100", "1564"]
        );
    }

    #[test]
    fn a_line_has_all_programs_and_says_how_far_rounds_differ() {
        let mut figures = Figures::default();
        figures.add("null", "answered", 100.0, "/s", None);
        figures.add("null", "memory", 13.0, "MiB", None);
        figures.add("ours", "answered", 70.0, "/s", None);
        figures.add("ours", "share", 0.7, "", Some(0.95));
        figures.add("ours", "memory", 14.0, "MiB", Some(32.0));
        figures.add("ours", "answered", 90.0, "/s", None);
        figures.add("ours", "size", 11.0, "MB", None);
        let table = figures.table();
        let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[0], ["null", "ours", "aim"]);
        assert_eq!(words[1], ["answered", "/s", "100", "80.0", "(70.0–90.0)"]);
        assert_eq!(words[2], ["share", "0.70", "0.95"]);
        assert_eq!(words[3], ["memory", "MiB", "13.0", "14.0", "32"]);
        assert_eq!(words[4], ["size", "MB", "11.0"]);
    }

    #[test]
    fn waits_of_rounds_that_are_too_few_each_are_told_together() {
        let mut figures = Figures::default();
        figures.add_waits("ours", "waited", waits(1), true);
        assert_eq!(named(&figures), ["waited, p50", "waited, p90", "waited, longest"]);
        figures.add_waits("ours", "waited", waits(1001), true);
        assert_eq!(named(&figures), ["waited, p50", "waited, p99", "waited, longest"]);
        let tail = &figures.lines()[1];
        assert_eq!((tail.value, tail.spread(), tail.aim), (1196.0, (198.0, 1198.0), Some(80.0)));
    }

    #[test]
    fn waits_are_compared_over_all_rounds() {
        let mut figures = Figures::default();
        figures.add_compared("ours", "to alone", (waits(201), waits(1)), Some(2.0));
        figures.add_compared("ours", "to alone", (waits(201), waits(1)), Some(2.0));
        let line = &figures.lines()[0];
        assert_eq!((line.figure.as_str(), line.value, line.aim), ("to alone, by p99", 398.0 / 198.0, Some(2.0)));
    }

    /// Two hundred, beginning with this one.
    fn waits(first: u64) -> Waited {
        Waited::of((first..first + 200).map(Duration::from_millis))
    }

    fn named(figures: &Figures) -> Vec<String> {
        figures.lines().into_iter().map(|line| line.figure).collect()
    }
}
