//! The figures as bars, one panel for each of the three that people ask for first. A thin line spans what the rounds gave.

use std::fmt::Write as _;

use crate::FLOOR;
use crate::figures::{Figures, Line, short};
use crate::turn::{CPU, MEMORY, RATE};

/// An SVG.
pub(crate) fn draw(figures: &Figures, headline: &str) -> String {
    let panels = [
        ("answered in a second, in a burst", RATE, "/s"),
        ("CPU for each certificate", CPU, "ms"),
        ("peak memory of a process", MEMORY, "MiB"),
    ];
    let (mut body, mut top) = (String::new(), 60);
    for (title, figure, unit) in panels {
        let bars = bars(figures, figure);
        let longest = bars.iter().map(|bar| bar.most).fold(f64::MIN_POSITIVE, f64::max);
        let x = |value: f64| LEFT + value / longest * WIDTH;
        write!(body, r#"<text x="20" y="{top}" font-weight="bold">{title}</text>"#).expect("a string takes it");
        for (number, Bar { name, value, least, most }) in bars.iter().enumerate() {
            let y = top + 12 + ROW * number;
            let (middle, base) = (y + 8, y + 13);
            let (width, least, most) = (x(*value) - LEFT, x(*least), x(*most));
            let colour = if name.starts_with("ours") { "#1f6feb" } else { "#9aa4b2" };
            write!(
                body,
                r##"<text x="150" y="{base}" text-anchor="end">{name}</text><rect x="{LEFT}" y="{y}" width="{width:.1}" height="16" fill="{colour}"/><path d="M{least:.1} {middle}H{most:.1}" stroke="#24292f"/><text x="{:.1}" y="{base}">{} {unit}</text>"##,
                x(*value).max(most) + 8.0,
                short(*value),
            )
            .expect("a string takes it");
        }
        top += 50 + ROW * bars.len();
    }
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="720" height="{top}" font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="#ffffff"/><text x="20" y="28" font-size="14">{headline}</text>{body}</svg>"##
    )
}

/// One bar.
struct Bar {
    name: &'static str,
    value: f64,
    least: f64,
    most: f64,
}

/// What each program has of this figure; beside what a certificate costs, what the cryptography alone does.
fn bars(figures: &Figures, figure: &str) -> Vec<Bar> {
    let bar = |line: &Line| {
        let (least, most) = line.spread();
        Bar { name: line.program, value: line.value, least, most }
    };
    let mut bars: Vec<Bar> = figures.of(figure).iter().map(bar).collect();
    if figure == CPU {
        bars.extend(figures.of(FLOOR).iter().map(|line| Bar { name: "floor", ..bar(line) }));
    }
    bars
}

const ROW: usize = 22;
const LEFT: f64 = 160.0;
const WIDTH: f64 = 420.0;
